"""Ray Serve with its batching: ray_server.py MODEL PORT; POST /predict {"x": [[...]]}."""

import sys
import time

import numpy as np
import ray
from onnx_models import OnnxModel
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
class Onnx:
    def __init__(self, path):
        self.model = OnnxModel(path)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.0)
    async def run(self, rows):
        y = self.model.run({"input": np.concatenate(rows)})["output"]
        ends = np.cumsum([len(r) for r in rows])
        return [part.tolist() for part in np.split(y, ends[:-1])]

    async def __call__(self, request: Request):
        if request.url.path.endswith("/ready"):
            return {}
        return {"y": await self.run(np.array((await request.json())["x"], np.float32))}


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])}, logging_config={"enable_access_log": False})
    serve.run(Onnx.bind(sys.argv[1]), route_prefix="/")
    while True:
        time.sleep(60)
