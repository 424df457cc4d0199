"""The statistics extension: counts that grow by exactly what was asked."""

import time

from oip.grpc import pb
from oip.rest import Refused
from oip.tensors import Given, need

from .inference import floats, pair
from .registry import GRPC, REST, absent, case, equal

NAME = "Statistics"
DURATIONS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
# Longer than any machine needs that has other tests beside.
SETTLE_SECONDS = 5
HERE = {"models": ["add_sub"], "extension": "statistics"}


def rest_stats(view, path="/models/add_sub/stats"):
    answer = view.rest.get(f"/v2{path}")
    if answer.status != 200:
        raise Refused("not_found" if answer.status == 404 else "other", answer.status, answer.error())
    return answer.json()["model_stats"]


def rpc_stats(view, name="add_sub", version=""):
    return view.grpc.call("ModelStatistics", pb.ModelStatisticsRequest(name=name, version=version)).model_stats


def counts(view):
    if view.case.wire == "rest":
        (stats,) = rest_stats(view)
        inference = stats["inference_stats"]
        found = stats["inference_count"], stats["execution_count"], *(inference[k]["count"] for k in ("success", "fail"))
    else:
        (stats,) = rpc_stats(view)
        found = stats.inference_count, stats.execution_count, stats.inference_stats.success.count, stats.inference_stats.fail.count
    return [int(n) for n in found]


def settled(view, before, wanted):
    """Counters may follow the answer by a moment: waits until they have moved as wanted."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        moved = [after - was for after, was in zip(counts(view), before, strict=True)]
        if [m for m, w in zip(moved, wanted, strict=True) if w is not None] == [w for w in wanted if w is not None]:
            return
        need(time.monotonic() < deadline, f"inferences, executions, successes, failures moved by {moved}, expected {wanted}")
        time.sleep(0.02)


@case(f"{NAME} Response JSON Object", REST, **HERE)
def fields(view):
    (stats,) = rest_stats(view)
    equal(stats["name"], "add_sub", "name")
    for field in ("inference_count", "execution_count", "last_inference"):
        need(isinstance(stats[field], int), f"{field} is {stats[field]!r}")
    for field in DURATIONS:
        need(set(stats["inference_stats"][field]) >= {"count", "ns"}, f"{field} is {stats['inference_stats'][field]}")
    need(isinstance(stats["batch_stats"], list), "batch_stats is no list")


@case(f"{NAME}/inference_count: a batch of n counts n, success counts requests", REST + GRPC, **HERE)
def counts_rows(view):
    before = counts(view)
    view.on("json").infer("add_sub", pair(rows=3))
    view.on("json").infer("add_sub", pair(rows=4))
    settled(view, before, [7, 2, 2, 0])


@case(f"{NAME}/fail: refused requests are no success", REST + GRPC, **HERE)
def failures_are_no_successes(view):
    before = counts(view)
    try:
        view.on("json").infer("add_sub", [Given("a", floats(2, 4))])
    except Refused:
        settled(view, before, [0, 0, 0, None])
    else:
        need(False, "a missing input was answered")


@case(f"{NAME}/last_inference: milliseconds since the epoch", REST, **HERE)
def last_inference(view):
    view.on("json").infer("add_sub", pair())
    (stats,) = rest_stats(view)
    need(abs(stats["last_inference"] - time.time() * 1000) < 60_000, f"last_inference is {stats['last_inference']}")


@case(f"{NAME}/ns: time is spent on every success", REST, **HERE)
def durations(view):
    view.on("json").infer("add_sub", pair())
    (stats,) = rest_stats(view)
    for field in ("success", "compute_infer"):
        need(stats["inference_stats"][field]["ns"] > 0, f"{field} is {stats['inference_stats'][field]}")


@case(f"{NAME}/batch_stats: the sizes that ran", REST, **HERE)
def batch_sizes(view):
    view.on("json").infer("add_sub", pair(rows=5))
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        (stats,) = rest_stats(view)
        sizes = [batch["batch_size"] for batch in stats["batch_stats"]]
        if 5 in sizes:
            return
        need(time.monotonic() < deadline, f"batch sizes are {sizes}, 5 ran")
        time.sleep(0.02)


@case(f"{NAME}: of all models", REST, **HERE)
def of_all(view):
    need("add_sub" in [stats["name"] for stats in rest_stats(view, "/models/stats")], "add_sub is missing")


@case(f"{NAME}: of a version", REST, ["versioned"], extension="statistics", versions=True)
def of_a_version(view):
    (stats,) = rest_stats(view, "/models/versioned/versions/1/stats")
    equal((stats["name"], stats["version"]), ("versioned", "1"), "name and version")


@case(f"{NAME}: of an unknown model is an error", REST, extension="statistics")
def of_an_unknown_model(view):
    absent(lambda: rest_stats(view, "/models/no_such_model/stats"), "statistics of an unknown model")


@case(f"{NAME}/ModelStatistics: of all models", GRPC, **HERE)
def of_all_rpc(view):
    need("add_sub" in [stats.name for stats in rpc_stats(view, "")], "add_sub is missing")


@case(f"{NAME}/ModelStatistics: of a version", GRPC, ["versioned"], extension="statistics", versions=True)
def of_a_version_rpc(view):
    (stats,) = rpc_stats(view, "versioned", "2")
    equal((stats.name, stats.version), ("versioned", "2"), "name and version")


@case(f"{NAME}/ModelStatistics: of an unknown model is an error", GRPC, extension="statistics")
def of_an_unknown_model_rpc(view):
    absent(lambda: rpc_stats(view, "no_such_model"), "statistics of an unknown model")
