"""The model class that MLServer loads for each model of its repository."""

import os
import sys

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse, MetadataTensor

sys.path.insert(0, os.path.dirname(__file__))
from onnx_models import OnnxModel, WrongInput  # noqa: E402


class Onnx(MLModel):
    async def load(self):
        self.onnx = OnnxModel(self.settings.parameters.uri)
        self.inputs, self.outputs = (
            [MetadataTensor(name=n, datatype=d, shape=s) for n, d, s in side] for side in (self.onnx.inputs, self.onnx.outputs)
        )
        return True

    async def predict(self, payload):
        given = {}
        try:
            for tensor in payload.inputs:
                if tensor.datatype == "BYTES":
                    given[tensor.name] = np.array(StringCodec.decode_input(tensor), object).reshape(tensor.shape)
                else:
                    given[tensor.name] = NumpyCodec.decode_input(tensor)
            found = self.onnx.run(given, [o.name for o in payload.outputs or []])
        except (WrongInput, ValueError) as error:
            raise InferenceError(str(error)) from None
        outputs = []
        for name, array in found.items():
            if array.dtype == object:
                output = StringCodec.encode_output(name, array.reshape(-1).tolist())
            else:
                output = NumpyCodec.encode_output(name, array)
            # The codecs make a column of what has one dimension; the model's own shape is what is due.
            output.shape = list(array.shape)
            outputs.append(output)
        return InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=outputs)
