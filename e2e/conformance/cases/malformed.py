"""REST: bodies, paths and methods that are not the protocol's, and JSON that is but looks unusual."""

import json

import numpy as np
from oip.rest import json_request, read_reply
from oip.tensors import Given, need, texts, to_json

from .inference import check_pair, pair
from .registry import REST, case, equal, output

PATH = "/v2/models/add_sub/infer"


def healthy(view):
    given = pair()
    check_pair(read_reply(view.rest.post(PATH, json_request(given))), given)


def refused(view, body, path=PATH, method="POST"):
    """4xx with the error object; afterwards the same connection serves."""
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    answer = view.rest.call(method, path, body, {"Content-Type": "application/json"})
    need(400 <= answer.status < 500, f"status {answer.status}: {answer.body[:120]!r}")
    answer.error()
    healthy(view)


def without(*fields, **changed):
    """A good request with fields of its first input left out or changed."""
    document = json_request(pair())
    document["inputs"][0] = {k: v for k, v in (document["inputs"][0] | changed).items() if k not in fields}
    return document


BODIES = {
    "nothing": b"",
    "no JSON": b"hello",
    "half of a JSON document": json.dumps(json_request(pair())).encode()[:-20],
    "JSON with something behind it": json.dumps(json_request(pair())).encode() + b"}",
    "no UTF-8": b'{"inputs": [], "id": "\xff\xfe"}',
    "an array": [],
    "a number": 7,
    "null": None,
    "no inputs": {},
    "inputs that are an object": {"inputs": {}},
    "inputs that are null": {"inputs": None},
    "an input that is a string": {"inputs": ["a"]},
    "an input without name": without("name"),
    "an input without shape": without("shape"),
    "an input without datatype": without("datatype"),
    "an input without data": without("data"),
    "a name that is a number": without(name=7),
    "a shape that is a number": without(shape=8),
    "a shape of strings": without(shape=["2", "4"]),
    "a shape of fractions": without(shape=[2.5, 4]),
    "a dimension above 64 bits": without(shape=[2**70, 4]),
    "a datatype that is a number": without(datatype=32),
    "data that are a number": without(data=1),
    "data that are an object": without(data={"0": 1}),
    "outputs that are a string": json_request(pair()) | {"outputs": "sum"},
    "an output without name": json_request(pair()) | {"outputs": [{}]},
    "strings for numbers": without(data=list("12345678")),
    "booleans for numbers": without(data=[True] * 8),
    "one string among numbers": without(data=[1, 2, 3, 4, 5, 6, 7, "8"]),
    "nesting that is uneven": without(data=[[1, 2, 3, 4], [5, 6, 7]]),
    "nesting that is not the shape's": without(data=[[1, 2], [3, 4], [5, 6], [7, 8]]),
    "objects as elements": without(data=[{}] * 8),
    "arrays 100,000 deep": b'{"inputs": ' + b"[" * 100_000,
    "objects 100,000 deep": b'{"a":' * 100_000,
}


@case("Inference Request JSON Object: refused", REST, ["add_sub"], each=tuple(BODIES))
def body_is(view):
    refused(view, BODIES[view.each])


RANGES = {
    "INT8 above 127": ("INT8", [128]),
    "INT8 under -128": ("INT8", [-129]),
    "UINT8 negative": ("UINT8", [-1]),
    "UINT16 above 65535": ("UINT16", [65536]),
    "INT32 above 2^31-1": ("INT32", [2**31]),
    "UINT32 negative": ("UINT32", [-1]),
    "INT64 above 2^63-1": ("INT64", [2**63]),
    "UINT64 above 2^64-1": ("UINT64", [2**64]),
    "INT32 a fraction": ("INT32", [1.5]),
    "BYTES a number": ("BYTES", [1]),
    "BOOL a string": ("BOOL", ["true"]),
    "FP32 an array deeper": ("FP32", [[[1]]]),
}


@case("Tensor Data/JSON: an element that does not fit", REST, lambda each: [f"identity_{RANGES[each][0].lower()}"], each=tuple(RANGES), level="recommended")
def element_is(view):
    datatype, data = RANGES[view.each]
    document = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": datatype, "data": data}]}
    answer = view.rest.post(f"/v2/models/identity_{datatype.lower()}/infer", document)
    need(400 <= answer.status < 500, f"status {answer.status}: {answer.body[:160]!r}")
    answer.error()


@case("Tensor Data/JSON: nested or flat, the same tensor", REST, ["add_sub"])
def nested_data(view):
    given = pair()
    document = json_request(given)
    for described, tensor in zip(document["inputs"], given, strict=True):
        described["data"] = tensor.array.tolist()
    check_pair(read_reply(view.rest.post(PATH, document)), given)


@case("Tensor Data/JSON: whole numbers are floats too", REST, ["add_sub"])
def integers_as_floats(view):
    given = pair()
    document = json_request(given)
    for described, tensor in zip(document["inputs"], given, strict=True):
        described["data"] = [int(v) for v in tensor.array.reshape(-1)]
    check_pair(read_reply(view.rest.post(PATH, document)), given)


@case("Inference Request JSON Object: members in any order", REST, ["add_sub"])
def members_in_any_order(view):
    given = pair()
    document = json_request(given, ["sum", "difference"], "1")
    turned = {k: document[k] for k in reversed(document)}
    turned["inputs"] = [{k: described[k] for k in reversed(described)} for described in document["inputs"]]
    check_pair(read_reply(view.rest.post(PATH, turned)), given)


@case("JSON: white space, escapes and exponents", REST, ["mixed"])
def json_as_people_write_it(view):
    body = b"""
    { "inputs" : [
        {"name":"flag", "shape":[ 1 ], "datatype":"BOOL", "data":[ true ]},
        {"name":"small", "shape":[1], "datatype":"UINT8", "data":[7]},
        {"name":"big", "shape":[1], "datatype":"INT64", "data":[-9]},
        {"name":"r\\u0065al", "shape":[1], "datatype":"FP32", "data":[1.5e2]},
        {"name":"double", "shape":[1], "datatype":"FP64", "data":[-2E-1]},
        {"name":"text", "shape":[1], "datatype":"BYTES", "data":["\\ud83d\\ude00\\n\\/\\u00e9"]}
    ] }\r\n"""
    reply = read_reply(view.rest.post("/v2/models/mixed/infer", body))
    output(reply, "real_out", np.array([150], np.float32))
    output(reply, "double_out", np.array([-0.2]))
    output(reply, "text_out", texts("\U0001f600\n/\u00e9"))


@case("Inference Request/outputs: null or left out is the same", REST, ["add_sub"], level="recommended")
def outputs_null(view):
    given = pair()
    check_pair(read_reply(view.rest.post(PATH, json_request(given) | {"outputs": None})), given)


@case("Inference: the verb is POST", REST, ["add_sub"], level="recommended")
def infer_is_not_got(view):
    equal(view.rest.get(PATH).status, 405, f"status of GET {PATH}")


@case("Paths: an unknown one is 404", REST, each=("/v2/nothing", "/v2/models/add_sub/nothing", "/v3"))
def unknown_path(view):
    equal(view.rest.get(view.each).status, 404, f"status of GET {view.each}")


@case("Paths: a name may be percent-encoded", REST, ["add_sub"], level="recommended")
def encoded_name(view):
    given = pair()
    check_pair(read_reply(view.rest.post("/v2/models/%61dd%5Fsub/infer", json_request(given))), given)


@case("Paths: a name cannot leave the repository", REST, each=("..%2f..%2fetc", "%2e%2e", "add_sub%00", "%ff"))
def odd_names(view):
    answer = view.rest.get(f"/v2/models/{view.each}")
    need(400 <= answer.status < 500, f"status {answer.status}")


@case("Inference Response JSON Object: content type", REST, ["add_sub"])
def answer_is_json(view):
    answer = view.rest.post(PATH, json_request(pair()))
    equal(answer.headers.get("content-type", "").split(";")[0], "application/json", "content type")


@case("Inference Response JSON Error Object: content type", REST)
def error_is_json(view):
    answer = view.rest.post(PATH, b"{")
    need(400 <= answer.status < 500, f"status {answer.status}")
    equal(answer.headers.get("content-type", "").split(";")[0], "application/json", "content type")


@case("Inference Response/id: none is given where none was sent", REST, ["add_sub"], level="recommended")
def no_id_is_invented(view):
    equal(view.rest.post(PATH, json_request(pair())).json().get("id"), None, "id")


@case("Tensor Data/JSON: the answer's FP32 are the shortest decimals", REST, ["identity_fp32"], level="recommended")
def short_decimals(view):
    x = Given("x", np.array([[0.1, 0.2, 16777216.0]], np.float32))
    answer = view.rest.post("/v2/models/identity_fp32/infer", json_request([x]))
    equal(answer.json()["outputs"][0]["data"], to_json(x.array), "data")
