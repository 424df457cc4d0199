"""The binary tensor data extension of REST: where bytes may stand, what the sizes say, and what is refused."""

import json
import struct

import numpy as np
from oip.rest import HEADER, binary_request, json_request, read_reply
from oip.tensors import Given, need, texts, to_bytes

from .inference import check_pair, floats, pair
from .registry import BINARY_EXTENSION, case, equal, output

NAME = "Binary Tensor Data"
HERE = {"wires": ("binary",), "models": ["add_sub"]}


def send(view, body, head, model="add_sub", **headers):
    given = {"Content-Type": "application/octet-stream"} | ({} if head is None else {HEADER: str(head)}) | headers
    return view.rest.call("POST", f"/v2/models/{model}/infer", body, given)


def ask(view, given, **how):
    body, head = binary_request(given, **how)
    return send(view, body, head)


def sizes(answer):
    head = int(answer.headers[HEADER.lower()])
    return {o["name"]: o.get("parameters", {}).get("binary_data_size") for o in json.loads(answer.body[:head])["outputs"]}


@case(f"{NAME}: announced in the extensions", ("binary",))
def announced(view):
    need(BINARY_EXTENSION in view.metadata["extensions"], f"extensions are {view.metadata['extensions']}")


@case(f"{NAME}/binary_data_size: binary inputs, JSON outputs", **HERE)
def binary_in_json_out(view):
    given = pair()
    answer = ask(view, given, ask_binary=False)
    need(HEADER.lower() not in answer.headers, f"{HEADER} in an answer without binary data")
    check_pair(read_reply(answer), given)


@case(f"{NAME}/binary_data: JSON inputs, binary outputs", **HERE)
def json_in_binary_out(view):
    given = pair()
    outputs = [{"name": n, "parameters": {"binary_data": True}} for n in ("sum", "difference")]
    answer = view.rest.post("/v2/models/add_sub/infer", json_request(given, outputs))
    check_pair(read_reply(answer), given)
    equal(sizes(answer), {"sum": 32, "difference": 32}, "binary_data_size")


@case(f"{NAME}: one input binary, the other JSON", **HERE)
def mixed_inputs(view):
    given = pair()
    check_pair(read_reply(ask(view, given, json_inputs=("a",))), given)
    check_pair(read_reply(ask(view, given, json_inputs=("b",))), given)


@case(f"{NAME}/binary_data: one output binary, the other JSON", **HERE)
def mixed_outputs(view):
    given = pair()
    outputs = [{"name": "sum", "parameters": {"binary_data": True}}, {"name": "difference", "parameters": {"binary_data": False}}]
    answer = ask(view, given, outputs=outputs, ask_binary=False)
    check_pair(read_reply(answer), given)
    equal(sizes(answer), {"sum": 32, "difference": None}, "binary_data_size")


@case(f"{NAME}/binary_data_output: all outputs", **HERE)
def all_outputs_binary(view):
    answer = ask(view, pair())
    equal(sizes(answer), {"sum": 32, "difference": 32}, "binary_data_size")


@case(f"{NAME}/binary_data_output: false is JSON", **HERE)
def all_outputs_json(view):
    given = pair()
    answer = ask(view, given, ask_binary=False, parameters={"binary_data_output": False})
    need(HEADER.lower() not in answer.headers, f"{HEADER} in an answer without binary data")
    check_pair(read_reply(answer), given)


@case(f"{NAME}/binary_data overrides binary_data_output", **HERE)
def output_overrides_request(view):
    outputs = [{"name": "sum", "parameters": {"binary_data": False}}, {"name": "difference"}]
    answer = ask(view, pair(), outputs=outputs)
    equal(sizes(answer), {"sum": None, "difference": 32}, "binary_data_size")


@case(f"{NAME}: Content-Length is that of the whole body", **HERE)
def lengths_of_the_answer(view):
    answer = ask(view, pair())
    head = int(answer.headers[HEADER.lower()])
    equal(len(answer.body) - head, 64, "bytes behind the JSON")
    if "content-length" in answer.headers:
        equal(int(answer.headers["content-length"]), len(answer.body), "Content-Length")


@case(f"{NAME}: content type of an answer with binary data", **HERE)
def content_type(view):
    equal(ask(view, pair()).headers.get("content-type"), "application/octet-stream", "content type")


@case(f"{NAME}: the header without any binary tensor", **HERE)
def header_without_binary(view):
    given = pair()
    body = json.dumps(json_request(given)).encode()
    check_pair(read_reply(send(view, body, len(body))), given)


@case(f"{NAME}: the content type of the request is not what counts", **HERE)
def any_content_type(view):
    given = pair()
    body, head = binary_request(given)
    check_pair(read_reply(send(view, body, head, **{"Content-Type": "application/json"})), given)


@case(f"{NAME}/BYTES: each element behind its length", ("binary",), ["identity_bytes"])
def bytes_elements(view):
    array = texts("", "ab", "\u2603").reshape(1, 3)
    body, head = binary_request([Given("x", array)])
    answer = send(view, body, head, "identity_bytes")
    head = int(answer.headers[HEADER.lower()])
    equal(answer.body[head:], b"\0\0\0\0\2\0\0\0ab\3\0\0\0\xe2\x98\x83", "bytes")


@case(f"{NAME}/BOOL: one byte an element, 0 or 1", ("binary",), ["identity_bool"])
def bool_elements(view):
    body, head = binary_request([Given("x", np.array([[True, False, True]]))])
    answer = send(view, body, head, "identity_bool")
    equal(answer.body[int(answer.headers[HEADER.lower()]) :], b"\1\0\1", "bytes")


@case(f"{NAME}: little-endian, row-major", ("binary",), ["identity_int32"])
def byte_order(view):
    array = np.array([[1, 2], [3, 0x01020304]], np.int32)
    body, head = binary_request([Given("x", array)])
    answer = send(view, body, head, "identity_int32")
    equal(answer.body[int(answer.headers[HEADER.lower()]) :], struct.pack("<4i", 1, 2, 3, 0x01020304), "bytes")


@case(f"{NAME}: a tensor without elements has no bytes", ("binary",), ["identity_fp32"])
def no_elements(view):
    x = floats(0, 4)
    body, head = binary_request([Given("x", x)])
    answer = send(view, body, head, "identity_fp32")
    equal(sizes(answer), {"y": 0}, "binary_data_size")
    output(read_reply(answer), "y", x)


@case(f"{NAME}: unaligned data", ("binary",), ["mixed"])
def unaligned(view):
    # A byte in front of each wider type: none stands at a multiple of its size.
    arrays = {
        "flag": np.array([True]), "big": np.array([2**60 + 1], np.int64), "small": np.array([9], np.uint8),
        "double": np.array([0.1]), "text": texts("abc"), "real": np.array([0.5], np.float32),
    }
    reply = view.infer("mixed", [Given(n, x) for n, x in arrays.items()])
    for name, array in arrays.items():
        output(reply, f"{name}_out", array)


def sized(size):
    """A good request in which the first input claims another size."""
    given = pair()
    given[0].parameters = {"binary_data_size": size}
    return binary_request(given)


def both():
    """An input with data and bytes at once."""
    a, b = pair()
    head = json_request([a, b])
    head["inputs"][0]["parameters"] = {"binary_data_size": 32}
    text = json.dumps(head).encode()
    return text + to_bytes(a.array), len(text)


def cut(count):
    body, head = binary_request(pair())
    return body[:-count], head


def with_header(head):
    return binary_request(pair())[0], head


REFUSED = {
    "size under the shape's": lambda: sized(28),
    "size over the shape's": lambda: sized(36),
    "size zero": lambda: sized(0),
    "size negative": lambda: sized(-32),
    "size as a string": lambda: sized("32"),
    "size as a fraction": lambda: sized(32.5),
    "size above 2^63": lambda: sized(2**63 + 32),
    "body cut short": lambda: cut(5),
    "body cut to the JSON": lambda: cut(64),
    "body with bytes left over": lambda: (binary_request(pair())[0] + b"12345", binary_request(pair())[1]),
    "header above the body": lambda: with_header(10_000),
    "header within the JSON": lambda: with_header(40),
    "header negative": lambda: with_header(-1),
    "header no number": lambda: with_header("abc"),
    "header above 2^64": lambda: with_header(2**65),
    "header missing": lambda: with_header(None),
    "data and size at once": both,
}


@case(f"{NAME}: refused", each=tuple(REFUSED), **HERE)
def body_is(view):
    body, head = REFUSED[view.each]()
    answer = send(view, body, head)
    need(400 <= answer.status < 500, f"status {answer.status}: {answer.body[:120]!r}")
    answer.error()
    given = pair()
    check_pair(read_reply(ask(view, given)), given)


RAW_TEXTS = {
    "ends within a length": b"\2\0\0",
    "element longer than the data": b"\xff\xff\xff\x7fab",
    "one element too few": b"\1\0\0\0a",
    "one element too many": b"\1\0\0\0a\1\0\0\0b\1\0\0\0c",
}


@case(f"{NAME}/BYTES: refused", ("binary",), ["identity_bytes"], each=tuple(RAW_TEXTS))
def bytes_data(view):
    raw = RAW_TEXTS[view.each]
    described = {"name": "x", "shape": [1, 2], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [described]}).encode()
    answer = send(view, head + raw, len(head), "identity_bytes")
    need(400 <= answer.status < 500, f"status {answer.status}: {answer.body[:120]!r}")
    answer.error()
