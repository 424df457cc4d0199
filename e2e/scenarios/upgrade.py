"""An upgrade of the chart with other images and models running restarts no model pod; uninstalling keeps the users' objects."""

import os
import pathlib
import subprocess

from kube import Failed, Namespace, kubectl, say, wait

FLIGHTS, SYSTEM = Namespace("flights"), Namespace("millrace-system")
INSTALL = str(pathlib.Path(__file__).parents[1] / "demo" / "install")
TENANTS = "flights,bad-input,tenant-a,tenant-b"


def install(*arguments):
    subprocess.run([INSTALL, TENANTS, *arguments], check=True, stdout=subprocess.DEVNULL, timeout=300)


def servers():
    pods = FLIGHTS.list("pods", "millrace.dev/component=server")
    return {pod["metadata"]["uid"]: [status["restartCount"] for status in pod["status"].get("containerStatuses", [])] for pod in pods}


def operators():
    return {pod["metadata"]["uid"] for pod in SYSTEM.list("pods", "app.kubernetes.io/component=operator")}


def main():
    before, former = servers(), operators()
    if not before:
        raise Failed("no model pod runs")
    # Another image for new revisions and another operator pod: what an upgrade brings.
    install("--set", f"images.server={os.environ['TRAINER_IMAGE']}", "--set", "operator.log=info,millrace_operator=debug")
    wait("the operator's pods are new", lambda: not operators() & former and len(operators()) == 2, 120)
    seen = kubectl("get", "lease", "millrace-operator", "-o", "jsonpath={.spec.holderIdentity}", namespace="millrace-system")
    wait("a new operator leads", lambda: seen and any(seen in pod["metadata"]["name"] or pod["metadata"]["name"] in seen for pod in
         SYSTEM.list("pods", "app.kubernetes.io/component=operator")) or kubectl("get", "lease", "millrace-operator", "-o",
         "jsonpath={.spec.holderIdentity}", namespace="millrace-system") != seen, 60)
    touched = str(os.urandom(4).hex())
    kubectl("annotate", "inferenceservice", "flights", f"example.com/touched={touched}", "--overwrite", namespace="flights")
    wait("every service was looked at again", lambda: servers() is not None, 5)
    for _ in range(20):
        after = servers()
        if after != before:
            raise Failed(f"model pods changed: {before} -> {after}")
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
