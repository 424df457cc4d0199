"""Bad input, each ending in a clear condition that names what is wrong; then the remedy, and it heals. Nothing earlier is lost."""

import io
import os
import sys

import onnx
from onnx import TensorProto, helper

from kube import Namespace, condition, kubectl, say, wait
from store import Store, digest

NS = Namespace("bad-input")
TRAINER = os.environ["TRAINER_IMAGE"]
GOOD_CSV = "id,x,late\n" + "".join(f"r{i},{i / 7:.3f},{i % 2}\n" for i in range(400))


def dataset(name, key, secret="", extra=""):
    credentials = f"credentials: {{secretName: {secret}}}" if secret else ""
    return f"""
apiVersion: millrace.dev/v1alpha1
kind: Dataset
metadata: {{name: {name}}}
spec:
  source:
    files:
      uri: s3://millrace-bad-input/{key}
      format: CSV
      {credentials}
  schema:
    fields:
      - {{name: id, type: String, role: Id}}
      - {{name: x, type: Number}}
      - {{name: late, type: Integer, role: Label}}
  {extra}
"""


def job(name, dataset_name, trainer):
    return f"""
apiVersion: millrace.dev/v1alpha1
kind: TrainingJob
metadata: {{name: {name}}}
spec:
  model: bad
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


def nan_model():
    """A classifier whose probabilities are not numbers."""
    graph = helper.make_graph(
        [helper.make_node("Log", ["minus"], ["nan"]), helper.make_node("Mul", ["X", "zero"], ["zeros"]),
         helper.make_node("Add", ["zeros", "nan"], ["one"]), helper.make_node("Concat", ["one", "one"], ["probabilities"], axis=1),
         helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0)],
        "nan", [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("label", TensorProto.INT64, [None]), helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor("minus", TensorProto.FLOAT, [1], [-1.0]), helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def datasets(store):
    say("datasets")
    NS.apply(dataset("missing", "nothing/"))
    NS.apply(dataset("secretless", "good/", secret="lake"))
    store.put("malformed/a.csv", b"id,x,late\nr1,0.5,1\nr2,0.5\nr3,0.5,1,9,9\n")
    NS.apply(dataset("malformed", "malformed/"))
    store.put("empty/a.csv", b"")
    NS.apply(dataset("empty", "empty/"))
    store.put("mismatch/a.csv", b"id,z,late\nr1,0.5,1\n")
    NS.apply(dataset("mismatch", "mismatch/"))
    blocked = "expectations: [{name: column_values_to_be_between, column: x, min: 0, max: 10}]"
    store.put("blocked/a.csv", GOOD_CSV.encode())
    NS.apply(dataset("blocked", "blocked/", extra=blocked))
    ends_in("dataset", "missing", ["SourceNotFound"], ["nothing"])
    ends_in("dataset", "secretless", ["SecretNotFound", "SecretMissing", "CreateContainerConfigError"], ["lake"])
    ends_in("dataset", "malformed", ["MalformedSource", "SchemaMismatch"], [])
    ends_in("dataset", "empty", ["EmptySource", "MalformedSource"], [])
    ends_in("dataset", "mismatch", ["SchemaMismatch"], ["x"])
    ends_in("dataset", "blocked", ["ExpectationsNotMet", "ExpectationsFailed"], ["x"])
    say("each heals")
    store.put("nothing/a.csv", GOOD_CSV.encode())
    secret = NS.get("secret", "millrace-store")
    NS.apply(f"""
apiVersion: v1
kind: Secret
metadata: {{name: lake}}
data: {{{", ".join(f"{k}: {v}" for k, v in secret["data"].items() if k != "url")}}}
""")
    NS.apply(dataset("blocked", "blocked/"))
    for name in ("missing", "secretless", "blocked"):
        heals("dataset", name)


def jobs(store):
    say("training jobs")
    NS.apply(job("no-dataset", "later", f"{{image: {TRAINER}, args: ['-c', 'pass']}}"))
    NS.apply(job("no-image", "good", "{image: localhost/there-is-none:1}"))
    NS.apply(job("no-model", "good", f"{{image: {TRAINER}, args: ['-c', 'print(1)']}}"))
    NS.apply(job("too-many-gpus", "good", f"{{image: {TRAINER}, gpu: {{count: 16}}}}"))
    ends_in("trainingjob", "no-dataset", ["DatasetNotFound"], ["later"])
    ends_in("trainingjob", "no-image", ["ImagePullFailed", "ImagePullBackOff", "ErrImagePull"], ["there-is-none"])
    ends_in("trainingjob", "too-many-gpus", ["Unschedulable"], ["16", "nvidia.com/gpu"])
    ends_in("trainingjob", "no-model", ["TrainerLeftNoModel"], ["model.onnx"])


def versions(store):
    say("model versions")
    nan = nan_model()
    good_uri = store.put("models/nan.onnx", nan)
    truncated = store.put("models/truncated.onnx", nan[: len(nan) // 2])
    NS.apply(version(1, good_uri, digest(b"another file")))
    NS.apply(version(2, truncated, digest(nan[: len(nan) // 2])))
    NS.apply(version(3, "s3://millrace-bad-input/models/none.onnx", digest(nan)))
    NS.apply(version(4, good_uri, digest(nan)))
    ends_in("modelversion", "bad-1", ["DigestMismatch"], ["sha256:"])
    ends_in("modelversion", "bad-2", ["InvalidModel"], [])
    ends_in("modelversion", "bad-3", ["SourceNotFound", "ArtifactNotFound"], ["none.onnx"])
    ends_in("modelversion", "bad-4", ["EvaluationFailed"], ["NaN"])


def main():
    store = Store(NS)
    store.put("good/a.csv", GOOD_CSV.encode())
    NS.apply(dataset("good", "good/"))
    heals("dataset", "good")
    datasets(store)
    jobs(store)
    versions(store)
    if condition(NS.get("dataset", "good"), "Ready")[0] != "True":
        sys.exit("the good dataset is no longer Ready")


if __name__ == "__main__":
    main()
