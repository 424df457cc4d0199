"""An outage of the stable revision of both services of the scenario routing: a fallback answers for the one, also over gRPC and under requests of
which none may fail; for the other a new revision stands in, whose rollout a person has paused. Then the stable ones are back."""

import json

from grpc_calls import calls
from kube import Failed, condition, kubectl, read, say, wait
from routed import PARTED, RETURNED, Connection, asked, bearer, routers, says, total
from served import NS, ROW, Requests, address_of, server_selector, status_of

IN_OUTAGE = 100
# kubelet tells the truth about its pods within ten seconds.
ALARMS, ASKED = 6, 20


def is_called_not_ready(revision, headers):
    """All pods of a revision are called not ready, as by a Kubernetes that has lost their node, though nothing is wrong with them."""
    child = f"{PARTED}-{revision}"
    alarm = json.dumps({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "NodeNotReady"}]}})
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{NS.name}/endpointslices?labelSelector=kubernetes.io/service-name={child}"
    has_none = lambda: not any(one["conditions"]["ready"] for each in read(slices)["items"] for one in each.get("endpoints") or [])
    every = [Connection(pod["status"]["podIP"], PARTED, 8080) for pod in routers().values()]
    for _ in range(ALARMS):
        for pod in NS.list("pods", server_selector(PARTED, revision)):
            kubectl("patch", "pod", pod["metadata"]["name"], "--subresource=status", "-p", alarm, namespace=NS.name)
        try:
            wait("no server is called ready", has_none, 5)
        except Failed:
            continue
        found = {one.ask(**headers) for one in every for _ in range(ASKED)}
        if found != {(200, revision, None)}:
            raise Failed(f"while no server was called ready, requests got {found}")
        if has_none():
            say(f"  meanwhile {len(every) * ASKED} requests through {len(every)} routers were answered as ever")
            return
    raise Failed("kubelet was always sooner")


def goes_without_stable_pods(revisions, address, issuer):
    """No node takes a pod, and the stable ones of both services are deleted: so they stay away until the nodes take pods again."""
    headers, stable = bearer(issuer.token()), {name: status_of(name)["stable"]["revision"] for name in (PARTED, RETURNED)}
    nodes = [node["metadata"]["name"] for node in read("/api/v1/nodes")["items"] if not node["spec"].get("unschedulable")]
    other = address_of(RETURNED)
    requests = Requests(address, PARTED, headers=headers)
    try:
        kubectl("cordon", *nodes)
        for name, revision in stable.items():
            kubectl("delete", "pod", "-l", server_selector(name, revision), "--wait=false", namespace=NS.name)
        falls_back(address, revisions, headers)
        over_grpc(address, headers, revisions[1])
        stands_in(other)
    finally:
        kubectl("uncordon", *nodes)
    wait("the stable revision answers again", lambda: asked(address, PARTED, **headers) == (200, revisions[0], None), 180, lambda: says(PARTED, "Ready"))
    wait("so does that of the paused rollout", lambda: asked(other, RETURNED) == (200, stable[RETURNED], None), 180, lambda: says(RETURNED, "Ready"))
    requests.stop()
    if requests.revisions != set(revisions):
        raise Failed(f"meanwhile requests were answered by {requests.revisions}, not by {revisions}")


def falls_back(address, revisions, headers):
    stable, backup = revisions
    fallen = (200, backup, "absence")
    wait("the fallback answers, for the absence of the others", lambda: asked(address, PARTED, **headers) == fallen, 120, lambda: says(PARTED, "Ready"))
    # Every router has to know it, and the Service leads to any.
    each = [Connection(pod["status"]["podIP"], PARTED, 8080) for pod in routers().values()]
    wait("through every router", lambda: all(one.ask(**headers) == fallen for one in each), 60)
    before = total(PARTED, backup, "fallbackAbsence")
    connection = Connection(address, PARTED)
    found = {connection.ask(**headers) for _ in range(IN_OUTAGE)}
    if found != {fallen}:
        raise Failed(f"in the outage requests got {found}, not {fallen} alone")
    wait("routers count its answers apart", lambda: total(PARTED, backup, "fallbackAbsence") >= before + IN_OUTAGE, 60)
    why = {reason: total(PARTED, backup, f"fallback{reason}") for reason in ("Overload", "Absence", "Outage")}
    say(f"  answers of the fallback by reason, with those of the client that never ceases: {why}")
    version = status_of(PARTED)["stable"]["modelVersion"]
    by_name = asked(address, PARTED, version, **headers)
    if by_name[0] != 503 or by_name[2]:
        raise Failed(f"{version} by its name, which nobody stands in for, got {by_name}")
    say(f"  {version} by its name got 503: nobody stands in for it")


def over_grpc(address, headers, backup):
    found = calls(address, f"{PARTED}.{NS.name}.svc", ROW, **headers)[0]
    if (found.get("x-millrace-revision"), found.get("x-millrace-fallback")) != (backup, "absence"):
        raise Failed(f"over gRPC the answer says {found}")
    say(f"  over gRPC the answer says {found}")


def stands_in(address):
    """For the rollout that a person has paused: it does not go forward, and nobody is without answers."""
    canary = status_of(RETURNED)["canary"]["revision"]
    wait("the new revision of a paused rollout stands in", lambda: asked(address, RETURNED) == (200, canary, "absence"), 120, lambda: says(RETURNED, "Ready"))
    status = status_of(RETURNED)
    is_paused = (status.get("rollout") or {}).get("pausedSince") and condition({"status": status}, "Paused")[0] == "True"
    if not is_paused or (status.get("canary") or {}).get("weight", {}).get("intended") != 0:
        raise Failed(f"the pause does not hold in the outage: {status.get('nextStep')}")
