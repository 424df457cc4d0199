"""Writes the models of the benchmark. Their weights are constants that ONNX Runtime folds when it loads them, so the files are tiny."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

FLOAT = TensorProto.FLOAT


def constant(name, shape, value):
    shape_name = f"{name}_shape"
    fill = numpy_helper.from_array(np.array([value], dtype=np.float32))
    dims = numpy_helper.from_array(np.array(shape, dtype=np.int64), name=shape_name)
    return helper.make_node("ConstantOfShape", [shape_name], [name], value=fill), dims


def write(name, nodes, inputs, outputs, constants):
    graph = helper.make_graph(nodes, name, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    save(model, Path(__file__).parent / f"{name}.onnx")


def value(name, shape):
    return helper.make_tensor_value_info(name, FLOAT, shape)


def encoder(layers=12, width=384, length=128):
    """Milliseconds a row on one core, and nothing gained by batching: bound by arithmetic. A row is spread over `length` positions."""
    axes = numpy_helper.from_array(np.array([1], dtype=np.int64), name="axes")
    positions, dims = constant("positions", [length, width], 0.5)
    nodes = [
        helper.make_node("Unsqueeze", ["X", "axes"], ["u"]),
        positions,
        helper.make_node("Add", ["u", "positions"], ["r"]),
    ]
    constants, last = [axes, dims], "r"
    for layer in range(layers):
        node, dims = constant(f"w{layer}", [width, width], 1 / width)
        nodes += [
            node,
            helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]),
            helper.make_node("Relu", [f"m{layer}"], [f"r{layer}"]),
        ]
        constants.append(dims)
        last = f"r{layer}"
    nodes.append(helper.make_node("ReduceMean", [last], ["Y"], axes=[1], keepdims=0))
    write("encoder", nodes, [value("X", [None, width])], [value("Y", [None, width])], constants)


def image(channels=144):
    """A convolution over a picture of 224 by 224."""
    node, dims = constant("w", [channels, 3, 7, 7], 0.01)
    nodes = [
        node,
        helper.make_node("Conv", ["X", "w"], ["c"], strides=[2, 2], pads=[3, 3, 3, 3]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["Y"]),
    ]
    write("image", nodes, [value("X", [None, 3, 224, 224])], [value("Y", [None, channels])], [dims])


def copy(name, width=None):
    """Gives back what it is given."""
    nodes = [helper.make_node("Identity", ["X"], ["Y"])]
    write(name, nodes, [value("X", [None, width])], [value("Y", [None, width])], [])


def wide(layers=8, width=1024):
    """Weights that no cache holds: a row costs as much as a batch, so batching pays."""
    nodes, constants, last = [], [], "X"
    for layer in range(layers):
        node, dims = constant(f"w{layer}", [width, width], 1 / width)
        nodes += [node, helper.make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"])]
        constants.append(dims)
        last = f"m{layer}"
    nodes.append(helper.make_node("Relu", [last], ["Y"]))
    write("wide", nodes, [value("X", [None, width])], [value("Y", [None, width])], constants)


encoder()
wide()
image()
copy("copy")
copy("same", 30)
