"""Mutated requests over real sockets against our running server: it must answer each by the protocol, not end, not hang, not grow.

    fuzz_live.py [--seconds N] [--seed N]

REST: bodies (JSON, binary) mutated within right HTTP, many in a row on a connection; and whole requests mutated, a connection each.
gRPC: mutated messages of ModelInfer. Prints executions and the codes that came back.
"""

import argparse
import collections
import json
import random
import re
import socket
import sys
import tempfile
import time
from pathlib import Path

import grpc
import models
import numpy as np
from oip.grpc import infer_request
from oip.rest import HEADER, binary_request, json_request
from oip.tensors import Given, texts
from server import Ours

IN_A_ROW = 32
HANG_SECONDS = 15
GROWTH_MEBIBYTES = 64
WORDS = [b"-1", b"0", b"1e999", b"9223372036854775807", b"18446744073709551616", b"null", b"{}", b"[]", b"[[[[", b'"', b"\\u0000", b"\xff",
         b"FP16", b"BYTES", b"binary_data_size", b"parameters", b"classification", b"true", b"\0\0\0\xff", b"4294967295"]


def seeds():
    """Good requests: (model, body, length of the JSON or None), and gRPC messages."""
    floats = [Given(n, np.arange(8, dtype=np.float32).reshape(2, 4)) for n in ("a", "b")]
    mixed = [Given("flag", np.array([True])), Given("small", np.array([1], np.uint8)), Given("big", np.array([-1], np.int64)),
             Given("real", np.array([0.5], np.float32)), Given("double", np.array([0.1])), Given("text", texts("a\u00fc"))]
    rest, rpc = [], []
    for model, given, outputs in (("add_sub", floats, ["sum"]), ("mixed", mixed, None)):
        rest.append((model, json.dumps(json_request(given, outputs, "id")).encode(), None))
        rest.append((model, *binary_request(given, outputs, "id")))
        rpc += [infer_request(model, given, outputs, "id", raw=raw).SerializeToString() for raw in (True, False)]
    return rest, rpc


def mutated(data, draw):
    """A few small changes anywhere."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        at, kind = draw.randrange(len(data) + 1), draw.randrange(7)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << draw.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = draw.randrange(256)
        elif kind == 2:
            del data[at : at + draw.randrange(1, 9)]
        elif kind == 3:
            data[at:at] = draw.choice(WORDS)
        elif kind == 4:
            data[at : at + draw.randrange(1, 5)] = draw.choice(WORDS)
        elif kind == 5:
            data[at:at] = data[at : at + draw.randrange(1, 40)] * draw.randrange(1, 4)
        else:
            del data[at:]
    return bytes(data)


def http(model, body, head):
    lines = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    return (lines + (f"{HEADER}: {head}\r\n" if head is not None else "") + "\r\n").encode() + body


class Fuzzer:
    def __init__(self, ours, seed):
        self.ours, self.draw = ours, random.Random(seed)
        self.rest, self.rpc = seeds()
        self.codes, self.executions = collections.Counter(), collections.Counter()
        self.channel = grpc.insecure_channel(ours.grpc)
        self.infer = self.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.ours.port), timeout=HANG_SECONDS)

    def bodies(self):
        """Wrong bodies in right HTTP: each must be answered, in order, on one connection."""
        batch = []
        for _ in range(IN_A_ROW):
            model, body, head = self.draw.choice(self.rest)
            if head is not None and self.draw.random() < 0.2:
                head = self.draw.choice((0, head - 1, head + 1, len(body), len(body) + 1, 2**64, "x"))
            batch.append(http(model, mutated(body, self.draw), head))
        # The last one asks for the end: a client that ends its own half first may have left, and need not be answered.
        batch[-1] = batch[-1].replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n", 1)
        with self.connect() as connection:
            connection.sendall(b"".join(batch))
            got = b""
            while part := connection.recv(1 << 20):
                got += part
        codes = re.findall(rb"HTTP/1\.1 (\d{3})", got)
        # An answer may hold the words as an element; fewer answers than requests is what counts.
        told = b"connection: close" in got[got.rfind(b"HTTP/1.1 ") :].lower()
        if len(codes) < len(batch) and not told:
            raise AssertionError(f"{len(batch)} requests, {len(codes)} answers: {batch[len(codes)][:400]!r}")
        self.tell("bodies", codes)

    def heads(self):
        """Whole requests: what is no HTTP may be cut off, but not left hanging."""
        model, body, head = self.draw.choice(self.rest)
        with self.connect() as connection:
            try:
                connection.sendall(mutated(http(model, body, head), self.draw))
                connection.shutdown(socket.SHUT_WR)
                got = b""
                while part := connection.recv(1 << 20):
                    got += part
            except (ConnectionResetError, BrokenPipeError):
                got = b""
        self.tell("heads", re.findall(rb"^HTTP/1\.1 (\d{3})", got) or [b"closed"])

    def messages(self):
        """gRPC messages, many at once on one connection."""
        waiting = [self.infer.future(mutated(self.draw.choice(self.rpc), self.draw), timeout=HANG_SECONDS) for _ in range(IN_A_ROW)]
        for call in waiting:
            code = call.code()
            if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                raise AssertionError(f"a message was answered {code.name}: {call.details()}")
            self.tell("messages", [code.name.encode()])

    def tell(self, kind, codes):
        self.executions[kind] += len(codes)
        self.codes.update((kind, code.decode()) for code in codes)


def resident_mebibytes(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-models-") as folder:
        models.write(folder, ["add_sub", "mixed"])
        with Ours(folder) as ours:
            fuzzer = Fuzzer(ours, options.seed)
            began, warm = time.monotonic(), None
            kinds = (fuzzer.bodies, fuzzer.bodies, fuzzer.bodies, fuzzer.messages, fuzzer.heads)
            while (spent := time.monotonic() - began) < options.seconds:
                fuzzer.draw.choice(kinds)()
                if warm is None and spent > options.seconds / 4:
                    warm = resident_mebibytes(ours.process.pid)
            alive = ours.process.poll() is None
            grown = resident_mebibytes(ours.process.pid) - (warm or 0) if alive else 0
    for (kind, code), count in sorted(fuzzer.codes.items()):
        print(f"{kind:<9} {code:<18} {count:>9}")
    fives = sum(n for (_, code), n in fuzzer.codes.items() if code.startswith("5") and code not in ("500", "503"))
    good = alive and grown < GROWTH_MEBIBYTES and not fives
    print(f"live fuzzing, seed {options.seed}: {sum(fuzzer.executions.values())} executions in {spent:.0f} s, server {'alive' if alive else 'DEAD'}, "
          f"resident memory {grown:+.1f} MiB since the first quarter")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
