"""Who answers which request, on a cluster: routes by header, cookie and claim of a token with the weights inside them, versions by their names, an
outage (outage.py), keys that stay with their revision through every router and a restart of all of them, and a promoted version that fails and gives its
requests back by itself."""

import threading
import time

from scipy.stats import binom

from breach import FAR, fails_on_far_rows
from grpc_calls import interpreter
from issuer import Issuer
from kube import Failed, condition, kubectl, say, wait
from outage import goes_without_stable_pods, is_called_not_ready
from rollouts import millrace
from routed import PARTED, RETURNED, ROUTES, Connection, asked, bearer, next_step, parted, returned, routers, says, serves, total, traffic
from served import BODY, NS, Requests, address_of, approved, in_threads, server_selector, status_of

COUNTED, THREADS = 1000, 4
KEYS = [f"user-{number}" for number in range(300)]
# What each count may miss by chance: a right router is outside once in ten thousand times.
SURE = 0.9999


def wants_a_token(address, issuer):
    """Only a token of the issuer's, for this audience and of this hour, is let in."""
    wrong = {"none": {}, "one of another key": bearer(issuer.token(key=issuer.another_key)), "one for another audience": bearer(issuer.token(aud="others")),
             "one that has expired": bearer(issuer.token(exp=int(time.time()) - 3600))}
    found = {what: asked(address, PARTED, **headers)[0] for what, headers in wrong.items()}
    if set(found.values()) != {401}:
        raise Failed(f"tokens that are none got {found}, not 401")
    say(f"  401 for a request with no token, and for {', '.join(list(wrong)[1:])}")


def counted(address, **headers):
    """So many requests on a few connections; how many each revision answered."""
    counts, lock, problems = {}, threading.Lock(), []

    def send():
        connection = Connection(address, PARTED)
        for _ in range(COUNTED // THREADS):
            status, revision, fallback = connection.ask(**headers)
            with lock:
                counts[revision] = counts.get(revision, 0) + 1
                if status != 200 or fallback:
                    problems.append((status, fallback))
        connection.connection.close()

    in_threads(THREADS, send)
    if problems:
        raise Failed(f"{len(problems)} of {COUNTED} requests failed: {problems[:3]}")
    return counts


def shares_out(address, issuer, revisions):
    """The client's own counts: within chance of the weights of each route, and the same as those of the routers."""
    silver, gold = bearer(issuer.token(plan="silver")), bearer(issuer.token(plan="gold"))
    headers = {"beta": silver | {"x-beta": "1"}, "trial": silver | {"cookie": "a=b; trial=on"}, "gold": gold}
    counts = {name: counted(address, **headers[name]) for name in ROUTES}
    for name, (stable, other) in ROUTES.items():
        low, high = binom.interval(SURE, COUNTED, other / (stable + other))
        found = counts[name].get(revisions[1], 0)
        say(f"  route {name}, {stable} to {other}: {found} of {COUNTED} went to the version that it names; {100 * SURE:.2f} % interval {low:.0f} to {high:.0f}")
        if not low <= found <= high or set(counts[name]) != set(revisions):
            raise Failed(f"the weights of route {name} are {stable} to {other}, its requests went to {counts[name]}")
    wait("the routers have counted the same by route", lambda: by_route() == counts, 60, lambda: str(by_route()))
    others = counted(address, **silver, cookie="trial=off")
    if set(others) != {revisions[0]}:
        raise Failed(f"requests that no route matches were answered by {others}, not by {revisions[0]} alone")
    say("  requests that no route matches went to the stable revision alone")


def by_route():
    counts = {name: {} for name in ROUTES}
    for one in traffic(PARTED):
        for name, ended in one["routes"].items():
            for revision, of_it in ended.items():
                if of_it["requests"]:
                    counts[name][revision] = counts[name].get(revision, 0) + of_it["requests"]
    return counts


def reaches_by_name(versions, revisions, headers):
    """Each version alone, through each router."""
    for version, revision in zip(versions, revisions):
        before = total(PARTED, revision, "byName")
        connections = [Connection(pod["status"]["podIP"], PARTED, 8080) for pod in routers().values()]
        found = {connection.ask(version, **headers) for connection in connections for _ in range(20)}
        if found != {(200, revision, None)}:
            raise Failed(f"{version} by its name got {found}, not {revision} alone")
        wanted = before + 20 * len(connections)
        wait(f"{version} was asked for by its name, and is counted so", lambda: total(PARTED, revision, "byName") == wanted, 60)


def seen_by_keys():
    """The revision that each key sees: the same through every router."""
    found = {}
    for pod in routers().values():
        connection = Connection(pod["status"]["podIP"], RETURNED, 8080)
        found[pod["metadata"]["name"]] = {key: connection.ask(**{"x-user": key}) for key in KEYS}
        connection.connection.close()
    failed = [answer for answers in found.values() for answer in answers.values() if answer[0] != 200 or answer[2]]
    if len(found) < 2 or failed:
        raise Failed(f"{len(found)} routers were asked; failed: {failed[:3]}")
    first = next(iter(found.values()))
    apart = [key for key in KEYS if any(answers[key] != first[key] for answers in found.values())]
    if apart:
        raise Failed(f"{len(apart)} of {len(KEYS)} keys see one revision through one router and another through another: {apart[:5]}")
    return {key: revision for key, (_, revision, _) in first.items()}


def keep_their_revision(version):
    """The prepared switch becomes a step, so that two revisions share the keys."""
    millrace("resume", RETURNED)
    NS.apply(returned(version, "Canary"))
    weight = lambda: (status_of(RETURNED).get("canary") or {}).get("weight") or {}
    wait("every router gives the new revision its half", lambda: weight().get("accepted") == 50, 120, next_step(RETURNED))
    canary = status_of(RETURNED)["canary"]["revision"]
    before = seen_by_keys()
    has_canary = sum(revision == canary for revision in before.values())
    low, high = binom.interval(SURE, len(KEYS), 0.5)
    say(f"  {has_canary} of {len(KEYS)} keys see the new revision, the same ones through every router; {100 * SURE:.2f} % interval {low:.0f} to {high:.0f}")
    if not low <= has_canary <= high:
        raise Failed(f"{has_canary} of {len(KEYS)} keys see the new revision, which has half of them")
    former = routers()
    kubectl("rollout", "restart", "deployment/millrace-router", namespace=NS.name)
    wait("all routers are new", lambda: len(now := routers()) >= len(former) and not now.keys() & former.keys(), 240, lambda: f"{len(routers())} are ready")
    moved = [key for key, revision in seen_by_keys().items() if revision != before[key]]
    if moved:
        raise Failed(f"{len(moved)} of {len(KEYS)} keys see another revision after a restart of all routers: {moved[:5]}")
    say(f"  after a restart of all routers each of the {len(KEYS)} keys sees the revision that it saw before")


def gives_back(first, bad):
    """Far flights come only once it is promoted. What it fails the former revision answers, and then it answers all."""
    millrace("promote", RETURNED)
    baking = lambda: serves(RETURNED, bad) and status_of(RETURNED).get("previous") and status_of(RETURNED)
    begun = wait(f"{bad} is promoted and bakes", baking, 120, next_step(RETURNED))
    former, pods = begun["previous"]["revision"]["revision"], server_pods()
    address = address_of(RETURNED)
    began = time.monotonic()
    requests = Requests(address, RETURNED, bodies=(BODY, FAR))
    try:
        ended = wait(f"{first} has its requests back", lambda: serves(RETURNED, first) and status_of(RETURNED), 180, next_step(RETURNED))
        say(f"  {time.monotonic() - began:.1f} s from the first far flight to the last router that follows, by {ended['planGeneration'] - begun['planGeneration']} routing writes")
        found = {asked(address, RETURNED) for _ in range(50)}
    finally:
        requests.stop()
    rejected = ended["rejected"][0]
    say(f"  {rejected['reason']}: {rejected['message']}")
    if (rejected["modelVersion"], rejected["reason"]) != (bad, "BakeErrorRate") or found != {(200, former, None)}:
        raise Failed(f"it came back otherwise: {rejected}, and is answered {found}")
    if server_pods() - pods:
        raise Failed("the way back started pods")
    decision = next(one for one in ended["history"] if one["reason"] == "BakeErrorRate")
    if decision["decidedBy"] != "Operator":
        raise Failed(f"the platform was to decide, by itself: {decision}")


def server_pods():
    return {pod["metadata"]["uid"] for pod in NS.list("pods", server_selector(RETURNED))}


def prepares(first, bad):
    """A switch to the bad version, which a person pauses before it has any request."""
    wait(f"{first} serves both services", lambda: serves(RETURNED, first) and serves(PARTED, first), 180, next_step(RETURNED))
    NS.apply(returned(bad, "BlueGreen"))


def is_prepared():
    status = status_of(RETURNED)
    return (status.get("canary") or {}).get("loaded") and (status.get("rollout") or {}).get("stepStartTime")


def follow_the_routes(versions, headers):
    """Waits until every router does, and returns the revisions of the versions."""
    ready = lambda: all(condition(NS.get("inferenceservice", PARTED), kind)[0] == "True" for kind in ("AuthReady", "RoutesReady"))
    wait("routes and keys are known", ready, 180, lambda: f"{says(PARTED, 'AuthReady')} {says(PARTED, 'RoutesReady')}")
    status = status_of(PARTED)
    revisions = [status["stable"]["revision"], next(one["revision"]["revision"] for one in status["standing"] if one["revision"]["modelVersion"] == versions[1])]
    expected = [(200, revision, None) for revision in revisions]
    found = lambda: [[asked(pod["status"]["podIP"], PARTED, version, 8080, **headers) for version in versions] for pod in routers().values()]
    wait("every router leads to both versions", lambda: (now := found()) and all(answers == expected for answers in now), 120, lambda: str(found()))
    return revisions


def main():
    versions = [one["metadata"]["name"] for one in approved() if one["spec"]["model"] == "flights"][:2]
    first, bad = versions[0], fails_on_far_rows()
    interpreter()
    issuer = Issuer("routing-issuer")
    try:
        NS.apply(returned(first, "BlueGreen"))
        NS.apply(parted(*versions, issuer.start()))
        headers = bearer(issuer.token())
        prepares(first, bad)
        revisions = follow_the_routes(versions, headers)
        address = address_of(PARTED)
        wants_a_token(address, issuer)
        shares_out(address, issuer, revisions)
        reaches_by_name(versions, revisions, headers)
        wait(f"the switch to {bad} is prepared", is_prepared, 180, next_step(RETURNED))
        millrace("pause", RETURNED)
        is_called_not_ready(revisions[0], headers)
        goes_without_stable_pods(revisions, address, issuer)
        keep_their_revision(bad)
        gives_back(first, bad)
    finally:
        kubectl("delete", "inferenceservice", PARTED, RETURNED, "--wait=false", "--ignore-not-found", namespace=NS.name, check=False)
        issuer.stop()


if __name__ == "__main__":
    main()
