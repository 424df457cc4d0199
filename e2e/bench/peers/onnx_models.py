"""What every peer's model does: one ONNX Runtime session with one thread, fed with numpy. The thinnest thing each server's
documentation would have a user write; a tensor the model does not take is told apart from a failure of the model, so that a server
which can say "your fault" gets the chance to."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

NUMPY = {
    "tensor(bool)": ("BOOL", np.bool_),
    "tensor(uint8)": ("UINT8", np.uint8),
    "tensor(uint16)": ("UINT16", np.uint16),
    "tensor(uint32)": ("UINT32", np.uint32),
    "tensor(uint64)": ("UINT64", np.uint64),
    "tensor(int8)": ("INT8", np.int8),
    "tensor(int16)": ("INT16", np.int16),
    "tensor(int32)": ("INT32", np.int32),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(float16)": ("FP16", np.float16),
    "tensor(float)": ("FP32", np.float32),
    "tensor(double)": ("FP64", np.float64),
    "tensor(string)": ("BYTES", np.object_),
}


class WrongInput(ValueError):
    """The request is at fault."""


class OnnxModel:
    def __init__(self, path):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs, self.outputs = ([self._spec(node) for node in side()] for side in (self.session.get_inputs, self.session.get_outputs))

    @staticmethod
    def _spec(node):
        if node.type not in NUMPY:
            raise ValueError(f"{node.name} is a {node.type}, for which numpy has no type")
        return node.name, NUMPY[node.type][0], [d if isinstance(d, int) else -1 for d in node.shape]

    def run(self, given, wanted=()):
        known = {name for name, _, _ in self.inputs}
        unknown = sorted(set(given) - known)
        if unknown:
            raise WrongInput(f"input {unknown[0]!r} is unknown")
        names = [name for name, _, _ in self.outputs]
        for name in wanted:
            if name not in names:
                raise WrongInput(f"output {name!r} is unknown")
        try:
            return dict(zip(wanted or names, self.session.run(list(wanted) or None, given), strict=True))
        except (ValueError, ort.capi.onnxruntime_pybind11_state.InvalidArgument) as error:
            raise WrongInput(str(error)) from None


def repository(folder):
    """(name, version, path) of every model that can be loaded, of a folder <name>/<version>/model.onnx."""
    for path in sorted(Path(folder).glob("*/*/model.onnx")):
        yield path.parts[-3], path.parts[-2], path
