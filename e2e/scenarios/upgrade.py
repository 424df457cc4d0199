"""An upgrade of the chart with other images and models running restarts no model pod; uninstalling keeps the users' objects."""

import os
import pathlib
import subprocess

from kube import Failed, Namespace, condition, kubectl, say, wait

FLIGHTS, SYSTEM = Namespace("flights"), Namespace("millrace-system")
INSTALL = str(pathlib.Path(__file__).parents[1] / "demo" / "install")
TENANTS = "flights,bad-input,tenant-a,tenant-b"


def install(*arguments):
    subprocess.run([INSTALL, TENANTS, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=300)


def servers():
    pods = FLIGHTS.list("pods", "millrace.dev/component=server,millrace.dev/inference-service=flights")
    return {pod["metadata"]["uid"]: [status["restartCount"] for status in pod["status"].get("containerStatuses", [])] for pod in pods}


def operators():
    return {pod["metadata"]["uid"] for pod in SYSTEM.list("pods", "app.kubernetes.io/component=operator")}


def scale(replicas):
    patch = f'{{"spec": {{"scaling": {{"replicas": {replicas}}}}}}}'
    kubectl("patch", "inferenceservice", "flights", "--type=merge", "-p", patch, namespace="flights")
    look = lambda: [pod for pod in FLIGHTS.list("pods", "millrace.dev/component=server,millrace.dev/inference-service=flights")
                    if condition(pod, "Ready")[0] == "True" and "deletionTimestamp" not in pod["metadata"]]
    wait(f"{replicas} model pods are ready", lambda: len(look()) == replicas, 90)


def main():
    before, former = servers(), operators()
    if not before:
        raise Failed("no model pod runs")
    # Another image for new revisions and another operator pod: what an upgrade brings.
    install("--set", f"images.server={os.environ['TRAINER_IMAGE']}", "--set", "operator.log=debug")
    wait("the operator's pods are new", lambda: not operators() & former and len(operators()) == 2, 120)
    # The new operator acts on the service, with its other image at hand: the third pod still gets the revision's own.
    scale(3)
    after, images = servers(), {pod["spec"]["containers"][0]["image"] for pod in FLIGHTS.list("pods", "millrace.dev/component=server,millrace.dev/inference-service=flights")}
    if any(after.get(uid) != restarts for uid, restarts in before.items()) or len(images) != 1:
        raise Failed(f"model pods changed: {before} -> {after}, images {images}")
    scale(2)
    say(f"  {len(before)} model pods, none restarted or replaced")
    install()


def uninstall():
    kubectl("get", "crd", "inferenceservices.millrace.dev")
    subprocess.run(["helm", "uninstall", "millrace", "-n", "millrace-system", "--wait"], check=True, stdout=subprocess.DEVNULL, timeout=180)
    kept = [kind for kind in ("datasets", "trainingjobs", "modelversions", "inferenceservices") if FLIGHTS.list(kind)]
    if len(kept) != 4 or not servers():
        raise Failed(f"after uninstalling only these are left: {kept}, and {len(servers())} model pods")
    say("  after uninstalling, all four kinds' objects are there and the models serve")
    install()


if __name__ == "__main__":
    main()
    uninstall()
