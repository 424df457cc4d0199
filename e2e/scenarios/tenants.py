"""Two tenants in two namespaces cannot reach each other's data, models or Secrets: by credentials, by RBAC, by network."""

import json
import os

import botocore.exceptions

from kube import Failed, Namespace, condition, kubectl, say, wait
from store import Store

A, B = Namespace("tenant-a"), Namespace("tenant-b")


def refused(what, attempt):
    try:
        attempt()
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"] not in ("AccessDenied", "403"):
            raise
        say(f"  refused: {what}: {error.response['Error']['Code']}")
        return
    raise Failed(f"not refused: {what}")


def buckets(a, b):
    b.put("data/secret.csv", b"id,x\nr1,1\n")
    refused("a reads b's data", lambda: a.client.get_object(Bucket=b.bucket, Key="data/secret.csv"))
    refused("a writes into b's bucket", lambda: a.client.put_object(Bucket=b.bucket, Key="data/x", Body=b"x"))
    refused("a lists b's bucket", lambda: a.client.list_objects_v2(Bucket=b.bucket))


def dataset_of_the_other():
    A.apply(f"""
apiVersion: millrace.dev/v1alpha1
kind: Dataset
metadata: {{name: stolen}}
spec:
  source: {{files: {{uri: s3://millrace-{B.name}/data/, format: CSV}}}}
""")
    look = lambda: condition(A.get("dataset", "stolen"), "Ready")
    wait("a's Dataset over b's bucket is refused", lambda: look()[1] == "AccessDenied", 90, lambda: " ".join(look()))
    say(f"    {look()[2]}")


def accounts():
    for namespace, account in [(A.name, "default"), (A.name, "millrace-router")]:
        for verb, thing in [("get", "secrets"), ("get", "configmaps"), ("list", "pods"), ("get", "inferenceservices.millrace.dev")]:
            answer = kubectl("auth", "can-i", verb, thing, "-n", B.name, "--as", f"system:serviceaccount:{namespace}:{account}", check=False).strip()
            if answer != "no":
                raise Failed(f"{namespace}/{account} may {verb} {thing} in {B.name}: {answer}")
    answer = kubectl("auth", "can-i", "get", "secrets", "-A", "--as", "system:serviceaccount:millrace-system:millrace-operator", check=False).strip()
    if answer != "no":
        raise Failed(f"the operator may read Secrets: {answer}")
    say("  no account of a may read anything in b; the operator may read no Secret at all")


def network():
    """A pod of a tries the server and the router's admin port of another namespace; from the router's own namespace it is allowed."""
    server = Namespace("flights").list("pods", "millrace.dev/component=server")[0]["status"]["podIP"]
    overrides = {"spec": {"securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                          "containers": [{"name": "try", "image": os.environ["TRAINER_IMAGE"], "imagePullPolicy": "IfNotPresent",
                                          "command": ["python3", "-c", TRY.format(server=server)],
                                          "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}]}}
    kubectl("delete", "pod", "try", "--ignore-not-found", namespace=A.name)
    kubectl("run", "try", "--restart=Never", f"--image={os.environ['TRAINER_IMAGE']}", f"--overrides={json.dumps(overrides)}", namespace=A.name)
    wait("the try has ended", lambda: A.get("pod", "try")["status"]["phase"] in ("Succeeded", "Failed"), 90)
    said = kubectl("logs", "try", namespace=A.name).strip()
    kubectl("delete", "pod", "try", "--wait=false", namespace=A.name)
    if said != "unreachable":
        raise Failed(f"a pod of tenant-a reached the model server of another namespace: {said}")
    say("  a pod of a cannot reach a model server of another namespace")


# A new pod is open for a moment until the policies know it: three tries, the last one counts.
TRY = """
import socket, time
for attempt in range(3):
    time.sleep(1)
    try:
        socket.create_connection(("{server}", 8080), timeout=2).close()
        answer = "reached"
    except OSError:
        answer = "unreachable"
print(answer)
"""


def main():
    buckets(Store(A), Store(B))
    dataset_of_the_other()
    accounts()
    network()


if __name__ == "__main__":
    main()
