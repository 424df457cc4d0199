"""Objects and models of scenarios that need no flights: good ones, and those with one thing wrong."""

import base64
import io
import json
import os

import pyarrow.csv
import pyarrow.parquet
from onnx import TensorProto, helper

TRAINER = os.environ.get("TRAINER_IMAGE", "")
BUCKET = "millrace-bad-input"
# A name that no message contains by chance.
COLUMN = "temperature_at_departure"


def rows(column=COLUMN, greatest=400 / 7):
    step = greatest / 400
    return (f"id,{column},late\n" + "".join(f"r{i},{i * step:.3f},{i % 2}\n" for i in range(400))).encode()


def as_parquet(csv):
    """A CSV file as two Parquet files of the same rows, the last row first."""
    table = pyarrow.csv.read_csv(io.BytesIO(csv))
    backwards = table.take(list(range(table.num_rows))[::-1])
    files = []
    for part in (backwards.slice(0, table.num_rows // 3), backwards.slice(table.num_rows // 3)):
        file = io.BytesIO()
        pyarrow.parquet.write_table(part, file)
        files.append(file.getvalue())
    return files


def dataset(name, key, secret="", extra="", bucket=BUCKET, file_format="CSV"):
    credentials = f"credentials: {{secretName: {secret}}}" if secret else ""
    return f"""
apiVersion: millrace.dev/v1alpha1
kind: Dataset
metadata: {{name: {name}}}
spec:
  source:
    files:
      uri: s3://{bucket}/{key}
      format: {file_format}
      {credentials}
  schema:
    fields:
      - {{name: id, type: String, role: Id}}
      - {{name: {COLUMN}, type: Number}}
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


def version(number, uri, model_digest, model="bad"):
    return f"""
apiVersion: millrace.dev/v1alpha1
kind: ModelVersion
metadata: {{name: {model}-{number}}}
spec:
  model: {model}
  version: {number}
  artifact: {{uri: "{uri}", digest: "{model_digest}"}}
  source: {{external: {{origin: a test}}}}
  evaluation: {{dataset: good, task: Classification}}
"""


def service(name, model):
    return f"""
apiVersion: millrace.dev/v1alpha1
kind: InferenceService
metadata: {{name: {name}}}
spec:
  model: {model}
  server: {{resources: {{requests: {{cpu: 50m, memory: 64Mi}}}}}}
"""


def priority_class(name):
    return f"""
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {{name: {name}}}
value: 0
"""


def secret(name, data, is_store=False):
    """A Secret of the keys of another one; a store's has its URL, too, any other is used with the URL of its namespace's own store."""
    pairs = ", ".join(f"{key}: {value}" for key, value in data.items() if is_store or key != "url")
    return f"""
apiVersion: v1
kind: Secret
metadata: {{name: {name}}}
data: {{{pairs}}}
"""


def classifier(nodes, constants, inputs=("X",)):
    """A model of numbers with two classes; the nodes make `late`, the probability of class 1, of the inputs."""
    graph = helper.make_graph(
        [*nodes, helper.make_node("Sub", ["one", "late"], ["not_late"]), helper.make_node("Concat", ["not_late", "late"], ["probabilities"], axis=1),
         helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0)],
        "classifier", [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in inputs],
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


def two_inputs_model():
    """Nobody can tell which of its inputs takes the column."""
    return classifier([helper.make_node("Add", ["first", "second"], ["sum"]), helper.make_node("Sigmoid", ["sum"], ["late"])], {}, ("first", "second"))


def disconnected_model():
    """A whole file, but a node reads what no other gives."""
    return classifier([helper.make_node("Sigmoid", ["nowhere"], ["late"])], {})


def good_trainer(image=TRAINER, **more):
    """Leaves a model that is one, and learns nothing."""
    model = base64.b64encode(good_model()).decode()
    script = f"import base64, pathlib; pathlib.Path('/millrace/output/model.onnx').write_bytes(base64.b64decode('{model}'))"
    return json.dumps({"image": image, "args": ["-c", script], **more})
