"""What a team writes in an afternoon: FastAPI around ONNX Runtime. fastapi_server.py MODEL PORT; POST /predict {"x": [[...]]}."""

import sys

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response
from onnx_models import OnnxModel
from orjson import OPT_SERIALIZE_NUMPY, dumps, loads

app = FastAPI()
model = OnnxModel(sys.argv[1])


@app.post("/predict")
async def predict(request: Request):
    x = np.array(loads(await request.body())["x"], np.float32)
    return Response(dumps({"y": model.run({"input": x})["output"]}, option=OPT_SERIALIZE_NUMPY), media_type="application/json")


@app.get("/ready")
async def ready():
    return {}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
