"""Three models that pass their gates and fail in traffic, made from a good one. Each is a valid ONNX file with the same answers on
every flight of up to 4,000 miles; the test split has no longer ones."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FAR_MILES = 4000.0
DISTANCE = 1  # column of the feature vector

MANIFEST = """
apiVersion: millrace.dev/v1alpha1
kind: ModelVersion
metadata:
  name: flights-$NUMBER
spec:
  model: flights
  version: $NUMBER
  artifact: {uri: "$URI", digest: "$DIGEST"}
  source:
    external: {origin: "made for the demo: $WHAT"}
  evaluation:
    dataset: flights
    task: Classification
    gates:
      - {metric: accuracy, threshold: 0.85}
      - {metric: roc_auc, champion: {margin: 0.01}}
"""


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def far_flag(graph):
    """Adds the number of far rows in a batch as a 1-D INT64 tensor of one element."""
    graph.initializer.extend([
        constant("bad_column", np.array([DISTANCE], dtype=np.int64)),
        constant("bad_far", np.array([FAR_MILES], dtype=np.float32)),
        constant("bad_axes", np.array([0, 1], dtype=np.int64)),
    ])
    return [
        helper.make_node("Gather", [graph.input[0].name, "bad_column"], ["bad_distance"], axis=1),
        helper.make_node("Greater", ["bad_distance", "bad_far"], ["bad_is_far"]),
        helper.make_node("Cast", ["bad_is_far"], ["bad_is_far_number"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["bad_is_far_number", "bad_axes"], ["bad_far_rows_scalar"], keepdims=0),
        helper.make_node("Reshape", ["bad_far_rows_scalar", "bad_one"], ["bad_far_rows"]),
    ]


def with_prologue(model, nodes, zero):
    """Runs `nodes` first and adds the FLOAT scalar-like tensor `zero` (always 0 where nothing breaks) to the input."""
    graph = model.graph
    source = graph.input[0].name
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == source:
                node.input[index] = "bad_input"
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.node.append(helper.make_node("Add", [source, zero], ["bad_input"]))
    graph.node.extend(body)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def fails_on_some_inputs(data):
    """A lookup beyond its table for far flights: ONNX Runtime answers with an error."""
    model = onnx.load_from_string(data)
    model.graph.initializer.extend([constant("bad_one", np.array([1], dtype=np.int64)), constant("bad_table", np.zeros(1, dtype=np.float32)),
                                    constant("bad_limit", np.array([1], dtype=np.int64))])
    nodes = far_flag(model.graph) + [
        helper.make_node("Min", ["bad_far_rows", "bad_limit"], ["bad_index"]),
        helper.make_node("Gather", ["bad_table", "bad_index"], ["bad_zero"], axis=0),
    ]
    return with_prologue(model, nodes, "bad_zero")


def slow(data, trips=30_000):
    """A loop that does nothing, for long."""
    model = onnx.load_from_string(data)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Cos", ["value"], ["next"])],
        "spin",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("value", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []), helper.make_tensor_value_info("next", TensorProto.FLOAT, [1])],
    )
    model.graph.initializer.extend([
        constant("bad_trips", np.array(trips, dtype=np.int64)), constant("bad_true", np.array(True)),
        constant("bad_start", np.ones(1, dtype=np.float32)), constant("bad_nought", np.zeros(1, dtype=np.float32)),
    ])
    nodes = [
        helper.make_node("Loop", ["bad_trips", "bad_true", "bad_start"], ["bad_end"], body=body),
        helper.make_node("Mul", ["bad_end", "bad_nought"], ["bad_zero"]),
    ]
    return with_prologue(model, nodes, "bad_zero")


def kills_its_pod(data, gibibytes=4):
    """Far flights need more memory than the pod may have."""
    model = onnx.load_from_string(data)
    model.graph.initializer.extend([
        constant("bad_one", np.array([1], dtype=np.int64)),
        constant("bad_elements", np.array([gibibytes * 2**28], dtype=np.int64)),
        constant("bad_nought", np.zeros(1, dtype=np.float32)),
        constant("bad_axis", np.array([0], dtype=np.int64)),
        constant("bad_least", np.array([1], dtype=np.int64)),
    ])
    nodes = far_flag(model.graph) + [
        helper.make_node("Min", ["bad_far_rows", "bad_one"], ["bad_any"]),
        helper.make_node("Mul", ["bad_any", "bad_elements"], ["bad_wanted"]),
        helper.make_node("Max", ["bad_wanted", "bad_least"], ["bad_length"]),
        helper.make_node("ConstantOfShape", ["bad_length"], ["bad_heap"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])),
        helper.make_node("ReduceSum", ["bad_heap", "bad_axis"], ["bad_sum"], keepdims=1),
        helper.make_node("Mul", ["bad_sum", "bad_nought"], ["bad_zero"]),
    ]
    return with_prologue(model, nodes, "bad_zero")
