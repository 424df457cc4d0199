"""The node tests of the `onnx` package, each served by our server and asked for through every wire: the answer must be what the same
ONNX Runtime says in this process, bit for bit. Prints how many were served, refused with which reason, or not comparable.

    nodes.py [--only PATTERN] [--most N] [--chunk N] [--verbose]
"""

import argparse
import collections
import ctypes
import math
import re
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from conformance import Target
from oip.grpc import CONTENTS
from oip.rest import Refused
from oip.tensors import NUMPY, Broken, Given, Got, same
from oip.wires import WIRES
from onnx import helper, numpy_helper
from server import Ours

DATATYPES = set(NUMPY.values())
WRONG = "WRONG"
REPEATS = 8
# For the models of one server.
SETTLE_SECONDS = 300


class Unserved(Exception):
    """Why a test is not put to the server."""


def session(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def as_given(name, value):
    value = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    if value.dtype.kind in "US":
        value = value.astype(object)
    if value.dtype not in DATATYPES:
        raise Unserved(f"tensors of {value.dtype}, for which the protocol has no datatype")
    if value.dtype == object:
        texts = np.empty(value.shape, object)
        texts.reshape(-1)[:] = [v.encode() if isinstance(v, str) else v for v in value.reshape(-1)]
        value = texts
    # Big-endian or strided arrays come out of some generators.
    return Given(name, value if value.dtype == object else np.ascontiguousarray(value).reshape(value.shape))


def run_here(runner, given):
    """name -> array of what this process's ONNX Runtime answers."""
    outputs = runner.get_outputs()
    for output in outputs:
        if not output.type.startswith("tensor("):
            raise Unserved(f"an output of {output.type}")
    try:
        if any(g.datatype == "BF16" for g in given) or any("bfloat16" in o.type for o in outputs):
            return run_with_values(runner, given, outputs)
        fed = {g.name: as_text(g.array) if g.datatype == "BYTES" else g.array for g in given}
        arrays = runner.run(None, fed)
    except Unserved:
        raise
    except Exception as error:
        raise Unserved(f"ONNX Runtime does not run it: {reason(error)}") from None
    return {o.name: as_given(o.name, a).array for o, a in zip(outputs, arrays, strict=True)}


def run_with_values(runner, given, outputs):
    """Likewise for brain floats, of which numpy knows nothing: they pass as bits."""
    if any(g.datatype == "BYTES" for g in given):
        raise Unserved("text together with brain floats, which Python's onnxruntime does not take")
    fed = {}
    for g in given:
        bits = g.array.view(np.uint16) if g.datatype == "BF16" else g.array
        fed[g.name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, helper.np_dtype_to_tensor_dtype(g.array.dtype))
    found = {}
    for output, value in zip(outputs, runner.run_with_ort_values(None, fed), strict=True):
        if value.data_type() == "tensor(bfloat16)":
            raw = ctypes.string_at(value.data_ptr(), 2 * math.prod(value.shape()))
            found[output.name] = np.frombuffer(raw, NUMPY["BF16"]).reshape(value.shape())
        else:
            found[output.name] = as_given(output.name, value.numpy()).array
    return found


def as_text(array):
    texts = np.empty(array.shape, object)
    texts.reshape(-1)[:] = [v.decode() for v in array.reshape(-1)]
    return texts


class Node:
    """One node test: the model, its inputs and what this process's ONNX Runtime answers."""

    def __init__(self, test):
        self.name, self.model = test.name, test.model.SerializeToString()
        self.why = None
        try:
            self._prepare(test)
        except Unserved as why:
            self.why = str(why)

    def _prepare(self, test):
        try:
            first, second = session(self.model), session(self.model)
        except Exception as error:
            raise Unserved(f"ONNX Runtime does not load it: {reason(error)}") from None
        inputs = [i.name for i in test.model.graph.input]
        values = test.data_sets[0][0]
        if any(isinstance(v, list | dict | tuple) or v is None for v in values):
            raise Unserved("an input that is a sequence, map or optional")
        self.given = [as_given(n, v) for n, v in zip(inputs, values, strict=False)]
        self.wanted = run_here(first, self.given)
        # In a session of its own and again and again in this one: some draw the same numbers in every new session.
        others = [run_here(second, self.given), *(run_here(first, self.given) for _ in range(REPEATS))]
        if not all(same(self.wanted[n], again[n]) for again in others for n in again):
            raise Unserved("two runs differ: it draws random numbers")


def reason(error):
    """ONNX Runtime's own word for it, without what differs from test to test."""
    text = str(error)
    if "under development" in text or "Unsupported model IR version" in text:
        return "an operator set that it does not have yet"
    code = re.search(r"\[ONNXRuntimeError\] : \d+ : (\w+) :", text)
    if "not a registered function" in text:
        return "an operator that it does not have"
    return code[1] if code else type(error).__name__


def compare(node, wire, reply):
    for name, wanted in node.wanted.items():
        if name not in reply.outputs:
            raise Broken(f"output {name!r} is missing")
        got: Got = reply.outputs[name]
        array = got.array
        if (array.dtype, list(array.shape)) != (wanted.dtype, list(wanted.shape)):
            raise Broken(f"output {name!r}: expected {wanted.dtype}{list(wanted.shape)}, got {array.dtype}{list(array.shape)}")
        if not same(array, wanted) and not (wire == "json" and json_equal(array, wanted)):
            raise Broken(f"output {name!r}: expected {wanted.reshape(-1)[:6].tolist()}, got {array.reshape(-1)[:6].tolist()}")


def json_equal(got, wanted):
    """JSON has no word for what is not finite: null, which the client reads as NaN."""
    if wanted.dtype.kind not in "fV":
        return False
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    return np.array_equal(np.where(np.isfinite(wanted), wanted, math.nan), got, equal_nan=True)


def ask(node, wire, target):
    if wire == "json" and any(g.array.dtype.kind in "fV" and not np.isfinite(g.array.astype(np.float64)).all() for g in node.given):
        return "no JSON for an input that is not finite"
    if wire == "grpc" and any(g.datatype not in CONTENTS for g in node.given):
        return "no typed contents for 16-bit floats"
    try:
        compare(node, wire, WIRES[wire](target).infer(node.name, node.given))
        return "served"
    except Refused as refused:
        if refused.kind == "not_found":
            return f"{WRONG}: {refused.message[:110]}"
        return f"refused: {re.sub(node.name, 'MODEL', re.sub(r'[0-9]+', '_', refused.message))[:110]}"
    except (Broken, OSError) as error:
        return f"{WRONG}: {error}"


def served_chunk(nodes, outcomes):
    """One server over some of the models."""
    with tempfile.TemporaryDirectory(prefix="nodes-") as folder:
        for node in nodes:
            home = Path(folder) / node.name / "1"
            home.mkdir(parents=True)
            (home / "model.onnx").write_bytes(node.model)
        with Ours(folder, wait_ready=False) as ours:
            target = Target(ours.url, ours.grpc)
            settle(target, len(nodes))
            for node in nodes:
                for wire in WIRES:
                    outcomes[node.name, wire] = ask(node, wire, target)


def is_on_its_way(entry):
    # One whose turn has not come is told as not loaded.
    return entry.get("state") in ("LOADING", "UNKNOWN", None) or entry.get("reason", "").startswith("NotLoaded")


def settle(target, count):
    """Waits until no model is being loaded any more."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        entries = target.rest.post("/v2/repository/index", {}).json()
        if len(entries) >= count and not any(is_on_its_way(e) for e in entries):
            return
        time.sleep(0.1)
    raise SystemExit(f"the models were not loaded within {SETTLE_SECONDS} s")


def print_outcomes(nodes, outcomes, verbose):
    kinds = collections.Counter(n.why and re.sub(r"tensor\(\w+\)|float\w+|u?int\w+", "TYPE", n.why) for n in nodes if n.why)
    print(f"\n{sum(kinds.values()):>5} not put to the server, of which")
    for why, count in kinds.most_common():
        print(f"      {count:>5} {why}")
    put = [n for n in nodes if not n.why]
    wrong = 0
    for wire in WIRES:
        told = collections.Counter(outcomes[n.name, wire] if not outcomes[n.name, wire].startswith(WRONG) else WRONG for n in put)
        wrong += told[WRONG]
        print(f"\n{wire}: {told['served']} of {len(put)} served with the in-process answer, {told[WRONG]} with another")
        for outcome, count in told.most_common():
            if outcome not in ("served", WRONG):
                print(f"      {count:>5} {outcome}")
    for node in put:
        for wire in WIRES:
            outcome = outcomes[node.name, wire]
            if outcome.startswith(WRONG) or (verbose and outcome != "served"):
                print(f"{node.name} {wire}: {outcome}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=".", metavar="PATTERN", help="tests whose name matches")
    parser.add_argument("--most", type=int, metavar="COUNT", help="no more tests than this, evenly drawn")
    parser.add_argument("--chunk", type=int, default=300, metavar="COUNT", help="models a server is started with")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    began = time.monotonic()
    from onnx.backend.test.case.node import collect_testcases

    tests = [t for t in collect_testcases(None) if re.search(options.only, t.name)]
    if options.most and len(tests) > options.most:
        tests = tests[:: math.ceil(len(tests) / options.most)]
    with ThreadPoolExecutor(2) as pool:
        nodes = list(pool.map(Node, tests))
    put = [n for n in nodes if not n.why]
    print(f"onnx {onnx.__version__}, onnxruntime {ort.__version__}: {len(nodes)} node tests, {len(put)} put to the server", flush=True)
    outcomes = {}
    for start in range(0, len(put), options.chunk):
        served_chunk(put[start : start + options.chunk], outcomes)
    wrong = print_outcomes(nodes, outcomes, options.verbose)
    print(f"\nnode tests: {len(put)} models through {len(WIRES)} wires in {time.monotonic() - began:.0f} s, {wrong} wrong answers")
    return 1 if wrong or not put else 0


if __name__ == "__main__":
    sys.exit(main())
