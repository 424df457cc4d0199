"""The model repository extension: index, load, unload. The model that is moved, `optional`, is loaded again at the end of each case."""

import numpy as np
from oip.grpc import pb
from oip.rest import Refused
from oip.tensors import Given, need

from .registry import GRPC, REST, absent, case, equal, output

NAME = "Model Repository"
MODEL = "optional"
HERE = {"models": [MODEL, "add_sub"], "extension": "model_repository"}
BOTH = REST + GRPC


def index(view, ready=None):
    """name -> states of its versions."""
    if view.case.wire == "rest":
        answer = view.rest.post("/v2/repository/index", {} if ready is None else {"ready": ready})
        equal(answer.status, 200, "status of the index")
        entries = answer.json()
        need(isinstance(entries, list), "the index is no array")
        rows = [(e["name"], e.get("state"), e.get("reason")) for e in entries]
    else:
        reply = view.grpc.call("RepositoryIndex", pb.RepositoryIndexRequest(ready=bool(ready)))
        rows = [(e.name, e.state, e.reason) for e in reply.models]
    found = {}
    for name, state, _ in rows:
        found.setdefault(name, []).append(state)
    return found


def move(view, verb, model):
    if view.case.wire == "rest":
        answer = view.rest.post(f"/v2/repository/models/{model}/{verb}")
        if answer.status != 200:
            raise Refused("not_found" if answer.status == 404 else "other", answer.status, answer.error())
        return
    request = {"load": pb.RepositoryModelLoadRequest, "unload": pb.RepositoryModelUnloadRequest}[verb]
    view.grpc.call(f"RepositoryModel{verb.capitalize()}", request(model_name=model))


def answers(view):
    x = np.array([[1, 2]], np.float32)
    output(view.on("json").infer(MODEL, [Given("x", x)]), "y", x + 1)


class Unloaded:
    """The model is unloaded within the block, and loaded again after it."""

    def __init__(self, view):
        self.view = view

    def __enter__(self):
        move(self.view, "unload", MODEL)

    def __exit__(self, *_):
        move(self.view, "load", MODEL)


@case(f"{NAME}/Index: every model", BOTH, **HERE)
def index_lists(view):
    found = index(view)
    need({MODEL, "add_sub"} <= set(found), f"the index has {sorted(found)}")


@case(f"{NAME}/Index: state READY", BOTH, **HERE)
def index_state(view):
    equal(set(index(view)["add_sub"]), {"READY"}, "state")


@case(f"{NAME}/Index: the body may be empty", REST, level="recommended", **HERE)
def index_of_an_empty_body(view):
    equal(view.rest.call("POST", "/v2/repository/index", b"").status, 200, "status")


@case(f"{NAME}/Index/ready: only what is ready", BOTH, **HERE)
def index_of_the_ready(view):
    need("add_sub" in index(view, True), "a ready model is missing")
    with Unloaded(view):
        need(MODEL not in index(view, True), "an unloaded model is listed as ready")
        need(MODEL in index(view, False), "an unloaded model is not listed")
        need("READY" not in index(view, False)[MODEL], f"its state is {index(view, False)[MODEL]}")


@case(f"{NAME}/Unload: not ready, not answered", BOTH, **HERE)
def unload(view):
    answers(view)
    with Unloaded(view):
        answer = view.rest.get(f"/v2/models/{MODEL}/ready")
        need(400 <= answer.status < 600, f"an unloaded model is ready: {answer.status}")
        try:
            view.on("json").infer(MODEL, [Given("x", np.array([[1, 2]], np.float32))])
        except Refused as refused:
            need(refused.message, "no message")
        else:
            need(False, "an unloaded model answered")
    answers(view)


@case(f"{NAME}/Load: ready when the answer comes", BOTH, **HERE)
def load(view):
    with Unloaded(view):
        pass
    equal(view.rest.get(f"/v2/models/{MODEL}/ready").status, 200, "status of ready")
    answers(view)


@case(f"{NAME}/Load: of a loaded model reloads it", BOTH, **HERE)
def reload(view):
    move(view, "load", MODEL)
    answers(view)


@case(f"{NAME}/Load: of an unknown model is an error", BOTH, **HERE)
def load_unknown(view):
    absent(lambda: move(view, "load", "no_such_model"), "load of an unknown model")


@case(f"{NAME}/Load: a name cannot leave the repository", REST, **HERE)
def load_outside(view):
    answer = view.rest.post("/v2/repository/models/..%2f..%2fetc/load")
    need(400 <= answer.status < 500, f"status {answer.status}")


@case(f"{NAME}/Unload: of an unknown model is an error", BOTH, level="recommended", **HERE)
def unload_unknown(view):
    absent(lambda: move(view, "unload", "no_such_model"), "unload of an unknown model")


@case(f"{NAME}: others serve on", BOTH, **HERE)
def others_serve(view):
    from .inference import check_pair, pair

    with Unloaded(view):
        given = pair()
        check_pair(view.on("json").infer("add_sub", given), given)
