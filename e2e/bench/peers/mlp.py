"""The model of the comparison: a network of 30 features as fraud models are, 30-64-32-2 with softmax, seeded. Its tensors are called
`input` and `output`, as furnace-server calls those of every model of one tensor. mlp.py FOLDER"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS = (30, 64, 32, 2)


def mlp():
    random, nodes, weights, last = np.random.default_rng(7), [], [], "input"
    for k, (rows, columns) in enumerate(zip(LAYERS, LAYERS[1:], strict=False)):
        weights.append(numpy_helper.from_array((random.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32), f"w{k}"))
        weights.append(numpy_helper.from_array(random.standard_normal(columns).astype(np.float32), f"b{k}"))
        nodes.append(helper.make_node("Gemm", [last, f"w{k}", f"b{k}"], [f"g{k}"]))
        final = k == len(LAYERS) - 2
        last = "output" if final else f"r{k}"
        nodes.append(helper.make_node("Softmax" if final else "Relu", [f"g{k}"], [last]))
    x = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", LAYERS[0]])
    y = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", LAYERS[-1]])
    graph = helper.make_graph(nodes, "mlp", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def main_model(folder):
    """Writes it as a repository of one model."""
    home = Path(folder) / "mlp" / "1"
    home.mkdir(parents=True, exist_ok=True)
    onnx.save(mlp(), home / "model.onnx")


if __name__ == "__main__":
    main_model(sys.argv[1])
