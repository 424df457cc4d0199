"""LitServe with its batching: litserve_server.py MODEL PORT; POST /predict {"x": [...]}, one row a request as its batching wants."""

import sys

import litserve
import numpy as np
from onnx_models import OnnxModel


class Api(litserve.LitAPI):
    def setup(self, device):
        self.model = OnnxModel(sys.argv[1])

    def decode_request(self, request):
        return np.array(request["x"], np.float32)

    def batch(self, inputs):
        return np.concatenate(inputs)

    def predict(self, x):
        return self.model.run({"input": x})["output"]

    def unbatch(self, output):
        return list(output[:, None])

    def encode_response(self, output):
        return {"y": output.tolist()}


if __name__ == "__main__":
    api = Api(max_batch_size=32, batch_timeout=0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, healthcheck_path="/ready")
    server.run(port=int(sys.argv[2]), host="127.0.0.1", num_api_servers=1, log_level="warning", generate_client_file=False, access_log=False)
