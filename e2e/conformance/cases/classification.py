"""The classification extension: the best classes in place of the tensor."""

import numpy as np
from oip.tensors import Given, need

from .registry import ALL, case, equal, invalid

NAME = "Classification"
SCORES = np.array([[1.0, 5.0, 10.0, 4.0, -2.0], [0.5, 0.25, 8.5, 8.0, 9.0]], np.float32)


def top(view, count):
    outputs = [{"name": "scores", "parameters": {"classification": count}}]
    return view.infer("scores", [Given("x", SCORES)], outputs=outputs).outputs["scores"]


def classes(output):
    """(value, index) of each element, which is "<value>:<index>[:<label>]"."""
    found = []
    for element in output.array.reshape(-1):
        parts = element.decode().split(":")
        need(len(parts) >= 2, f"element {element!r} is no <value>:<index>")
        found.append((float(parts[0]), int(parts[1])))
    return found


HERE = {"wires": ALL, "models": ["scores"], "extension": "classification"}


@case(f"{NAME}: the highest first", **HERE)
def best_classes(view):
    equal(classes(top(view, 3)), [(10, 2), (5, 1), (4, 3), (9, 4), (8.5, 2), (8, 3)], "classes")


@case(f"{NAME}: BYTES, one row a row of the batch", **HERE)
def shape_and_datatype(view):
    output = top(view, 2)
    equal((output.datatype, output.shape), ("BYTES", [2, 2]), "datatype and shape")


@case(f"{NAME}: the best alone", **HERE)
def best_class(view):
    equal(classes(top(view, 1)), [(10, 2), (9, 4)], "classes")


@case(f"{NAME}: more than there are classes", **HERE)
def more_than_there_are(view):
    equal(len(classes(top(view, 9))), 10, "elements")


@case(f"{NAME}: negative is refused", level="recommended", **HERE)
def negative(view):
    invalid(lambda: top(view, -1), "classification: -1")
