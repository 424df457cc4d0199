"""An upgrade from the previous commit with models running fails no request and restarts no model pod, and the new operator goes on where the
old one was; uninstalling keeps the users' objects."""

import json
import pathlib
import subprocess

from kube import Failed, Namespace, condition, kubectl, say, wait
from served import Requests, address_of, server_selector

FLIGHTS, SYSTEM = Namespace("flights"), Namespace("millrace-system")
HERE = pathlib.Path(__file__).parent
INSTALL = str(HERE.parent / "demo" / "install")
TENANTS = "flights,bad-input,tenant-a,tenant-b"
SERVICE = "before-upgrade"
KINDS = ("datasets", "trainingjobs", "modelversions", "inferenceservices")


def install(*arguments, command=INSTALL):
    subprocess.run([command, TENANTS, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=300)


def previous_image():
    """The folder of the previous commit, and its operator's image."""
    lines = subprocess.run([str(HERE / "previous-images")], check=True, stdout=subprocess.PIPE, text=True, timeout=1800).stdout.split()
    named = dict(line.split("=", 1) for line in lines)
    return named["PREVIOUS_TREE"], named["PREVIOUS_OPERATOR"]


def server_pods(service):
    return FLIGHTS.list("pods", server_selector(service))


def servers(service):
    """Restarts of each model pod's containers, by the pod's uid."""
    return {pod["metadata"]["uid"]: [status["restartCount"] for status in pod["status"].get("containerStatuses", [])] for pod in server_pods(service)}


def operators():
    return {pod["metadata"]["uid"] for pod in SYSTEM.list("pods", "app.kubernetes.io/component=operator")}


def operator_image():
    return {pod["spec"]["containers"][0]["image"] for pod in SYSTEM.list("pods", "app.kubernetes.io/component=operator")}


def operators_follow(former):
    wait("the operator's pods are new", lambda: not operators() & former and len(operators()) == 2, 120)


def ready(service, replicas):
    pods = [pod for pod in server_pods(service) if condition(pod, "Ready")[0] == "True" and "deletionTimestamp" not in pod["metadata"]]
    return len(pods) == replicas


def service(replicas):
    kubectl("apply", "-f", "-", namespace="flights", stdin=json.dumps({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": SERVICE},
        "spec": {"model": {"name": "flights"}, "scaling": {"replicas": replicas}}}))
    wait(f"{replicas} pods of {SERVICE} are ready", lambda: ready(SERVICE, replicas), 120)


def under_requests(former):
    """Upgrades from the former operators while requests come in, of which none may fail."""
    requests = Requests(address_of("flights"), "flights")
    try:
        # Another server image, that nobody has: a pod of it would never be ready.
        install("--set", "images.server=localhost/millrace/another-server:1")
        operators_follow(former)
        # The new operator acts on the service: the third pod gets the revision's own image.
        service(3)
    finally:
        requests.stop()


def upgrade():
    tree, image = previous_image()
    former, differs = operators(), operator_image() != {image}
    install("--set", f"images.operator={image}", command=f"{tree}/e2e/demo/install")
    # A commit may change sources without changing the program: then the pods stay.
    if differs:
        operators_follow(former)
    service(2)
    before, former = {name: servers(name) for name in ("flights", SERVICE)}, operators()
    if not all(before.values()):
        raise Failed(f"no model pods to look after: {before}")
    under_requests(former)
    after, images = {name: servers(name) for name in before}, {pod["spec"]["containers"][0]["image"] for pod in server_pods(SERVICE)}
    changed = [name for name in before if any(after[name].get(uid) != restarts for uid, restarts in before[name].items())]
    if changed or len(images) != 1:
        raise Failed(f"model pods changed: {before} -> {after}, images {images}")
    say(f"  {sum(map(len, before.values()))} model pods, none restarted or replaced; the service goes on with {images.pop()}")
    kubectl("delete", "inferenceservice", SERVICE, "--wait=false", namespace="flights")


def everywhere(kind, of=""):
    return json.loads(kubectl("get", kind, "-A", "--field-selector", of, "-o", "json"))["items"]


def of_users():
    """What users have, in every namespace, each object by its uid: their objects, the Secrets that open their stores, the store's volume claims."""
    found = {}
    for kind, of in [*((kind, "") for kind in KINDS), ("secrets", "metadata.name=millrace-store"), ("persistentvolumeclaims", "")]:
        for one in everywhere(kind, of):
            # The release's own Secret goes with it: it is the store's, no user's.
            if kind == "secrets" and one["metadata"]["namespace"] == SYSTEM.name:
                continue
            found[one["metadata"]["uid"]] = f"{kind} {one['metadata']['namespace']}/{one['metadata']['name']}"
    return found


def uninstall():
    kubectl("get", "crd", "inferenceservices.millrace.dev")
    # What an earlier scenario is deleting still must not count.
    wait("no object is being deleted", lambda: not any("deletionTimestamp" in one["metadata"] for kind in KINDS for one in everywhere(kind)), 120)
    before, serving = of_users(), servers("flights")
    missing_kinds = [kind for kind in KINDS if not any(name.startswith(kind) for name in before.values())]
    if missing_kinds or not serving:
        raise Failed(f"nothing to look after: no {missing_kinds}, {len(serving)} model pods")
    subprocess.run(["helm", "uninstall", "millrace", "-n", "millrace-system", "--wait"], check=True, stdout=subprocess.DEVNULL, timeout=180)
    after = of_users()
    lost = sorted(name for uid, name in before.items() if uid not in after)
    if lost or servers("flights") != serving:
        raise Failed(f"uninstalling took {lost}; model pods {serving} -> {servers('flights')}")
    say(f"  after uninstalling, all {len(before)} objects of users are the same and the models serve")
    install()


if __name__ == "__main__":
    upgrade()
    uninstall()
