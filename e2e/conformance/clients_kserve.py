"""KServe's Python client against a server: REST with JSON and with binary data, over HTTP/1.1 and HTTP/2, and gRPC.

    clients_kserve.py --url http://127.0.0.1:8080 --grpc 127.0.0.1:8001
"""

import argparse
import asyncio
import sys

# The package reads the arguments of whatever program imports it.
ARGUMENTS, sys.argv[1:] = sys.argv[1:], []

import numpy as np  # noqa: E402
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig  # noqa: E402
from kserve.protocol.infer_type import RequestedOutput  # noqa: E402

A = np.arange(8, dtype=np.float32).reshape(2, 4)
B = np.full((2, 4), 10, np.float32)
CHECKS = []


def check(title):
    def listed(function):
        CHECKS.append((title, function))
        return function

    return listed


def request(binary, outputs=None, model="add_sub", **arrays):
    tensors = []
    for name, array in arrays.items():
        tensor = InferInput(name, list(array.shape), {"float32": "FP32", "int64": "INT64", "object": "BYTES"}[str(array.dtype)])
        tensor.set_data_from_numpy(array, binary_data=binary)
        tensors.append(tensor)
    asked = [RequestedOutput(n, {"binary_data": binary}) for n in outputs] if outputs else None
    return InferRequest(model, tensors, "7", request_outputs=asked)


def right(response, names=("sum", "difference")):
    found = {o.name: o.as_numpy() for o in response.outputs}
    assert set(found) == set(names), found
    for name in names:
        np.testing.assert_array_equal(found[name], A + B if name == "sum" else A - B)
    assert response.id == "7", response.id


def rest(**more):
    return InferenceRESTClient(RESTConfig(protocol="v2", retries=0, **more))


@check("kserve REST: live, ready, model ready")
async def rest_health(at):
    client = rest()
    assert await client.is_server_live(at.url) and await client.is_server_ready(at.url) and await client.is_model_ready(at.url, "add_sub")


@check("kserve REST: infer, JSON")
async def rest_json(at):
    right(await rest().infer(at.url, request(False, a=A, b=B), model_name="add_sub"))


@check("kserve REST: infer, binary, chosen output")
async def rest_binary(at):
    right(await rest().infer(at.url, request(True, ["sum"], a=A, b=B), model_name="add_sub"), ["sum"])


@check("kserve REST: infer, a dictionary")
async def rest_dictionary(at):
    document = {"id": "7", "inputs": [{"name": n, "shape": [2, 4], "datatype": "FP32", "data": x.tolist()} for n, x in (("a", A), ("b", B))]}
    right(await rest().infer(at.url, document, model_name="add_sub"))


@check("kserve REST: many at once")
async def rest_many(at):
    client = rest()
    for response in await asyncio.gather(*(client.infer(at.url, request(True, a=A, b=B), model_name="add_sub") for _ in range(16))):
        found = {o.name: o.as_numpy() for o in response.outputs}
        np.testing.assert_array_equal(found["sum"], A + B)


@check("kserve REST: an error is raised")
async def rest_error(at):
    try:
        await rest().infer(at.url, request(False, a=A), model_name="add_sub")
    except Exception as error:
        assert "400" in str(error), error
    else:
        raise AssertionError("no error was raised")


@check("kserve gRPC: live, ready, model ready")
async def grpc_health(at):
    async with InferenceGRPCClient(at.grpc, retries=0) as client:
        assert await client.is_server_live() and await client.is_server_ready() and await client.is_model_ready("add_sub")


@check("kserve gRPC: infer, typed and raw contents")
async def grpc_infer(at):
    async with InferenceGRPCClient(at.grpc, retries=0) as client:
        for binary in (True, False):
            right(await client.infer(request(binary, a=A, b=B)))


@check("kserve gRPC: many at once")
async def grpc_many(at):
    async with InferenceGRPCClient(at.grpc, retries=0) as client:
        for response in await asyncio.gather(*(client.infer(request(True, a=A, b=B)) for _ in range(16))):
            right(response)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--grpc", required=True)
    at, failed = parser.parse_args(ARGUMENTS), 0
    for title, function in CHECKS:
        try:
            asyncio.run(function(at))
            told = ""
        except Exception as error:
            failed += 1
            told = f": {type(error).__name__}: {str(error)[:200]}"
        print(f"{'failed' if told else 'passed'}  {title}{told}", flush=True)
    print(f"kserve client: {len(CHECKS) - failed} of {len(CHECKS)} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
