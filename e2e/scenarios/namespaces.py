"""With watchNamespaces the operator has Roles only and does its work in those namespaces, of every kind, and nowhere else."""

import time

from small_objects import dataset, good_trainer, job, rows
from kube import Failed, Namespace, at_once, condition, kubectl, say, wait
from store import Store
from upgrade import install

A, B, FLIGHTS = Namespace("tenant-a"), Namespace("tenant-b"), Namespace("flights")
ACCOUNT = "system:serviceaccount:millrace-system:millrace-operator"
NAME = f"watched-{int(time.time())}"


def look(namespace, kind, name):
    return condition(namespace.get(kind, name), "Ready")


def is_ready(namespace, kind, name, deadline):
    wait(f"{kind} {name} in {namespace.name} is Ready", lambda: look(namespace, kind, name)[0] == "True", deadline, lambda: " ".join(look(namespace, kind, name)))


def rights():
    for verb, thing, namespace, expected in [("list", "datasets.millrace.dev", A.name, "yes"), ("list", "datasets.millrace.dev", B.name, "no"),
                                             ("create", "jobs.batch", B.name, "no"), ("list", "pods", "kube-system", "no")]:
        answer = kubectl("auth", "can-i", verb, thing, "-n", namespace, "--as", ACCOUNT, check=False).strip()
        if answer != expected:
            raise Failed(f"the operator {verb} {thing} in {namespace}: {answer}, expected {expected}")
    say("  the operator has its Roles and nothing else")


def trains():
    """A training and the evaluation of its model, on the Dataset of the watched namespace."""
    A.apply(job(NAME, NAME, good_trainer(), "watched"))
    is_ready(A, "trainingjob", NAME, 180)
    is_ready(A, "modelversion", A.get("trainingjob", NAME)["status"]["modelVersion"], 180)


def serves():
    """What serves is scaled, and back."""
    before = FLIGHTS.get("inferenceservice", "flights")["spec"]["scaling"]["replicas"]
    ready = lambda: FLIGHTS.get("inferenceservice", "flights")["status"]["stable"]["ready"]
    try:
        for replicas in (before + 1, before):
            kubectl("scale", "inferenceservice", "flights", f"--replicas={replicas}", namespace=FLIGHTS.name)
            wait(f"{replicas} pods of flights are ready", lambda: ready() == replicas, 120, lambda: f"{ready()} are ready")
    finally:
        kubectl("scale", "inferenceservice", "flights", f"--replicas={before}", namespace=FLIGHTS.name, check=False)


def main():
    install("--set", "watchNamespaces={tenant-a,flights}")
    rights()
    for namespace in (A, B):
        Store(namespace).put("watched/a.csv", rows())
        namespace.apply(dataset(NAME, "watched/", bucket=f"millrace-{namespace.name}"))
    is_ready(A, "dataset", NAME, 180)
    at_once(trains, serves)
    if B.get("dataset", NAME)["status"].get("observedGeneration", -1) != -1:
        raise Failed("a Dataset in a namespace that is not watched was reconciled")
    say("  one in another namespace was left alone")
    install()
    is_ready(B, "dataset", NAME, 180)


if __name__ == "__main__":
    main()
