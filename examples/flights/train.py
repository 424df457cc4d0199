"""Trains a classifier on a dataset version of Millrace and leaves it as ONNX.

Everything a trainer needs is in files: nothing of Millrace is imported. Reads /millrace/data, /millrace/hyperparameters.json and
/millrace/checkpoint; writes /millrace/output/model.onnx, metrics.jsonl and checkpoints.
"""

import json
import os
import pathlib
import sys
import time

import joblib
import numpy as np
import pandas as pd
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

STEPS = 4


def columns(manifest):
    """Names of the features, in schema order, and of the label."""
    fields = manifest["schema"]["fields"]
    features = [field["name"] for field in fields if field.get("role", "Feature") == "Feature"]
    labels = [field["name"] for field in fields if field.get("role") == "Label"]
    if len(labels) != 1:
        sys.exit("the dataset needs exactly one field with role Label")
    return features, labels[0]


def load(folder, split, features, label):
    parts = sorted((folder / split).glob("part-*.parquet"))
    frame = pd.concat([pd.read_parquet(part) for part in parts])
    return frame[features].to_numpy(np.float32), frame[label].to_numpy(np.int64)


def fit(hyperparameters, x, y, validation, folder, tell):
    """Fits in a few steps; each leaves a checkpoint from which a later attempt goes on."""
    if hyperparameters.get("algorithm", "boosting") == "logistic":
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(x, y)
        tell(1, 100, model)
        return model
    iterations = int(hyperparameters.get("iterations", 80))
    kept = folder / "checkpoint" / "model.joblib"
    start, model = joblib.load(kept) if kept.exists() else (0, None)
    if model is None:
        model = GradientBoostingClassifier(
            max_depth=4, warm_start=True, random_state=0, learning_rate=float(hyperparameters.get("learning_rate", 0.1))
        )
    for step in range(start, STEPS):
        model.set_params(n_estimators=iterations * (step + 1) // STEPS)
        model.fit(x, y)
        partial = kept.with_suffix(".partial")
        joblib.dump((step + 1, model), partial)
        partial.rename(kept)
        tell(step + 1, 100 * (step + 1) // STEPS, model)
        time.sleep(float(hyperparameters.get("pause_seconds", 0)))
    return model


def main(root="/millrace"):
    folder = pathlib.Path(root)
    manifest = json.loads((folder / "data" / "manifest.json").read_text())
    hyperparameters = json.loads((folder / "hyperparameters.json").read_text())
    features, label = columns(manifest)
    x, y = load(folder / "data", "train", features, label)
    validation = load(folder / "data", "validation", features, label)
    print(f"training on {len(x)} rows of {manifest['contentDigest']} with {hyperparameters}", flush=True)
    output = folder / "output"
    output.mkdir(exist_ok=True)

    def tell(step, percent, model):
        loss = log_loss(validation[1], model.predict_proba(validation[0])[:, 1])
        line = {"step": step, "percent": percent, "validation_log_loss": round(float(loss), 6)}
        with open(output / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)

    model = fit(hyperparameters, x, y, validation, folder, tell)
    onnx = to_onnx(model, x[:1], options={"zipmap": False}, target_opset=18)
    partial = output / "model.onnx.partial"
    partial.write_bytes(onnx.SerializeToString())
    partial.rename(output / "model.onnx")
    return model


if __name__ == "__main__":
    main(os.environ.get("MILLRACE_ROOT", "/millrace"))
