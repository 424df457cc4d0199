"""BentoML with its adaptive batching: BENTO_MODEL=... bentoml serve bentoml_service:Onnx; POST /predict {"x": [[...]]}."""

import os

import bentoml
import numpy as np
from onnx_models import OnnxModel


@bentoml.service(workers=1, traffic={"timeout": 30, "max_concurrency": 4096}, logging={"access": {"enabled": False}})
class Onnx:
    def __init__(self):
        self.model = OnnxModel(os.environ["BENTO_MODEL"])

    @bentoml.api(batchable=True, batch_dim=0, max_batch_size=32, max_latency_ms=1000)
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.model.run({"input": x.astype(np.float32)})["output"]
