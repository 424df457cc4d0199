"""capacity: Swap, on a node whose two GPUs the two pods of a service have: a second version is swapped into them, under requests of which none may
fail, a third, whose file is damaged after its approval, is rejected, and a fourth, which a person aborts when one of both pods serves it, gives that
back. The same pods serve from the first to the last. Nothing runs on a GPU here: the node only says that it has two."""

import os
import pathlib
import subprocess

import onnx

from kube import Failed, condition, kubectl, read, say, wait
from rollouts import approve, millrace
from served import NS, Requests, address_that_answers, approved, model_version, server_selector, status_of
from store import Store, digest

NAME = "swapped"
GPU, GPUS = "nvidia.com/gpu", 2
REAL_GPU = pathlib.Path(__file__).resolve().parents[1] / "cluster" / "real-gpu"
IS_LOCAL = os.environ.get("CLUSTER", "local") != "current"
VERSIONS = [f"{NAME}-{number}" for number in (1, 2, 3, 4)]

SERVICE = f"""
apiVersion: millrace.dev/v1alpha1
kind: InferenceService
metadata: {{name: {NAME}}}
spec:
  model: {{name: {NAME}}}
  server: {{resources: {{requests: {{cpu: 50m, memory: 64Mi, {GPU}: "1"}}, limits: {{{GPU}: "1"}}}}}}
  scaling: {{replicas: {GPUS}}}
  rollout: {{capacity: Swap}}
"""


def servers():
    return NS.list("pods", server_selector(NAME))


def with_a_node():
    """Those that ever got a node, by their uids, with restarts of their containers."""
    placed = [pod for pod in servers() if pod["spec"].get("nodeName")]
    return {pod["metadata"]["uid"]: [one["restartCount"] for one in pod["status"].get("containerStatuses", [])] for pod in placed}


def next_step():
    status = status_of(NAME)
    return f"{(status.get('canary') or {}).get('weight')} {status.get('nextStep')}"


def serves(version):
    """With both pods, and nothing is tried beside it."""
    status = status_of(NAME)
    stable = status.get("stable") or {}
    return stable.get("modelVersion") == version and stable.get("loaded") == GPUS and not status.get("canary") and status


def owners_of(pod):
    return [owner["name"] for owner in pod["metadata"].get("ownerReferences", [])]


def are_the_same(before, revision):
    """The same pods, none started anew, belong to this revision, and nobody waits for anything at them."""
    wait("no pod waits for room any more", lambda: len(servers()) == GPUS, 60, lambda: str([pod["metadata"]["name"] for pod in servers()]))
    owners = lambda: [owners_of(pod) for pod in servers()]
    wait("each pod is a ReplicaSet's alone", lambda: all(len(one) == 1 for one in owners()), 60, lambda: str(owners()))
    if with_a_node() != before:
        raise Failed(f"other pods serve: {before} -> {with_a_node()}")
    for pod in servers():
        labels, annotations = pod["metadata"]["labels"], pod["metadata"].get("annotations", {})
        owners = owners_of(pod)
        is_its = labels["millrace.dev/revision"] == labels["millrace.dev/serves"] == revision and len(owners) == 1 and revision in owners[0]
        if not is_its or "millrace.dev/served-before" in annotations or condition(pod, "Ready")[0] != "True":
            raise Failed(f"pod {pod['metadata']['name']} is not {revision}'s as it should be: {labels} {owners} {sorted(annotations)}")


def swap_in(before):
    approve(VERSIONS[1])
    begun = wait("the swap begins", lambda: (status_of(NAME).get("rollout") or {}).get("swap") and status_of(NAME), 180, next_step)
    if begun["history"][0]["reason"] != "Swapping" or "swaps in place: no node has room" not in begun["history"][0]["message"]:
        raise Failed(f"it began otherwise: {begun['history'][0]}")
    status = wait(f"{VERSIONS[1]} is promoted", lambda: serves(VERSIONS[1]), 240, next_step)
    say(f"  {status['history'][0]['reason']}: {status['history'][0]['message']}")
    if [one["reason"] for one in status["history"]][:2] != ["Swapped", "Swapping"]:
        raise Failed(f"it took another way: {status['history'][:3]}")
    are_the_same(before, status["stable"]["revision"])
    return status["stable"]["revision"]


def rejected(version):
    return next((one for one in status_of(NAME).get("rejected", []) if one["modelVersion"] == version), None)


def the_same_again(store, good, number):
    """A version with the same model, in another file, that awaits its approval."""
    model = onnx.load_from_string(store.get(good[0]["spec"]["artifact"]["uri"]))
    model.doc_string = f"the same again, as number {number}"
    data = model.SerializeToString()
    uri = store.put(f"models/external/{NAME}-{number}.onnx", data)
    NS.apply(model_version(NAME, number, {"uri": uri, "digest": digest(data)}, "Manual"))


def refuse(store, before, revision):
    """The object is replaced while the new pods wait for room: then no server can load it."""
    approve(VERSIONS[2])
    store.put(f"models/external/{NAME}-3.onnx", b"damaged")
    found = wait("it is rejected", lambda: rejected(VERSIONS[2]), 180, next_step)
    say(f"  {found['reason']}: {found['message']}")
    if found["reason"] != "DigestMismatch" or "can't be swapped in" not in found["message"]:
        raise Failed(f"it was rejected for another reason: {found}")
    wait(f"{VERSIONS[1]} serves as before", lambda: serves(VERSIONS[1]), 60, next_step)
    # The label is the operator's, and the file the kubelet's.
    wait("the pods are told what they were told before", lambda: all("millrace.dev/served-before" not in pod["metadata"].get("annotations", {}) for pod in servers()), 60)
    are_the_same(before, revision)


def give_back(before, revision):
    """The pod that was handed over loads the former model again: it is not started anew."""
    approve(VERSIONS[3])
    swap = lambda: (status_of(NAME).get("rollout") or {}).get("swap")
    # A pause keeps a pod from its turn: the first has its own by then, and the second does not get one.
    wait("it is the first pod's turn", lambda: (swap() or {}).get("pod"), 180, next_step)
    millrace("pause", NAME)
    wait("one pod serves it", lambda: (swap() or {}).get("handedOver") == 1, 180, next_step)
    millrace("abort", NAME)
    found = wait("it is rejected", lambda: rejected(VERSIONS[3]), 60, next_step)
    wait(f"both pods serve {VERSIONS[1]} again", lambda: serves(VERSIONS[1]), 120, next_step)
    are_the_same(before, revision)
    say(f"  {found['reason']}: the pod that served {VERSIONS[3]} serves {VERSIONS[1]} again, and was not started")


def main():
    if IS_LOCAL:
        subprocess.run([REAL_GPU, str(GPUS)], check=True, stdout=subprocess.DEVNULL, timeout=60)
    gpus = sum(int(node["status"]["allocatable"].get(GPU, "0")) for node in read("/api/v1/nodes")["items"])
    if gpus != GPUS:
        raise Failed(f"the nodes were to have {GPUS} {GPU} together, they have {gpus}")
    good, store = approved(), Store(NS)
    NS.apply(model_version(NAME, 1, good[0]["spec"]["artifact"]))
    NS.apply(SERVICE)
    # All are evaluated while something else is awaited.
    NS.apply(model_version(NAME, 2, good[1]["spec"]["artifact"], "Manual"))
    for number in (3, 4):
        the_same_again(store, good, number)
    wait(f"{VERSIONS[0]} serves", lambda: serves(VERSIONS[0]), 180, next_step)
    before, former = with_a_node(), status_of(NAME)["stable"]["revision"]
    requests = Requests(address_that_answers(NAME), NAME)
    try:
        revision = swap_in(before)
        refuse(store, before, revision)
        answered = set(requests.revisions)
        give_back(before, revision)
    finally:
        requests.stop()
        kubectl("delete", "inferenceservice", NAME, "--wait=false", namespace=NS.name)
        kubectl("delete", "modelversion", *VERSIONS, "--ignore-not-found", "--wait=false", namespace=NS.name)
    if answered != {former, revision}:
        raise Failed(f"requests were answered by {answered}, not by {former} and then {revision}")
    say(f"  {len(before)} pods served {former} and then {revision}; none was started")


if __name__ == "__main__":
    main()
