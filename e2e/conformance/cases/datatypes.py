"""Every datatype there and back, over every wire, and the values that are easily lost on the way."""

import numpy as np
from oip.rest import Refused
from oip.tensors import FLOATS, INTEGERS, NUMPY, Given, need, texts

from .registry import ALL, case, output

EXACT = tuple(d for d in NUMPY if d not in ("FP16", "BF16"))
SIXTEEN = ("FP16", "BF16")


def identity_of(datatype):
    return [f"identity_{datatype.lower()}"]


def sample(datatype):
    """Six elements with the ends of the range among them, as [2, 3]."""
    dtype = NUMPY[datatype]
    if datatype == "BYTES":
        values = texts("", "plain", "snowman \u2603", "quote \" and \\", "two\nlines\t", "\U0001f600")
    elif datatype == "BOOL":
        values = np.array([True, False, False, True, True, False])
    elif datatype in INTEGERS:
        limits = np.iinfo(dtype)
        values = np.array([limits.min, limits.max, 0, 1, limits.max - 1, 100], dtype)
    else:
        values = np.array([0.0, 1.0, -1.5, 0.1, 1e4, -3e-5], np.float64).astype(dtype)
    return values.reshape(2, 3)


def round_trip(view, array):
    reply = view.infer(f"identity_{view_datatype(array)}", [Given("x", array)])
    output(reply, "y", array)


def view_datatype(array):
    return next(name for name, dtype in NUMPY.items() if dtype == array.dtype).lower()


@case("Tensor Data Types", ALL, identity_of, each=EXACT)
def comes_back_as_sent(view):
    round_trip(view, sample(view.each))


@case("Tensor Data Types: 16-bit floats are raw", ("binary", "grpc-raw"), identity_of, each=SIXTEEN)
def sixteen_bits_come_back_as_sent(view):
    round_trip(view, sample(view.each))


@case("Tensor Data: 16-bit floats as JSON numbers are answered right or refused", ("json",), identity_of, each=SIXTEEN, level="recommended")
def sixteen_bits_as_json(view):
    array = sample(view.each)
    try:
        reply = view.infer(*identity_of(view.each), [Given("x", array)])
    except Refused as refused:
        need(400 <= refused.code < 500, f"refused as {refused}")
        return
    output(reply, "y", array)


@case("Tensor Data/raw: NaN, infinities, negative zero and subnormals keep their bits", ("binary", "grpc-raw"), identity_of, each=FLOATS)
def special_values_keep_their_bits(view):
    dtype = NUMPY[view.each]
    bits = {2: np.uint16, 4: np.uint32, 8: np.uint64}[dtype.itemsize]
    array = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 0.0], np.float64).astype(dtype)
    array.view(bits)[5] = 1
    round_trip(view, array.reshape(2, 3))


@case("Tensor Data/contents: NaN, infinities and negative zero", ("grpc",), identity_of, each=("FP32", "FP64"))
def special_values_as_contents(view):
    round_trip(view, np.array([[np.nan, np.inf, -np.inf, -0.0]], NUMPY[view.each]))


@case("Tensor Data/JSON: what JSON has no number for is never written as one", ("json",), ["identity_fp32"])
def special_values_in_json(view):
    # Sent by the binary extension or as overflow where there is none; what counts is that the answer is JSON.
    body = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1e39, -1e39]}]}'
    answer = view.rest.post("/v2/models/identity_fp32/infer", body)
    need(answer.status < 500, f"status {answer.status}")
    answer.json()


@case("Tensor Data/JSON: every FP32 is written so that it reads back the same", ("json",), ["identity_fp32"])
def floats_are_written_exactly(view):
    bits = np.random.default_rng(1).integers(0, 2**32, 2000, np.uint64).astype(np.uint32)
    floats = bits.view(np.float32)
    round_trip(view, floats[np.isfinite(floats)].reshape(1, -1))


@case("Tensor Data/JSON: every FP64 is written so that it reads back the same", ("json",), ["identity_fp64"])
def doubles_are_written_exactly(view):
    bits = np.random.default_rng(2).integers(0, 2**64, 2000, np.uint64)
    doubles = bits.view(np.float64)
    round_trip(view, doubles[np.isfinite(doubles)].reshape(1, -1))


@case("Tensor Data/JSON: integers above 2^53 are exact", ("json",), identity_of, each=("INT64", "UINT64"))
def wide_integers_are_exact(view):
    round_trip(view, np.array([[2**53 + 1, 2**62 + 3, 2**63 - 1]], NUMPY[view.each]))


@case("Tensor Data/BYTES: empty strings and zero bytes are elements", ("binary", "grpc", "grpc-raw"), ["identity_bytes"])
def empty_strings_are_elements(view):
    round_trip(view, texts("", "", "x").reshape(1, 3))


@case("Tensor Data/BYTES: any bytes come back the same or are refused", ("binary", "grpc", "grpc-raw"), ["identity_bytes"])
def arbitrary_bytes(view):
    array = texts(b"\xff\xfe", b"a\x00b", b"\x80").reshape(1, 3)
    try:
        reply = view.infer("identity_bytes", [Given("x", array)])
    except Refused as refused:
        need(refused.kind == "invalid", f"refused as {refused}")
        return
    output(reply, "y", array)


@case("Tensor Data/BYTES: long elements", ALL, ["identity_bytes"])
def long_strings(view):
    round_trip(view, texts("a" * 70_000, "\u00e9" * 3).reshape(1, 2))


@case("Tensor Data Types: several in one request", ALL, ["mixed"])
def all_kinds_at_once(view):
    arrays = {
        "flag": np.array([True, False]),
        "small": np.array([0, 255], np.uint8),
        "big": np.array([-(2**63), 2**63 - 1], np.int64),
        "real": np.array([0.5, -1.25], np.float32),
        "double": np.array([0.1, 1e300]),
        "text": texts("one", "\u00fc"),
    }
    reply = view.infer("mixed", [Given(name, array) for name, array in arrays.items()])
    for name, array in arrays.items():
        output(reply, f"{name}_out", array)
