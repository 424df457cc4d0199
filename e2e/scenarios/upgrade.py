"""An upgrade from the previous commit with models running fails no request and restarts no model pod, and the new operator goes on where the
old one was; uninstalling keeps the users' objects."""

import json
import pathlib
import subprocess

from kube import Failed, Namespace, condition, kubectl, say, wait
from served import Requests, address_of

FLIGHTS, SYSTEM = Namespace("flights"), Namespace("millrace-system")
HERE = pathlib.Path(__file__).parent
INSTALL = str(HERE.parent / "demo" / "install")
TENANTS = "flights,bad-input,tenant-a,tenant-b"
SERVICE = "before-upgrade"


def install(*arguments, command=INSTALL):
    subprocess.run([command, TENANTS, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=300)


def previous_image():
    """The folder of the previous commit, and its operator's image."""
    lines = subprocess.run([str(HERE / "previous-images")], check=True, stdout=subprocess.PIPE, text=True, timeout=1800).stdout.split()
    named = dict(line.split("=", 1) for line in lines)
    return named["PREVIOUS_TREE"], named["PREVIOUS_OPERATOR"]


def server_pods(service):
    return FLIGHTS.list("pods", f"millrace.dev/component=server,millrace.dev/inference-service={service}")


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


def uninstall():
    kubectl("get", "crd", "inferenceservices.millrace.dev")
    subprocess.run(["helm", "uninstall", "millrace", "-n", "millrace-system", "--wait"], check=True, stdout=subprocess.DEVNULL, timeout=180)
    kept = [kind for kind in ("datasets", "trainingjobs", "modelversions", "inferenceservices") if FLIGHTS.list(kind)]
    if len(kept) != 4 or not servers("flights"):
        raise Failed(f"after uninstalling only these are left: {kept}, and {len(servers('flights'))} model pods")
    say("  after uninstalling, all four kinds' objects are there and the models serve")
    install()


if __name__ == "__main__":
    upgrade()
    uninstall()
