"""The models that the suite asks for, as a repository folder: <name>/<version>/model.onnx. Made with `onnx`, so nothing is committed.

Each model is there for one need; MODELS says which. Any server that is tested by URL has to serve these under these names.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}

# Inputs of `mixed`, one a datatype that every server should know; the outputs have the same names with "_out".
MIXED = {"flag": "BOOL", "small": "UINT8", "big": "INT64", "real": "FP32", "double": "FP64", "text": "BYTES"}

MANY = 16


def tensor(name, datatype, shape):
    return helper.make_tensor_value_info(name, ONNX_TYPES[datatype], shape)


def model(name, nodes, inputs, outputs, initializers=(), ml=False):
    graph = helper.make_graph(nodes, name, inputs, outputs, list(initializers))
    opsets = [helper.make_opsetid("", 21)] + ([helper.make_opsetid("ai.onnx.ml", 3)] if ml else [])
    made = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="conformance")
    onnx.checker.check_model(made)
    return made


def constant(name, values):
    return numpy_helper.from_array(values, name)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def identity(datatype):
    x, y = tensor("x", datatype, ["n", "m"]), tensor("y", datatype, ["n", "m"])
    return model(f"identity_{datatype.lower()}", [node("Identity", ["x"], ["y"])], [x], [y])


def add_sub():
    inputs = [tensor(n, "FP32", ["n", 4]) for n in ("a", "b")]
    outputs = [tensor(n, "FP32", ["n", 4]) for n in ("sum", "difference")]
    nodes = [node("Add", ["a", "b"], ["sum"]), node("Sub", ["a", "b"], ["difference"])]
    return model("add_sub", nodes, inputs, outputs)


def fixed():
    two = constant("two", np.array(2, np.float32))
    return model("fixed", [node("Mul", ["x", "two"], ["y"])], [tensor("x", "FP32", [2, 3])], [tensor("y", "FP32", [2, 3])], [two])


def scalar():
    one = constant("one", np.array(1, np.float32))
    return model("scalar", [node("Add", ["x", "one"], ["y"])], [tensor("x", "FP32", [])], [tensor("y", "FP32", [])], [one])


def nonzero():
    return model("nonzero", [node("NonZero", ["x"], ["y"])], [tensor("x", "FP32", ["n"])], [tensor("y", "INT64", [1, "k"])])


def many():
    inputs = [tensor(f"i{k}", "FP32", ["n", 2]) for k in range(MANY)]
    outputs = [tensor(f"o{k}", "FP32", ["n", 2]) for k in range(MANY)]
    steps = [constant(f"c{k}", np.array(k, np.float32)) for k in range(MANY)]
    return model("many", [node("Add", [f"i{k}", f"c{k}"], [f"o{k}"]) for k in range(MANY)], inputs, outputs, steps)


def mixed():
    inputs = [tensor(n, d, ["n"]) for n, d in MIXED.items()]
    outputs = [tensor(f"{n}_out", d, ["n"]) for n, d in MIXED.items()]
    return model("mixed", [node("Identity", [n], [f"{n}_out"]) for n in MIXED], inputs, outputs)


def transpose():
    x, y = tensor("x", "INT32", ["n", "m", "k"]), tensor("y", "INT32", ["k", "m", "n"])
    return model("transpose", [node("Transpose", ["x"], ["y"], perm=[2, 1, 0])], [x], [y])


def column_sum():
    axes = constant("axes", np.array([0], np.int64))
    nodes = [node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]
    return model("column_sum", nodes, [tensor("x", "FP32", ["n", 3])], [tensor("y", "FP32", [3])], [axes])


def centered():
    """Less the mean of the batch: the rows of one request answer for each other, with no shape that would tell."""
    axes = constant("axes", np.array([0], np.int64))
    nodes = [node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1), node("Sub", ["x", "mean"], ["y"])]
    return model("centered", nodes, [tensor("x", "FP32", ["n", 3])], [tensor("y", "FP32", ["n", 3])], [axes])


def versioned(version):
    step = constant("step", np.array(version, np.float32))
    return model("versioned", [node("Add", ["x", "step"], ["y"])], [tensor("x", "FP32", ["n"])], [tensor("y", "FP32", ["n"])], [step])


def gather():
    table = constant("table", np.array([10, 20, 30, 40], np.float32))
    nodes = [node("Gather", ["table", "index"], ["y"])]
    return model("gather", nodes, [tensor("index", "INT64", ["n"])], [tensor("y", "FP32", ["n"])], [table])


def optional():
    """`bias` is an input with a default: a request may leave it out."""
    bias = constant("bias", np.array([[1, 1]], np.float32))
    inputs = [tensor("x", "FP32", ["n", 2]), tensor("bias", "FP32", [1, 2])]
    return model("optional", [node("Add", ["x", "bias"], ["y"])], inputs, [tensor("y", "FP32", ["n", 2])], [bias])


def scores():
    """Values that come back as they went in, under the name of a classifier's output."""
    return model("scores", [node("Identity", ["x"], ["scores"])], [tensor("x", "FP32", ["n", 5])], [tensor("scores", "FP32", ["n", 5])])


def zipmap():
    """As scikit-learn's converter writes a classifier by default: the probabilities are a sequence of maps."""
    nodes = [
        node("LinearClassifier", ["x"], ["label", "raw"], domain="ai.onnx.ml", classlabels_ints=[0, 1, 2],
             coefficients=[1.0, 0.0, 0.0, 1.0, -1.0, -1.0], intercepts=[0.0, 0.0, 0.0], multi_class=1, post_transform="SOFTMAX"),
        node("ZipMap", ["raw"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]),
    ]
    of_maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    probabilities = helper.make_value_info("probabilities", helper.make_sequence_type_proto(of_maps))
    return model("zipmap", nodes, [tensor("x", "FP32", ["n", 2])], [tensor("label", "INT64", ["n"]), probabilities], ml=True)


# name -> {version -> function that makes it}
MODELS = {f"identity_{d.lower()}": {1: lambda d=d: identity(d)} for d in ONNX_TYPES} | {
    "add_sub": {1: add_sub},
    "fixed": {1: fixed},
    "scalar": {1: scalar},
    "nonzero": {1: nonzero},
    "many": {1: many},
    "mixed": {1: mixed},
    "transpose": {1: transpose},
    "column_sum": {1: column_sum},
    "centered": {1: centered},
    "versioned": {1: lambda: versioned(1), 2: lambda: versioned(2)},
    "gather": {1: gather},
    "optional": {1: optional},
    "scores": {1: scores},
    "zipmap": {1: zipmap},
}


def write(folder, names=None):
    for name in names or MODELS:
        for version, make in MODELS[name].items():
            home = Path(folder) / name / str(version)
            home.mkdir(parents=True, exist_ok=True)
            onnx.save(make(), home / "model.onnx")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    write(parser.parse_args().folder)
