"""Writes the models of the engine's and the inference server's tests, all small, all with weights set by hand.

Run with Python's `onnx` and `numpy` installed:  python3 make.py
The .onnx files are committed beside this script, so that the tests need no Python.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

HERE = Path(__file__).parent
OPSET = [h.make_opsetid("", 20), h.make_opsetid("ai.onnx.ml", 3)]


def save(name, nodes, inputs, outputs, constants=()):
    weights = [nh.from_array(np.asarray(value), key) for key, value in dict(constants).items()]
    graph = h.make_graph(list(nodes), name, inputs, outputs, weights)
    model = h.make_model(graph, opset_imports=OPSET, ir_version=10, producer_name="millrace-tests")
    onnx.checker.check_model(model)
    onnx.save(model, HERE / f"{name}.onnx")
    return model


def value(name, kind, shape):
    return h.make_tensor_value_info(name, kind, shape)


def classifier():
    """P(1) = sigmoid(x0 + 2 x1 - x2 + 0 x3 - 1); the label is 1 where P(1) > 0.5."""
    constants = {
        "w": np.array([[1.0], [2.0], [-1.0], [0.0]], np.float32),
        "b": np.array([-1.0], np.float32),
        "one": np.array(1.0, np.float32),
        "half": np.array(0.5, np.float32),
        "axis": np.array([1], np.int64),
    }
    nodes = [
        h.make_node("MatMul", ["X", "w"], ["m"]),
        h.make_node("Add", ["m", "b"], ["z"]),
        h.make_node("Sigmoid", ["z"], ["p1"]),
        h.make_node("Sub", ["one", "p1"], ["p0"]),
        h.make_node("Concat", ["p0", "p1"], ["probabilities"], axis=1),
        h.make_node("Greater", ["p1", "half"], ["above"]),
        h.make_node("Squeeze", ["above", "axis"], ["above1"]),
        h.make_node("Cast", ["above1"], ["label"], to=T.INT64),
    ]
    outputs = [value("label", T.INT64, [None]), value("probabilities", T.FLOAT, [None, 2])]
    return save("classifier", nodes, [value("X", T.FLOAT, [None, 4])], outputs, constants)


def regressor():
    """variable = 3 x0 - x1 + 0.5"""
    constants = {"w": np.array([[3.0], [-1.0]], np.float32), "b": np.array([0.5], np.float32)}
    nodes = [h.make_node("MatMul", ["X", "w"], ["m"]), h.make_node("Add", ["m", "b"], ["variable"])]
    save("regressor", nodes, [value("X", T.FLOAT, [None, 2])], [value("variable", T.FLOAT, [None, 1])], constants)


def text():
    """The texts and the numbers, each as they came."""
    nodes = [h.make_node("Identity", ["city"], ["label"]), h.make_node("Identity", ["age"], ["variable"])]
    inputs = [value("city", T.STRING, [None, 1]), value("age", T.FLOAT, [None, 1])]
    save("text", nodes, inputs, [value("label", T.STRING, [None, 1]), value("variable", T.FLOAT, [None, 1])])


def maps(key):
    return h.make_sequence_type_proto(h.make_map_type_proto(key, h.make_tensor_type_proto(T.FLOAT, [])))


def zipmap():
    """What scikit-learn's converter writes by default: probabilities as a sequence of maps. Once more with classes that are texts."""
    nodes = [
        h.make_node("Softmax", ["X"], ["p"], axis=1),
        h.make_node("ZipMap", ["p"], ["output_probability"], domain="ai.onnx.ml", classlabels_int64s=[3, 7]),
    ]
    inputs = [value("X", T.FLOAT, [None, 2])]
    save("zipmap", nodes, inputs, [h.make_value_info("output_probability", maps(T.INT64))])
    nodes = [h.make_node("ZipMap", ["X"], ["output_probability"], domain="ai.onnx.ml", classlabels_strings=["no", "yes"])]
    save("zipmap_texts", nodes, inputs, [h.make_value_info("output_probability", maps(T.STRING))])


def sequence():
    """An output that is a list of tensors."""
    nodes = [h.make_node("SequenceConstruct", ["X", "X"], ["Y"])]
    output = h.make_value_info("Y", h.make_sequence_type_proto(h.make_tensor_type_proto(T.FLOAT, [None])))
    save("sequence", nodes, [value("X", T.FLOAT, [None])], [output])


def shapes():
    """A scalar, a tensor of any rank and shape, and one without elements; the last input has a value of its own: Y = X + b."""
    nodes = [
        h.make_node("Identity", ["scalar"], ["scalar_out"]),
        h.make_node("Identity", ["any"], ["any_out"]),
        h.make_node("Add", ["X", "b"], ["Y"]),
    ]
    inputs = [value("scalar", T.FLOAT, []), value("any", T.INT64, [None, None]), value("X", T.FLOAT, [None]), value("b", T.FLOAT, [1])]
    outputs = [value("scalar_out", T.FLOAT, []), value("any_out", T.INT64, [None, None]), value("Y", T.FLOAT, [None])]
    save("shapes", nodes, inputs, outputs, {"b": np.array([10.0], np.float32)})


def present():
    """The places of the elements that are not zero: how many there are, only the run can tell."""
    save("present", [h.make_node("NonZero", ["X"], ["Y"])], [value("X", T.FLOAT, [4])], [value("Y", T.INT64, [1, None])])


def outside():
    """A model that keeps a tensor in another file, in the folder `outside`."""
    folder = HERE / "outside"
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").write_bytes(b"unused__" + np.array([2.0, 3.0], np.float32).tobytes())
    weight = T(name="w", data_type=T.FLOAT, dims=[2], data_location=T.EXTERNAL)
    for key, text in [("location", "weights.bin"), ("offset", "8"), ("length", "8")]:
        weight.external_data.add(key=key, value=text)
    graph = h.make_graph([h.make_node("Mul", ["X", "w"], ["Y"])], "outside", [value("X", T.FLOAT, [None, 2])], [value("Y", T.FLOAT, [None, 2])], [weight])
    model = h.make_model(graph, opset_imports=OPSET, ir_version=10, producer_name="millrace-tests")
    (folder / "model.onnx").write_bytes(model.SerializeToString())


KINDS = {
    "bool": T.BOOL, "uint8": T.UINT8, "uint16": T.UINT16, "uint32": T.UINT32, "uint64": T.UINT64, "int8": T.INT8,
    "int16": T.INT16, "int32": T.INT32, "int64": T.INT64, "fp16": T.FLOAT16, "bf16": T.BFLOAT16, "fp32": T.FLOAT, "fp64": T.DOUBLE, "bytes": T.STRING,
}


def identity():
    """One input and one output of every element type."""
    nodes = [h.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in KINDS]
    inputs = [value(f"in_{name}", kind, [None]) for name, kind in KINDS.items()]
    save("identity", nodes, inputs, [value(f"out_{name}", kind, [None]) for name, kind in KINDS.items()])


def fails():
    """Looks X up in a table of three: any other index makes ONNX Runtime fail."""
    constants = {"table": np.array([10.0, 20.0, 30.0], np.float32)}
    nodes = [h.make_node("Gather", ["table", "X"], ["Y"])]
    save("fails", nodes, [value("X", T.INT64, [None])], [value("Y", T.FLOAT, [None])], constants)


def mean():
    """One number for the whole batch: rows cannot be told apart in its output, though its first axis is open."""
    nodes = [h.make_node("ReduceMean", ["X"], ["m"], keepdims=1), h.make_node("Reshape", ["m", "flat"], ["Y"])]
    save("mean", nodes, [value("X", T.FLOAT, [None, 1])], [value("Y", T.FLOAT, [None])], {"flat": np.array([1], np.int64)})


def fixed():
    """Takes two rows a run, never more or fewer; returns each row's sum."""
    nodes = [h.make_node("ReduceSum", ["X", "axis"], ["variable"], keepdims=1)]
    save("fixed", nodes, [value("X", T.FLOAT, [2, 2])], [value("variable", T.FLOAT, [2, 1])], {"axis": np.array([1], np.int64)})


def slow():
    """Y = X, after a loop that multiplies a small matrix with itself so many times as the first element of `loops` says."""
    body = h.make_graph(
        [
            h.make_node("Identity", ["go_in"], ["go_out"]),
            h.make_node("MatMul", ["a_in", "a_in"], ["squared"]),
            h.make_node("Tanh", ["squared"], ["a_out"]),
        ],
        "body",
        [value("i", T.INT64, []), value("go_in", T.BOOL, []), value("a_in", T.FLOAT, [32, 32])],
        [value("go_out", T.BOOL, []), value("a_out", T.FLOAT, [32, 32])],
    )
    constants = {"a": np.eye(32, dtype=np.float32), "yes": np.array(True), "zero": np.array(0.0, np.float32), "first": np.array(0, np.int64)}
    nodes = [
        h.make_node("Gather", ["loops", "first"], ["count"], axis=0),
        h.make_node("Loop", ["count", "yes", "a"], ["worked"], body=body),
        h.make_node("ReduceMax", ["worked"], ["most"], keepdims=0),
        h.make_node("Mul", ["most", "zero"], ["nothing"]),
        h.make_node("Add", ["X", "nothing"], ["Y"]),
    ]
    inputs = [value("X", T.FLOAT, [None, 1]), value("loops", T.INT64, [None])]
    save("slow", nodes, inputs, [value("Y", T.FLOAT, [None, 1])], constants)


def mlp():
    """30 features, 64 hidden units, 2 classes: the size of many tabular models; for benchmarks. Weights are random, from a fixed seed."""
    draw = np.random.default_rng(7)
    constants = {
        "w1": draw.normal(0, 0.3, (30, 64)).astype(np.float32), "b1": np.zeros(64, np.float32),
        "w2": draw.normal(0, 0.3, (64, 2)).astype(np.float32), "b2": np.zeros(2, np.float32),
    }
    nodes = [
        h.make_node("Gemm", ["X", "w1", "b1"], ["h"]),
        h.make_node("Relu", ["h"], ["r"]),
        h.make_node("Gemm", ["r", "w2", "b2"], ["z"]),
        h.make_node("Softmax", ["z"], ["probabilities"], axis=1),
        h.make_node("ArgMax", ["z"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [value("label", T.INT64, [None]), value("probabilities", T.FLOAT, [None, 2])]
    save("mlp", nodes, [value("X", T.FLOAT, [None, 30])], outputs, constants)


def damaged(model):
    whole = model.SerializeToString()
    (HERE / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    outside = onnx.ModelProto.FromString(whole)
    weight = next(w for w in outside.graph.initializer if w.name == "w")
    weight.ClearField("raw_data")
    weight.data_location = T.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "../../../../etc/passwd"
    (HERE / "external.onnx").write_bytes(outside.SerializeToString())
    stranger = onnx.ModelProto.FromString(whole)
    stranger.graph.node[0].op_type = "NoSuchOperator"
    (HERE / "unknown_operator.onnx").write_bytes(stranger.SerializeToString())


def small_shares():
    """Y = exp(X) / sum(exp(X)) / 10000, the sum over the rows of each column: no row is answered by itself, and no number is large."""
    nodes = [h.make_node("Softmax", ["X"], ["s"], axis=0), h.make_node("Mul", ["s", "small"], ["Y"])]
    constants = {"small": np.array(1e-4, np.float32)}
    save("small_shares", nodes, [value("X", T.FLOAT, [None, 2])], [value("Y", T.FLOAT, [None, 2])], constants)


def quantized():
    """Y = X w / 1000 in 8 bits, whose range is that of all rows together: what a row is answered depends, a little, on the others."""
    constants = {
        "w": np.array([[3], [-1]], np.int8),
        "zero": np.array(0, np.int8),
        "small": np.array(1e-3, np.float32),
    }
    nodes = [
        h.make_node("DynamicQuantizeLinear", ["X"], ["q", "scale", "middle"]),
        h.make_node("MatMulInteger", ["q", "w", "middle", "zero"], ["whole"]),
        h.make_node("Cast", ["whole"], ["wide"], to=T.FLOAT),
        h.make_node("Mul", ["scale", "small"], ["step"]),
        h.make_node("Mul", ["wide", "step"], ["Y"]),
    ]
    save("quantized", nodes, [value("X", T.FLOAT, [None, 2])], [value("Y", T.FLOAT, [None, 1])], constants)


if __name__ == "__main__":
    model = classifier()
    for make in (regressor, text, zipmap, sequence, shapes, present, outside, identity, fails, mean, fixed, slow, mlp):
        make()
    for make in (small_shares, quantized):
        make()
    damaged(model)
