"""KServe's Python server over a model repository: kserve_server.py FOLDER HTTP_PORT GRPC_PORT. It has no versions: the newest is served."""

import sys

import numpy as np
from kserve import InferOutput, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput
from kserve.utils.utils import generate_uuid
from onnx_models import OnnxModel, WrongInput, repository


def text(array):
    """ONNX Runtime takes strings; KServe gives bytes where they came as such."""
    if array.dtype != object:
        return array
    decoded = np.empty(array.shape, object)
    decoded.reshape(-1)[:] = [e.decode() if isinstance(e, bytes) else e for e in array.reshape(-1)]
    return decoded


class Onnx(Model):
    def __init__(self, name, path):
        super().__init__(name)
        self.onnx = OnnxModel(path)
        self.ready = True

    @staticmethod
    async def _specs(specs):
        return [{"name": n, "datatype": d, "shape": s} for n, d, s in specs]

    async def get_input_types(self):
        return await self._specs(self.onnx.inputs)

    async def get_output_types(self):
        return await self._specs(self.onnx.outputs)

    def predict(self, payload, headers=None, response_headers=None):
        try:
            given = {tensor.name: text(tensor.as_numpy()) for tensor in payload.inputs}
            found = self.onnx.run(given, [wanted.name for wanted in payload.request_outputs or []])
        except (WrongInput, ValueError) as error:
            raise InvalidInput(str(error)) from None
        datatypes = {name: datatype for name, datatype, _ in self.onnx.outputs}
        outputs = []
        for name, array in found.items():
            output = InferOutput(name, list(array.shape), datatypes[name])
            output.set_data_from_numpy(array)
            outputs.append(output)
        return InferResponse(
            payload.id or generate_uuid(), self.name, outputs, from_grpc=payload.from_grpc,
            use_binary_outputs=payload.use_binary_outputs, requested_outputs=payload.request_outputs,
        )


def main(folder, http, grpc):
    models = {}
    for name, _, path in repository(folder):
        try:
            models[name] = Onnx(name, path)
        except Exception as error:
            print(f"{name} is not served: {error}", file=sys.stderr)
    ModelServer(http_port=int(http), grpc_port=int(grpc), workers=1, enable_latency_logging=False, access_log_format=None).start(list(models.values()))


if __name__ == "__main__":
    main(*sys.argv[1:])
