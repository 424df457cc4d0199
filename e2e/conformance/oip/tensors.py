"""Elements of the protocol's datatypes: as numpy arrays, as bytes, as JSON. Pure."""

import math
import struct
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

NUMPY = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(object),
}
FLOATS = ("FP16", "BF16", "FP32", "FP64")
INTEGERS = tuple(d for d in NUMPY if "INT" in d)


class Broken(AssertionError):
    """The answer is not what the protocol says an answer is."""


def need(condition, message):
    if not condition:
        raise Broken(message)


@dataclass
class Given:
    """A tensor of a request. `datatype` and `shape` are what is claimed; they may lie about `array`."""

    name: str
    array: np.ndarray
    datatype: str = None
    shape: list = None
    parameters: dict = field(default_factory=dict)

    def __post_init__(self):
        self.true_datatype = datatype_of(self.array)
        self.datatype = self.datatype or self.true_datatype
        self.shape = list(self.array.shape) if self.shape is None else self.shape


@dataclass
class Got:
    """A tensor of an answer, checked against itself."""

    name: str
    datatype: str
    shape: list
    array: np.ndarray
    parameters: dict


def datatype_of(array):
    return next(name for name, dtype in NUMPY.items() if dtype == array.dtype)


def count(shape):
    return math.prod(shape)


def texts(*values):
    """A BYTES array of one dimension."""
    array = np.empty(len(values), object)
    array[:] = [v.encode() if isinstance(v, str) else v for v in values]
    return array


def to_bytes(array):
    """Little-endian, row-major; BYTES elements each behind their length."""
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(element)) + element for element in array.reshape(-1))
    return np.ascontiguousarray(array).tobytes()


def from_bytes(raw, datatype, shape, where):
    need(datatype in NUMPY, f"{where}: datatype {datatype!r} is none of the protocol's")
    elements = count(shape)
    if datatype == "BYTES":
        return _texts_from_bytes(raw, elements, where).reshape(shape)
    size = NUMPY[datatype].itemsize
    need(len(raw) == elements * size, f"{where}: {datatype} {shape} takes {elements * size} bytes, there are {len(raw)}")
    if datatype == "BOOL":
        need(set(raw) <= {0, 1}, f"{where}: BOOL elements must be bytes 0 or 1, there are {sorted(set(raw))[:4]}")
    return np.frombuffer(raw, NUMPY[datatype]).reshape(shape)


def _texts_from_bytes(raw, elements, where):
    found, at = [], 0
    while at < len(raw):
        need(at + 4 <= len(raw), f"{where}: BYTES ends within a length at byte {at}")
        (length,) = struct.unpack_from("<I", raw, at)
        need(at + 4 + length <= len(raw), f"{where}: BYTES element of {length} bytes ends after the data")
        found.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    need(len(found) == elements, f"{where}: {elements} BYTES elements by the shape, {len(found)} in the data")
    return texts(*found)


def to_json(array):
    """A flat list. Bytes must be UTF-8: JSON has no other strings."""
    flat = array.reshape(-1)
    if array.dtype == object:
        return [element.decode() for element in flat]
    if array.dtype == NUMPY["BF16"]:
        flat = flat.astype(np.float32)
    # A float32 as the shortest decimal of itself, not of the double that it becomes.
    if flat.dtype in (np.float32, np.float16):
        return [float(str(v)) for v in flat]
    return flat.tolist()


def from_json(data, datatype, shape, where):
    need(datatype in NUMPY, f"{where}: datatype {datatype!r} is none of the protocol's")
    need(isinstance(data, list), f"{where}: data must be an array, it is {type(data).__name__}")
    flat = list(_leaves(data))
    elements = count(shape)
    need(len(flat) == elements, f"{where}: shape {shape} has {elements} elements, the data {len(flat)}")
    for value in flat:
        need(_fits(value, datatype), f"{where}: {value!r} is no JSON value of a {datatype} element")
    if datatype == "BYTES":
        return texts(*flat).reshape(shape)
    if datatype in FLOATS:
        flat = [math.nan if v is None else v for v in flat]
    with np.errstate(over="ignore"):
        return np.array(flat, NUMPY[datatype]).reshape(shape)


def _leaves(data):
    for value in data:
        if isinstance(value, list):
            yield from _leaves(value)
        else:
            yield value


def _fits(value, datatype):
    if datatype == "BYTES":
        return isinstance(value, str)
    if datatype == "BOOL":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if datatype in FLOATS:
        return value is None or isinstance(value, int | float)
    limits = np.iinfo(NUMPY[datatype])
    return isinstance(value, int) and limits.min <= value <= limits.max


def same(got, wanted):
    """Bit for bit, NaN included."""
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return False
    if got.dtype == object:
        return all(g == w for g, w in zip(got.reshape(-1), wanted.reshape(-1), strict=True))
    return np.ascontiguousarray(got).tobytes() == np.ascontiguousarray(wanted).tobytes()
