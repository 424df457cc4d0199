"""Bad input, each ending in a clear condition that names what is wrong; then the remedy, and it heals. Nothing earlier is lost."""

import base64
import json
import os
import sys
import time

from onnx import TensorProto, helper

from kube import Failed, Namespace, condition, kubectl, say, wait
from store import Store, digest

NS = Namespace("bad-input")
TRAINER = os.environ["TRAINER_IMAGE"]
GOOD_CSV = "id,x,late\n" + "".join(f"r{i},{i / 7:.3f},{i % 2}\n" for i in range(400))
# Datasets whose file is bad, each in a folder of its name.
REPLACED = ("malformed", "empty", "mismatch")


def dataset(name, key, secret="", extra="", bucket="millrace-bad-input"):
    credentials = f"credentials: {{secretName: {secret}}}" if secret else ""
    return f"""
apiVersion: millrace.dev/v1alpha1
kind: Dataset
metadata: {{name: {name}}}
spec:
  source:
    files:
      uri: s3://{bucket}/{key}
      format: CSV
      {credentials}
  schema:
    fields:
      - {{name: id, type: String, role: Id}}
      - {{name: x, type: Number}}
      - {{name: late, type: Integer, role: Label}}
  {extra}
"""


def job(name, dataset_name, trainer, model="bad"):
    return f"""
apiVersion: millrace.dev/v1alpha1
kind: TrainingJob
metadata: {{name: {name}}}
spec:
  model: {model}
  dataset: {{name: {dataset_name}}}
  trainer: {trainer}
  restarts: {{max: 0}}
  modelVersion: {{task: Classification}}
"""


def version(number, uri, model_digest):
    return f"""
apiVersion: millrace.dev/v1alpha1
kind: ModelVersion
metadata: {{name: bad-{number}}}
spec:
  model: bad
  version: {number}
  artifact: {{uri: "{uri}", digest: "{model_digest}"}}
  source: {{external: {{origin: a test}}}}
  evaluation: {{dataset: good, task: Classification}}
"""


def ends_in(kind, name, reasons, words, deadline=120):
    """Waits until Ready is False with one of these reasons and the words in its message."""
    def look():
        status, reason, message = condition(NS.get(kind, name), "Ready")
        return status == "False" and reason in reasons and all(word in message for word in words) and (reason, message)
    reason, message = wait(f"{kind} {name}", look, deadline, lambda: " ".join(condition(NS.get(kind, name), "Ready")))
    say(f"    {reason}: {message}")


def heals(kind, name, deadline=120):
    wait(f"{kind} {name} heals", lambda: condition(NS.get(kind, name), "Ready")[0] == "True", deadline,
         lambda: " ".join(condition(NS.get(kind, name), "Ready")))


def classifier(nodes, constants):
    """A model of one number with two classes; the nodes make `late`, the probability of class 1, of the input X."""
    graph = helper.make_graph(
        [*nodes, helper.make_node("Sub", ["one", "late"], ["not_late"]), helper.make_node("Concat", ["not_late", "late"], ["probabilities"], axis=1),
         helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0)],
        "classifier", [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("label", TensorProto.INT64, [None]), helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor(name, TensorProto.FLOAT, [1], [value]) for name, value in {"one": 1.0, **constants}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def good_model():
    return classifier([helper.make_node("Sigmoid", ["X"], ["late"])], {})


def nan_model():
    """Its probabilities are not numbers."""
    nodes = [helper.make_node("Log", ["minus"], ["nan"]), helper.make_node("Mul", ["X", "zero"], ["zeros"]), helper.make_node("Add", ["zeros", "nan"], ["late"])]
    return classifier(nodes, {"minus": -1.0, "zero": 0.0})


def good_trainer():
    """Leaves a model that is one, and learns nothing."""
    model = base64.b64encode(good_model()).decode()
    script = f"import base64, pathlib; pathlib.Path('/millrace/output/model.onnx').write_bytes(base64.b64decode('{model}'))"
    return json.dumps({"image": TRAINER, "args": ["-c", script]})


# -- what is bad: all of it first, so that everything is at work while one condition after another is awaited ----------------------------------


def bad_datasets(store):
    blocked = "expectations: [{name: column_values_to_be_between, column: x, min: 0, max: 10}]"
    store.put("malformed/a.csv", b"id,x,late\nr1,0.5,1\nr2,0.5\nr3,0.5,1,9,9\n")
    store.put("empty/a.csv", b"")
    store.put("mismatch/a.csv", b"id,z,late\nr1,0.5,1\n")
    store.put("blocked/a.csv", GOOD_CSV.encode())
    NS.apply(dataset("missing", "nothing/"))
    NS.apply(dataset("bucketless", "data/", bucket="there-is-no-bucket"))
    NS.apply(dataset("secretless", "good/", secret="lake"))
    NS.apply(dataset("blocked", "blocked/", extra=blocked))
    for name in REPLACED:
        NS.apply(dataset(name, f"{name}/"))


def bad_jobs():
    NS.apply(job("no-dataset", "later", good_trainer(), "healed"))
    NS.apply(job("no-image", "good", "{image: localhost/there-is-none:1}", "healed"))
    NS.apply(job("no-model", "good", f"{{image: {TRAINER}, args: ['-c', 'print(1)']}}"))
    NS.apply(job("too-many-gpus", "good", f"{{image: {TRAINER}, gpu: {{count: 16}}}}"))


def bad_versions(store):
    nan = nan_model()
    nan_uri = store.put("models/nan.onnx", nan)
    truncated = store.put("models/truncated.onnx", nan[: len(nan) // 2])
    NS.apply(version(1, nan_uri, digest(b"another file")))
    NS.apply(version(2, truncated, digest(nan[: len(nan) // 2])))
    NS.apply(version(3, "s3://millrace-bad-input/models/none.onnx", digest(good_model())))
    NS.apply(version(4, nan_uri, digest(nan)))


# -- what is said of it ------------------------------------------------------------------------------------------------------------------------


def conditions():
    say("datasets")
    ends_in("dataset", "missing", ["SourceNotFound"], ["nothing"])
    ends_in("dataset", "bucketless", ["SourceNotFound", "AccessDenied"], ["there-is-no-bucket"])
    ends_in("dataset", "secretless", ["SecretNotFound", "SecretMissing", "CreateContainerConfigError"], ["lake"])
    ends_in("dataset", "malformed", ["MalformedSource", "SchemaMismatch"], [])
    ends_in("dataset", "empty", ["EmptySource", "MalformedSource"], [])
    ends_in("dataset", "mismatch", ["SchemaMismatch"], ["x"])
    ends_in("dataset", "blocked", ["ExpectationsNotMet", "ExpectationsFailed"], ["x"])
    say("training jobs")
    ends_in("trainingjob", "no-dataset", ["DatasetNotFound"], ["later"])
    ends_in("trainingjob", "no-image", ["ImagePullFailed", "ImagePullBackOff", "ErrImagePull"], ["there-is-none"])
    ends_in("trainingjob", "too-many-gpus", ["Unschedulable"], ["16", "nvidia.com/gpu"])
    ends_in("trainingjob", "no-model", ["TrainerLeftNoModel"], ["model.onnx"])
    say("model versions")
    ends_in("modelversion", "bad-1", ["DigestMismatch"], ["sha256:"])
    ends_in("modelversion", "bad-2", ["InvalidModel"], [])
    ends_in("modelversion", "bad-3", ["SourceNotFound", "ArtifactNotFound"], ["none.onnx"])
    ends_in("modelversion", "bad-4", ["EvaluationFailed"], ["NaN"])


# -- and the remedies --------------------------------------------------------------------------------------------------------------------------


def mend_datasets(store):
    """What lay there badly is replaced, and looked at again; the others go on by themselves."""
    for name in REPLACED:
        store.put(f"{name}/a.csv", GOOD_CSV.encode())
        kubectl("annotate", "dataset", name, f"millrace.dev/refresh={int(time.time())}", "--overwrite", namespace=NS.name)
    store.put("nothing/a.csv", GOOD_CSV.encode())
    secret = NS.get("secret", "millrace-store")
    NS.apply(f"""
apiVersion: v1
kind: Secret
metadata: {{name: lake}}
data: {{{", ".join(f"{k}: {v}" for k, v in secret["data"].items() if k != "url")}}}
""")
    NS.apply(dataset("bucketless", "good/"))
    NS.apply(dataset("blocked", "blocked/"))


def mend_jobs():
    """The Dataset appears. A job that has started is not changed, but made anew."""
    NS.apply(dataset("later", "good/"))
    corrected = job("no-image", "good", good_trainer(), "healed")
    try:
        NS.apply(corrected)
    except Failed as error:
        if "make a new TrainingJob" not in str(error):
            raise
        say("  refused: another image for a job that has started")
    else:
        raise Failed("the image of a job that has started could be changed, expected a refusal that asks for a new TrainingJob")
    kubectl("delete", "trainingjob", "no-image", namespace=NS.name)
    NS.apply(corrected)


def main():
    store = Store(NS)
    store.put("good/a.csv", GOOD_CSV.encode())
    NS.apply(dataset("good", "good/"))
    heals("dataset", "good")
    bad_datasets(store)
    bad_jobs()
    bad_versions(store)
    conditions()
    say("each heals")
    mend_datasets(store)
    mend_jobs()
    store.put("models/none.onnx", good_model())
    for name in ("missing", "bucketless", "secretless", "blocked", *REPLACED):
        heals("dataset", name)
    for name in ("no-dataset", "no-image"):
        heals("trainingjob", name)
    heals("modelversion", "bad-3")
    if condition(NS.get("dataset", "good"), "Ready")[0] != "True":
        sys.exit("the good dataset is no longer Ready")


if __name__ == "__main__":
    main()
