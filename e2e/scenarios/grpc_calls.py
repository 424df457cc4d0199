"""Calls of ModelInfer from a scenario. The client's library is in the environment of the conformance suite, so a process of that interpreter sends
them."""

import functools
import json
import pathlib
import subprocess

from kube import Failed

# Sends one row after another over one channel, and prints of each answer what the router says, and how long it took in seconds.
CALLS = """
import json, sys, time
import grpc, numpy
from tritonclient.grpc import service_pb2, service_pb2_grpc
asked = json.loads(sys.argv[1])
def request_for(row):
    request = service_pb2.ModelInferRequest(model_name=asked["host"].split(".")[0])
    request.inputs.add(name="X", datatype="FP32", shape=[1, len(row)])
    request.raw_input_contents.append(numpy.asarray(row, numpy.float32).tobytes())
    return request
request, metadata = request_for(asked["row"]), list(asked["metadata"].items())
channel = grpc.insecure_channel(asked["address"], options=[("grpc.default_authority", asked["host"]), ("grpc.enable_http_proxy", 0)])
stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
said = []
for _ in range(asked["count"]):
    began = time.monotonic()
    _, call = stub.ModelInfer.with_call(request, timeout=asked["timeout"], metadata=metadata)
    marks = {name: value for name, value in call.initial_metadata() if name.startswith("x-millrace-")}
    said.append(marks | {"seconds": time.monotonic() - began})
print(json.dumps(said))
"""


@functools.cache
def interpreter():
    """That of the environment, which is made where it is missing: minutes, that nobody should wait for in an outage."""
    script = pathlib.Path(__file__).resolve().parents[1] / "conformance" / "python"
    return subprocess.run([script], check=True, stdout=subprocess.PIPE, text=True, timeout=600).stdout.strip()


def calls(address, host, row, count=1, timeout=10, **metadata):
    """What the router says of each answer: metadata that begin with `x-millrace-`, and `seconds`. One call that fails fails them all; `timeout` is that
    of one, in seconds."""
    asked = {"address": f"{address}:80", "host": host, "row": row, "count": count, "timeout": timeout, "metadata": metadata}
    done = subprocess.run([interpreter(), "-c", CALLS, json.dumps(asked)], capture_output=True, text=True, timeout=60 + count * timeout, check=False)
    if done.returncode != 0:
        raise Failed(f"calls over gRPC failed: {done.stderr[-500:]}")
    return json.loads(done.stdout)
