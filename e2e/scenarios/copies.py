"""Shadow of the scenario rollouts: requests over each wire of the protocol, whose copies are counted one by one, and a version that fails them. Its
answers are nobody's, and neither fails nor delays a live one."""

import http.client
import json
import struct
import time

from grpc_calls import calls
from kube import Failed, condition, read, say, wait
from routed import total, traffic
from served import NS, body, status_of

WIRES = ("REST in JSON", "REST in bytes", "gRPC")
# Requests over each wire.
EACH = 100
TIMEOUT_SECONDS = 2


def in_bytes(row):
    """An inference request for one row in the binary form, and its headers; it wants its answer so, too."""
    data = struct.pack(f"<{len(row)}f", *row)
    tensor = {"name": "X", "shape": [1, len(row)], "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return head + data, {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}


class Live:
    """Requests to one service, of which each must be answered within two seconds. Remembers how long the slowest took."""

    def __init__(self, address, name):
        self.address, self.name, self.sent, self.slowest = address, name, 0, 0.0

    def send(self, wire, row, count):
        """So many, one after another; the revisions that answered."""
        if wire == "gRPC":
            said = calls(self.address, f"{self.name}.{NS.name}.svc", row, count, TIMEOUT_SECONDS)
            answers = [(one.get("x-millrace-revision"), one["seconds"]) for one in said]
        else:
            answers = self.over_rest(*(in_bytes(row) if wire == "REST in bytes" else (body(row), {})), count)
        self.sent += len(answers)
        self.slowest = max(self.slowest, *(seconds for _, seconds in answers))
        return {revision for revision, _ in answers}

    def over_rest(self, request, headers, count):
        connection, answers = http.client.HTTPConnection(self.address, timeout=TIMEOUT_SECONDS), []
        try:
            for _ in range(count):
                began = time.monotonic()
                connection.request("POST", f"/v2/models/{self.name}/infer", request, headers)
                response = connection.getresponse()
                data = response.read()
                if response.status != 200:
                    raise Failed(f"{response.status} {data[:200]!r}")
                answers.append((response.getheader("x-millrace-revision"), time.monotonic() - began))
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"a live request failed: {error!r}") from error
        finally:
            connection.close()
        return answers


def counted(name):
    """What became of the copies, summed over the routers, since the mirror leads to this revision."""
    mirrors = [one["mirror"] for one in traffic(name) if one.get("mirror")]
    counters = ("sent", "shed", "failed", "incomparable", "classesCompared", "classesAgreed")
    return {counter: sum(mirror[counter] for mirror in mirrors) for counter in counters}


def since(name, before):
    return {counter: count - before[counter] for counter, count in counted(name).items()}


def have_ended(counts):
    """Of each copy something is counted once it is over."""
    return counts["classesCompared"] + counts["failed"] + counts["incomparable"] + counts["shed"]


def next_step(name):
    return lambda: status_of(name).get("nextStep")


def gets_copies(name, version):
    """Waits until every router sends them, and they count; the revision. What was counted before that look of the operator's is no evidence."""
    def look():
        status = status_of(name)
        canary = status.get("canary") or {}
        if canary.get("modelVersion") != version or (canary.get("weight") or {}).get("accepted") != 0:
            return None
        map_ = read(f"/api/v1/namespaces/{NS.name}/configmaps/{name}-evidence")
        evidence = json.loads(((map_ or {}).get("data") or {}).get("evidence.json", "{}"))
        counts = (evidence.get("canary"), evidence.get("generation")) == (canary["revision"], status["planGeneration"])
        return canary["revision"] if counts else None
    return wait(f"{version} gets copies", look, 180, next_step(name))


def fail_alone(live, bad, row):
    """The copies of this row fail with the version; the live requests do not, and the version is rejected for it."""
    name = live.name
    canary, stable = gets_copies(name, bad), status_of(name)["stable"]["revision"]
    failed = 0

    def is_rejected():
        nonlocal failed
        answered = set.union(*(live.send(wire, row, 10) for wire in WIRES))
        if answered != {stable}:
            raise Failed(f"while copies fail with {canary}, live requests were answered by {answered}, not by {stable} alone")
        failed = max(failed, counted(name)["failed"])
        return next((one for one in status_of(name).get("rejected", []) if one["modelVersion"] == bad), None)

    entry = wait(f"{bad} is rejected for its copies", is_rejected, 120, next_step(name))
    say(f"  {entry['reason']}: {entry['message']}")
    if entry["reason"] != "Agreement" or not failed:
        raise Failed(f"it was rejected otherwise, or no copy failed ({failed}): {entry}")
    if condition({"status": status_of(name)}, "Ready")[0] != "True":
        raise Failed(f"users are not served: {condition({'status': status_of(name)}, 'Ready')}")


def are_compared(live, version, row):
    """Copies of each wire's requests, one by one; then what status says of them all, and that none of them counts as a request of its own."""
    name = live.name
    canary, stable = gets_copies(name, version), status_of(name)["stable"]["revision"]
    former, answered = counted(name), total(name, canary, "answered")
    for wire in WIRES:
        before = counted(name)
        if (revisions := live.send(wire, row, EACH)) != {stable}:
            raise Failed(f"{wire}: live requests were answered by {revisions}, not by {stable} alone")
        found = wait(f"copies of {EACH} requests, {wire}, are over", lambda: have_ended(now := since(name, before)) >= EACH and now, 60,
                     lambda: str(since(name, before)))
        # A router that is short of something leaves copies out first.
        wrong = found["failed"] or found["incomparable"] or have_ended(found) != EACH or found["classesCompared"] < EACH // 2
        say(f"  {wire}: {found['classesAgreed']} of {found['classesCompared']} copies agree, {found['shed']} were left out")
        if wrong or not found["classesAgreed"]:
            raise Failed(f"copies of {EACH} requests, {wire}, came to {found}")
    in_status(name, since(name, former))
    if (now := total(name, canary, "answered")) != answered:
        raise Failed(f"{now - answered} copies were counted as answers to users")


def in_status(name, counts):
    """The checks rest on these copies, each of them, and on nothing else; nothing is measured of a share."""
    compared, agreed = counts["classesCompared"], counts["classesAgreed"]
    checks = lambda: {check["name"]: check for check in (status_of(name).get("rollout") or {}).get("checks", [])}
    agreement = lambda: checks().get("agreement") or {}
    wait(f"status has counted {compared} copies", lambda: agreement().get("samples") == compared, 60, lambda: agreement().get("message"))
    disagree = (compared - agreed) / compared
    if set(checks()) != {"agreement", "latencyRatio"} or abs(agreement()["value"] - disagree) > 1e-9:
        raise Failed(f"{disagree:.3f} of the copies disagree, and nothing else is judged: {checks()}")
    weights = lambda: [(status_of(name).get(role) or {}).get("weight") or {} for role in ("stable", "canary")]
    wait("no copy counts as a request of its own", lambda: [weight.get("measured") for weight in weights()] == [100, 0], 30, lambda: str(weights()))
    say(f"  {agreement()['message']}")
