"""How a case is declared, and the words in which cases say what they expect."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from oip.rest import Refused
from oip.tensors import need, same
from oip.wires import WIRES

ALL = ("json", "binary", "grpc", "grpc-raw")
REST = ("rest",)
GRPC = ("rpc",)
TITLES = {"rest": "REST", "json": "REST", "binary": "REST binary", "rpc": "gRPC", "grpc": "gRPC", "grpc-raw": "gRPC raw"}
BINARY_EXTENSION = "binary_tensor_data"

CASES = []


@dataclass(frozen=True)
class Case:
    """One check of one clause over one wire. `level`: required by the protocol's text, or recommended (its usual reading)."""

    id: str
    clause: str
    wire: str
    level: str
    extension: str | None
    models: tuple
    versions: bool
    run: Callable
    each: object = None

    @property
    def title(self):
        return TITLES[self.wire]

    @property
    def group(self):
        return self.id.split(".")[0]


def case(clause, wires, models=(), extension=None, level="required", each=(None,), versions=False):
    """Registers a function as one case a wire and a value of `each`. `extension` is its name in the server's metadata;
    `versions` says that the clause is about servers that have versions, which the protocol leaves open."""

    def register(function):
        group = function.__module__.rsplit(".", 1)[-1]
        for wire, value in itertools.product(wires, each):
            suffix = "" if value is None else f"[{value}]"
            wanted = extension or (BINARY_EXTENSION if wire == "binary" else None)
            needed = models(value) if callable(models) else models
            CASES.append(Case(f"{group}.{function.__name__}{suffix}.{wire}", clause, wire, level, wanted, tuple(needed), versions, function, value))
        return function

    return register


class View:
    """What a case sees: the target, its wire, its value."""

    def __init__(self, target, case):
        self.target, self.case, self.each = target, case, case.each
        self.rest, self.grpc, self.metadata = target.rest, target.grpc, target.metadata
        self.wire = WIRES[case.wire](target) if case.wire in WIRES else None

    def infer(self, *arguments, **named):
        return self.wire.infer(*arguments, **named)

    def on(self, wire):
        return WIRES[wire](self.target)


def equal(got, wanted, what):
    need(got == wanted, f"{what}: expected {wanted!r}, got {got!r}")


def output(reply, name, wanted):
    """The output is there, of the datatype, shape and elements of the array."""
    need(name in reply.outputs, f"output {name!r} is missing, there are {list(reply.outputs)}")
    got = reply.outputs[name].array
    equal((str(got.dtype), list(got.shape)), (str(wanted.dtype), list(wanted.shape)), f"output {name!r}")
    need(same(got, wanted), f"output {name!r}: expected {wanted.reshape(-1)[:8].tolist()}, got {got.reshape(-1)[:8].tolist()}")


def refusal(call, what):
    """The refusal with which a call ends."""
    try:
        reply = call()
    except Refused as refused:
        return refused
    need(False, f"{what} was answered: {str(reply)[:160]}")


def invalid(call, what, names=()):
    """The request is at fault: REST says 4xx with an error object, gRPC INVALID_ARGUMENT; the message names `names`."""
    refused = refusal(call, what)
    ours = 400 <= refused.code < 500 if isinstance(refused.code, int) else refused.kind == "invalid"
    need(ours, f"{what} was refused as {refused}")
    for name in names:
        need(name.lower() in refused.message.lower(), f"the message does not name {name!r}: {refused.message!r}")


def absent(call, what):
    """Something that is not there: any 4xx or 501, or any error of gRPC that is not the server's own."""
    refused = refusal(call, what)
    by_http = isinstance(refused.code, int) and (400 <= refused.code < 500 or refused.code == 501)
    ours = by_http or refused.kind in ("invalid", "not_found", "unavailable", "unimplemented", "other")
    need(ours, f"{what} was refused as {refused}")


def not_found(call, what):
    """Likewise, by the code that HTTP and gRPC have for it."""
    equal(refusal(call, what).kind, "not_found", f"kind of the refusal of {what}")
