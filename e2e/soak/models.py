"""The five models of the soak, real ONNX files made from a little data of its own: two good ones whose answers differ a little, and three that pass
their gate and fail in traffic (those of the demo)."""

import json

import numpy as np
import onnx
import onnxruntime
import pandas as pd
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import bad_models

FEATURES = ["delay", "distance", "hour", "temp"]  # distance must be the second: the bad models look at it
GOOD = ("first", "second")
BAD = {"fails": bad_models.fails_on_some_inputs, "slow": lambda data: bad_models.slow(data, trips=4000),
       "out-of-memory": bad_models.kills_its_pod}
ROWS, LIVE_ROWS, FAR_SHARE = 3000, 400, 0.03


def table(rows, seed, furthest=3000):
    """Made up: who leaves late arrives late."""
    chance = np.random.default_rng(seed)
    delay, distance = chance.gamma(1.2, 15, rows) - 10, chance.uniform(100, furthest, rows)
    hour, temp = chance.integers(0, 24, rows), chance.normal(50, 18, rows)
    late = (delay + 0.3 * hour + chance.normal(0, 8, rows) > 15).astype(int)
    return pd.DataFrame({"id": [f"r{number}" for number in range(rows)], "delay": delay, "distance": distance, "hour": hour.astype(float),
                         "temp": temp, "late": late})


def csv():
    return table(ROWS, 1).to_csv(index=False, float_format="%.4f").encode()


def make():
    """The files of all five, by name."""
    files = {}
    for name, rows in zip(GOOD, (slice(0, ROWS * 2 // 3), slice(ROWS // 3, ROWS))):
        part = table(ROWS, 1)[rows]
        x = part[FEATURES].to_numpy(np.float32)
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, part["late"])
        files[name] = to_onnx(model, x[:1], options={"zipmap": False}, target_opset=18).SerializeToString()
    return files | {name: make_bad(files["first"]) for name, make_bad in BAD.items()}


def marked(data, number):
    """The same model in a file, and so with a digest, of its own."""
    model = onnx.load_from_string(data)
    model.metadata_props.add(key="soak", value=str(number))
    return model.SerializeToString()


def probabilities(data, rows):
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {session.get_inputs()[0].name: rows})[0][:, 1]


def live_rows(files, path):
    """Writes the rows that clients send, each with the right answers. Some are of flights further than any in the dataset: on those the bad models fail."""
    near, far = table(LIVE_ROWS, 2), table(int(LIVE_ROWS * FAR_SHARE), 3)
    far["distance"] = 4500.0
    rows = pd.concat([near, far])[FEATURES].round(3).to_numpy(np.float32)
    right = [probabilities(files[name], rows) for name in GOOD]
    told = [{"row": [float(value) for value in row], "right": sorted({float(answers[place]) for answers in right})} for place, row in enumerate(rows)]
    path.write_text(json.dumps(told))
