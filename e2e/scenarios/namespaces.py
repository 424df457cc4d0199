"""With watchNamespaces the operator has Roles only and does its work in those namespaces, and nowhere else."""

import time

from kube import Failed, Namespace, condition, kubectl, say, wait
from store import Store
from upgrade import install

A, B = Namespace("tenant-a"), Namespace("tenant-b")
ACCOUNT = "system:serviceaccount:millrace-system:millrace-operator"
CSV = "id,x,late\n" + "".join(f"r{i},{i / 7:.3f},{i % 2}\n" for i in range(200))


def dataset(namespace):
    return f"""
apiVersion: millrace.dev/v1alpha1
kind: Dataset
metadata: {{name: watched-{int(time.time())}}}
spec:
  source: {{files: {{uri: s3://millrace-{namespace}/watched/, format: CSV}}}}
"""


def main():
    install("--set", "watchNamespaces={tenant-a,flights}")
    for verb, thing, namespace, expected in [("list", "datasets.millrace.dev", A.name, "yes"), ("list", "datasets.millrace.dev", B.name, "no"),
                                             ("create", "jobs.batch", B.name, "no"), ("list", "pods", "kube-system", "no")]:
        answer = kubectl("auth", "can-i", verb, thing, "-n", namespace, "--as", ACCOUNT, check=False).strip()
        if answer != expected:
            raise Failed(f"the operator {verb} {thing} in {namespace}: {answer}, expected {expected}")
    say("  the operator has its Roles and nothing else")
    for namespace in (A, B):
        Store(namespace).put("watched/a.csv", CSV.encode())
        namespace.apply(dataset(namespace.name))
    newest = lambda namespace: sorted((d for d in namespace.list("datasets") if d["metadata"]["name"].startswith("watched-")),
                                      key=lambda d: d["metadata"]["creationTimestamp"])[-1]
    wait("a Dataset in a watched namespace is Ready", lambda: condition(newest(A), "Ready")[0] == "True", 90, lambda: " ".join(condition(newest(A), "Ready")))
    if newest(B)["status"].get("observedGeneration", -1) != -1:
        raise Failed("a Dataset in a namespace that is not watched was reconciled")
    say("  one in another namespace was left alone")
    install()
    wait("with a ClusterRole it is reconciled", lambda: condition(newest(B), "Ready")[0] == "True", 120)


if __name__ == "__main__":
    main()
