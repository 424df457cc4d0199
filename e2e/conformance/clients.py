"""Real clients against a server: tritonclient over HTTP and gRPC, binary and JSON, blocking and asynchronous, and what else its users
call. KServe's client is in clients_kserve.py: its package needs an environment of its own.

    clients.py --url http://127.0.0.1:8080 --grpc 127.0.0.1:8001
"""

import argparse
import asyncio
import queue
import sys
from urllib.parse import urlsplit

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

A = np.arange(8, dtype=np.float32).reshape(2, 4)
B = np.full((2, 4), 10, np.float32)
TEXT = np.array([["one", "zw\u00f6lf", ""]], object)
CHECKS = []


def check(title):
    def listed(function):
        CHECKS.append((title, function))
        return function

    return listed


def inputs(kind, binary=None, **arrays):
    made = []
    for name, array in arrays.items():
        tensor = kind(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array, **({} if binary is None else {"binary_data": binary}))
        made.append(tensor)
    return made


def right(result):
    np.testing.assert_array_equal(result.as_numpy("sum"), A + B)
    np.testing.assert_array_equal(result.as_numpy("difference"), A - B)


def http(at, **more):
    return triton_http.InferenceServerClient(at.http, **more)


def grpc(at):
    return triton_grpc.InferenceServerClient(at.grpc)


@check("tritonclient.http: live, ready, metadata")
def http_health(at):
    client = http(at)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("add_sub") and client.is_model_ready("versioned", "1")
    assert not client.is_model_ready("no_such_model")
    assert client.get_server_metadata()["name"]
    assert [t["name"] for t in client.get_model_metadata("add_sub")["inputs"]] == ["a", "b"]


@check("tritonclient.http: infer, binary")
def http_binary(at):
    outputs = [triton_http.InferRequestedOutput(n, binary_data=True) for n in ("sum", "difference")]
    right(http(at).infer("add_sub", inputs(triton_http.InferInput, True, a=A, b=B), outputs=outputs, request_id="7"))


@check("tritonclient.http: infer, JSON")
def http_json(at):
    outputs = [triton_http.InferRequestedOutput(n, binary_data=False) for n in ("sum", "difference")]
    result = http(at).infer("add_sub", inputs(triton_http.InferInput, False, a=A, b=B), outputs=outputs, request_id="7")
    right(result)
    assert result.get_response()["id"] == "7"


@check("tritonclient.http: infer, all outputs by default")
def http_default(at):
    right(http(at).infer("add_sub", inputs(triton_http.InferInput, True, a=A, b=B)))


@check("tritonclient.http: infer of a version, with timeout and priority")
def http_version(at):
    x = np.zeros(2, np.float32)
    result = http(at).infer("versioned", inputs(triton_http.InferInput, x=x), model_version="1", timeout=2_000_000, priority=1)
    np.testing.assert_array_equal(result.as_numpy("y"), x + 1)


@check("tritonclient.http: text, binary and JSON")
def http_text(at):
    for binary in (True, False):
        output = triton_http.InferRequestedOutput("y", binary_data=binary)
        result = http(at).infer("identity_bytes", inputs(triton_http.InferInput, binary, x=TEXT), outputs=[output])
        found = [v.decode() if isinstance(v, bytes) else v for v in result.as_numpy("y").reshape(-1)]
        assert found == TEXT.reshape(-1).tolist(), found


@check("tritonclient.http: async_infer on a pool of connections")
def http_pool(at):
    client = http(at, concurrency=4)
    waiting = [client.async_infer("add_sub", inputs(triton_http.InferInput, True, a=A, b=B)) for _ in range(20)]
    for request in waiting:
        right(request.get_result())


@check("tritonclient.http: classification")
def http_classes(at):
    output = triton_http.InferRequestedOutput("scores", binary_data=True, class_count=2)
    scores = np.array([[1, 9, 3, 7, 5]], np.float32)
    found = http(at).infer("scores", inputs(triton_http.InferInput, x=scores), outputs=[output]).as_numpy("scores")
    assert [v.decode().split(":")[1] for v in found.reshape(-1)] == ["1", "3"], found


@check("tritonclient.http: errors are InferenceServerException")
def http_errors(at):
    raises(lambda: http(at).infer("no_such_model", inputs(triton_http.InferInput, a=A)))
    raises(lambda: http(at).infer("add_sub", inputs(triton_http.InferInput, a=A)))


@check("tritonclient.http: statistics")
def http_statistics(at):
    assert http(at).get_inference_statistics("add_sub")["model_stats"][0]["inference_stats"]["success"]["count"] > 0


@check("tritonclient.http: model configuration")
def http_config(at):
    assert http(at).get_model_config("add_sub")["name"] == "add_sub"


@check("tritonclient.http: repository index, unload, load")
def http_repository(at):
    client = http(at)
    assert "add_sub" in [m["name"] for m in client.get_model_repository_index()]
    client.unload_model("optional")
    assert not client.is_model_ready("optional")
    client.load_model("optional")
    assert client.is_model_ready("optional")


@check("tritonclient.http.aio: infer, binary and JSON")
def http_aio(at):
    async def talk():
        async with triton_http_aio.InferenceServerClient(at.http) as client:
            assert await client.is_server_ready()
            for binary in (True, False):
                given = inputs(triton_http.InferInput, binary, a=A, b=B)
                for result in await asyncio.gather(*(client.infer("add_sub", given) for _ in range(8))):
                    right(result)

    asyncio.run(talk())


@check("tritonclient.grpc: live, ready, metadata")
def grpc_health(at):
    client = grpc(at)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("add_sub") and client.is_model_ready("versioned", "1")
    assert client.get_server_metadata().name
    assert [t.name for t in client.get_model_metadata("add_sub").inputs] == ["a", "b"]


@check("tritonclient.grpc: infer")
def grpc_infer(at):
    outputs = [triton_grpc.InferRequestedOutput(n) for n in ("difference", "sum")]
    result = grpc(at).infer("add_sub", inputs(triton_grpc.InferInput, a=A, b=B), outputs=outputs, request_id="7")
    right(result)
    assert result.get_response().id == "7"


@check("tritonclient.grpc: infer with a client timeout, priority and a timeout of the request")
def grpc_options(at):
    right(grpc(at).infer("add_sub", inputs(triton_grpc.InferInput, a=A, b=B), client_timeout=5, timeout=2_000_000, priority=1))


@check("tritonclient.grpc: text")
def grpc_text(at):
    found = grpc(at).infer("identity_bytes", inputs(triton_grpc.InferInput, x=TEXT)).as_numpy("y")
    assert [v.decode() for v in found.reshape(-1)] == TEXT.reshape(-1).tolist(), found


@check("tritonclient.grpc: 16-bit floats")
def grpc_half(at):
    x = np.array([[0.5, -2.0]], np.float16)
    np.testing.assert_array_equal(grpc(at).infer("identity_fp16", inputs(triton_grpc.InferInput, x=x)).as_numpy("y"), x)


@check("tritonclient.grpc: async_infer with callbacks")
def grpc_callbacks(at):
    client, answers = grpc(at), queue.Queue()
    for _ in range(20):
        client.async_infer("add_sub", inputs(triton_grpc.InferInput, a=A, b=B), lambda result, error: answers.put((result, error)))
    for _ in range(20):
        result, error = answers.get(timeout=20)
        assert error is None, error
        right(result)


@check("tritonclient.grpc: classification")
def grpc_classes(at):
    output = triton_grpc.InferRequestedOutput("scores", class_count=2)
    scores = np.array([[1, 9, 3, 7, 5]], np.float32)
    found = grpc(at).infer("scores", inputs(triton_grpc.InferInput, x=scores), outputs=[output]).as_numpy("scores")
    assert [v.decode().split(":")[1] for v in found.reshape(-1)] == ["1", "3"], found


@check("tritonclient.grpc: errors are InferenceServerException with the code")
def grpc_errors(at):
    assert "NOT_FOUND" in str(raises(lambda: grpc(at).infer("no_such_model", inputs(triton_grpc.InferInput, a=A))).status())
    assert "INVALID_ARGUMENT" in str(raises(lambda: grpc(at).infer("add_sub", inputs(triton_grpc.InferInput, a=A))).status())


@check("tritonclient.grpc: statistics")
def grpc_statistics(at):
    assert grpc(at).get_inference_statistics("add_sub").model_stats[0].inference_stats.success.count > 0


@check("tritonclient.grpc: model configuration")
def grpc_config(at):
    assert grpc(at).get_model_config("add_sub").config.name == "add_sub"


@check("tritonclient.grpc: repository index, unload, load")
def grpc_repository(at):
    client = grpc(at)
    assert "add_sub" in [m.name for m in client.get_model_repository_index().models]
    client.unload_model("optional")
    assert not client.is_model_ready("optional")
    client.load_model("optional")
    assert client.is_model_ready("optional")


@check("tritonclient.grpc.aio: infer")
def grpc_aio(at):
    async def talk():
        async with triton_grpc_aio.InferenceServerClient(at.grpc) as client:
            assert await client.is_server_ready()
            given = inputs(triton_grpc.InferInput, a=A, b=B)
            for result in await asyncio.gather(*(client.infer("add_sub", given) for _ in range(8))):
                right(result)

    asyncio.run(talk())


def raises(call):
    try:
        call()
    except InferenceServerException as error:
        return error
    raise AssertionError("no error was raised")


class At:
    def __init__(self, url, grpc_address):
        self.http, self.grpc = urlsplit(url).netloc, grpc_address


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--grpc", required=True)
    options = parser.parse_args()
    at, failed = At(options.url, options.grpc), 0
    for title, function in CHECKS:
        try:
            function(at)
            told = ""
        except Exception as error:
            failed += 1
            told = f": {type(error).__name__}: {str(error)[:200]}"
        print(f"{'failed' if told else 'passed'}  {title}{told}", flush=True)
    print(f"tritonclient: {len(CHECKS) - failed} of {len(CHECKS)} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
