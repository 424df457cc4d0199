"""Two tenants in two namespaces cannot reach each other's data, models or Secrets: by credentials, by RBAC, by network. They can call each other's
models, unless those have `auth`; over TLS, too, once their namespace has a certificate."""

import base64
import http.client
import json
import os
import socket
import ssl
import subprocess
import tempfile

import botocore.exceptions

from small_objects import COLUMN, good_model, rows, service, version
from kube import Failed, Namespace, condition, kubectl, say, wait
from served import BODY as FLIGHT, body
from store import Store, digest

A, B = Namespace("tenant-a"), Namespace("tenant-b")
FLIGHTS, SYSTEM = Namespace("flights"), Namespace("millrace-system")
CSV = b"id,x\nr1,1\n"
KEY = "the-key-of-b"
HOST = f"guarded.{B.name}.svc"
# As e2e/demo/install names it.
CERTIFICATE = "router-tls"


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
    """Each reads its own: what is refused to a is not refused for want of a store that answers."""
    for name, store, key in [("a", a, "data/own.csv"), ("b", b, "data/secret.csv")]:
        store.put(key, CSV)
        if store.client.get_object(Bucket=store.bucket, Key=key)["Body"].read() != CSV:
            raise Failed(f"{name} does not read its own {key} as it was written")
        say(f"  {name} writes and reads its own data")
    refused("a reads b's data", lambda: a.client.get_object(Bucket=b.bucket, Key="data/secret.csv"))
    refused("a writes into b's bucket", lambda: a.client.put_object(Bucket=b.bucket, Key="data/x", Body=b"x"))
    refused("a lists b's bucket", lambda: a.client.list_objects_v2(Bucket=b.bucket))


def of_the_other(b):
    """a's Dataset over b's bucket, and its version of b's model. The same file makes a version in b, so that what a is refused is a good model."""
    uri = b.put("models/own.onnx", good_model())
    A.apply(STOLEN)
    for namespace in (A, B):
        Store(namespace).put("own/a.csv", rows())
        namespace.apply(OWN_DATASET.replace("BUCKET", f"millrace-{namespace.name}").replace("COLUMN", COLUMN))
        namespace.apply(version(1, uri, digest(good_model()), "own"))
    dataset = lambda: condition(A.get("dataset", "stolen"), "Ready")
    model = lambda namespace: condition(namespace.get("modelversion", "own-1"), "Ready")
    wait("a's Dataset over b's bucket is refused", lambda: dataset()[1] == "AccessDenied", 150, lambda: " ".join(dataset()))
    wait("b's version of its own model is approved", lambda: model(B)[0] == "True", 120, lambda: " ".join(model(B)))
    wait("a's version of b's model is refused", lambda: model(A)[1] == "AccessDenied", 120, lambda: " ".join(model(A)))
    for refused_for in (dataset, lambda: model(A)):
        say(f"    {refused_for()[2]}")


def guard():
    """A service of b whose callers need a key, before anybody has made the Secret: said in a condition, and healed by the Secret alone."""
    kubectl("delete", "secret", "callers", "--ignore-not-found", namespace=B.name)
    B.apply(service("guarded", "{modelVersion: own-1}") + "  auth: {apiKeys: {secretName: callers}}\n")
    wait("the missing Secret is named", lambda: auth_ready()[1] == "ApiKeysMissing", 120, lambda: " ".join(auth_ready()))
    if "Secret callers" not in auth_ready()[2]:
        raise Failed(f"the condition does not name the Secret: {auth_ready()[2]}")
    say(f"    {auth_ready()[2]}")
    B.apply(f"""
apiVersion: v1
kind: Secret
metadata: {{name: callers}}
data: {{b: {base64.b64encode(KEY.encode()).decode()}}}
""")


def certify():
    """A certificate for the routers of b, which run already: their pods have it once the kubelet brings it. Returns whom to trust."""
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = f"{folder}/tls.crt", f"{folder}/tls.key"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj", "/CN=routers of b",
                        "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", key, "-out", certificate], check=True, capture_output=True)
        kubectl("delete", "secret", CERTIFICATE, "--ignore-not-found", namespace=B.name)
        kubectl("create", "secret", "tls", CERTIFICATE, f"--cert={certificate}", f"--key={key}", namespace=B.name)
        return ssl.create_default_context(cafile=certificate)


def auth_ready():
    return condition(B.get("inferenceservice", "guarded"), "AuthReady")


def calls(trust):
    """From a pod of a: a model without auth answers, one with auth wants a key of its own."""
    try:
        wait("routers know the keys", lambda: auth_ready()[0] == "True", 180, lambda: " ".join(auth_ready()))
        guarded, flights = (service_address(*of) for of in ((B, "guarded"), (FLIGHTS, "flights")))
        right = wait("b calls its model with its key", lambda: (answer := called(guarded))[0] == 200 and answer, 180, lambda: f"answers {called(guarded)[0]}")
        over_tls(guarded, right, trust)
        asked = {"b's model without a key": (guarded, "guarded", body([0.5]), None), "b's model with another key": (guarded, "guarded", body([0.5]), "guessed"),
                 "a model without auth": (flights, "flights", FLIGHT, None)}
        kubectl("delete", "pod", "try", "--ignore-not-found", namespace=A.name)
        A.apply(json.dumps(pod({}, CALL, asked)))
        answers = reached_by(A)
    finally:
        kubectl("delete", "pod", "try", "--ignore-not-found", "--wait=false", namespace=A.name, check=False)
        kubectl("delete", "inferenceservice", "guarded", "--wait=false", namespace=B.name, check=False)
        kubectl("delete", "secret", CERTIFICATE, "--ignore-not-found", namespace=B.name, check=False)
    expected = {"b's model without a key": 401, "b's model with another key": 401, "a model without auth": 200}
    if answers != expected:
        raise Failed(f"a pod of a got {answers}, expected {expected}")
    say(f"  a pod of a got {answers}")


def service_address(namespace, name):
    look = lambda: kubectl("get", "service", name, "--ignore-not-found", "-o", "jsonpath={.spec.clusterIP}", namespace=namespace.name)
    return wait(f"Service {name} has an address", look, 60)


def called(address, trust=None):
    """Status and outputs of a request to b's model with its key; over TLS where it is said whom to trust."""
    connection = http.client.HTTPConnection(HOST, timeout=5)
    try:
        connection.sock = socket.create_connection((address, 443 if trust else 80), timeout=5)
        if trust:
            connection.sock = trust.wrap_socket(connection.sock, server_hostname=HOST)
        connection.request("POST", "/v2/models/guarded/infer", body([0.5]), {"x-api-key": KEY})
        response = connection.getresponse()
        return response.status, json.loads(response.read()).get("outputs")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return repr(error), None
    finally:
        connection.close()


def over_tls(address, right, trust):
    look = lambda: called(address, trust)
    wait(f"https://{HOST} answers as without TLS", lambda: look() == right, 120, lambda: f"answers {look()[0]}")


STOLEN = f"""
apiVersion: millrace.dev/v1alpha1
kind: Dataset
metadata: {{name: stolen}}
spec:
  source: {{files: {{uri: s3://millrace-{B.name}/data/, format: CSV}}}}
"""

OWN_DATASET = """
apiVersion: millrace.dev/v1alpha1
kind: Dataset
metadata: {name: good}
spec:
  source: {files: {uri: s3://BUCKET/own/, format: CSV}}
  schema:
    fields:
      - {name: id, type: String, role: Id}
      - {name: COLUMN, type: Number}
      - {name: late, type: Integer, role: Label}
"""

# What answers each request gets, by its name. The network may need a moment until a new pod is known.
CALL = """
import http.client, json, sys, time
def answer(address, model, body, key):
    for attempt in range(20):
        try:
            connection = http.client.HTTPConnection(address, timeout=5)
            connection.request("POST", f"/v2/models/{model}/infer", body, {"x-api-key": key} if key else {})
            return connection.getresponse().status
        except OSError:
            time.sleep(1)
    return "not reached"
print(json.dumps({name: answer(*asked) for name, asked in json.loads(sys.argv[1]).items()}))
"""


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
    """Pods try the ports of a server and a router of flights. Those that may reach one show that the others are kept from it."""
    server, router = address("server"), address("router")
    targets = {"server": (server, 8080), "server's admin port": (server, 9090),
               "router": (router, 8080), "router with TLS": (router, 8443), "router's admin port": (router, 9090)}
    doors = ["router", "router with TLS"]
    tries = [(A, {}, doors), (FLIGHTS, {"millrace.dev/component": "router"}, [*doors, "server"]),
             (SYSTEM, {}, [*doors, "router's admin port", "server's admin port"])]
    try:
        for namespace, labels, _ in tries:
            kubectl("delete", "pod", "try", "--ignore-not-found", namespace=namespace.name)
            namespace.apply(json.dumps(pod(labels, TRY, targets)))
        wrong = [f"from {namespace.name} with {labels}: reached {reached}, expected {expected}"
                 for namespace, labels, expected in tries if (reached := reached_by(namespace)) != expected]
    finally:
        for namespace, _, _ in tries:
            kubectl("delete", "pod", "try", "--ignore-not-found", "--wait=false", namespace=namespace.name, check=False)
    if wrong:
        raise Failed("; ".join(wrong))
    say("  a pod of a reaches the router and nothing else; a router reaches the server, the operator's namespace the admin ports")


def address(component):
    pods = [pod for pod in FLIGHTS.list("pods", f"millrace.dev/component={component}") if condition(pod, "Ready")[0] == "True" and "deletionTimestamp" not in pod["metadata"]]
    if not pods:
        raise Failed(f"no {component} of flights is ready, so nothing can be tried")
    return pods[0]["status"]["podIP"]


def pod(labels, program, asked):
    """It runs a program on what is asked of it. It is never ready: under the label of routers it must get none of their requests."""
    container = {"name": "try", "image": os.environ["TRAINER_IMAGE"], "imagePullPolicy": "IfNotPresent",
                 "command": ["python3", "-c", program, json.dumps(asked)], "readinessProbe": {"exec": {"command": ["false"]}},
                 "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
    security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "try", "labels": labels}, "spec": {
        "restartPolicy": "Never", "automountServiceAccountToken": False, "securityContext": security, "containers": [container]}}


def reached_by(namespace):
    """What the pod of a namespace says: the names of the targets that it reached, in order, or the answers that it got."""
    phase = lambda: ((namespace.get("pod", "try") or {}).get("status") or {}).get("phase")
    wait(f"the try of {namespace.name} has ended", lambda: phase() in ("Succeeded", "Failed"), 150, phase)
    said = kubectl("logs", "try", namespace=namespace.name).strip()
    if phase() != "Succeeded":
        raise Failed(f"the try of {namespace.name} itself failed: {said[-300:]}")
    return json.loads(said)


# A new pod is open for a moment until the policies know it, and those that let it in do not either: three tries, the last one counts.
# What is closed is only known when its time is over, so all are tried at once.
TRY = """
import concurrent.futures, json, socket, sys, time
def is_reached(target):
    try:
        socket.create_connection(target, timeout=2).close()
        return True
    except OSError:
        return False
targets = {name: tuple(target) for name, target in json.loads(sys.argv[1]).items()}
pool = concurrent.futures.ThreadPoolExecutor(len(targets))
for attempt in range(3):
    time.sleep(1)
    answers = list(pool.map(is_reached, targets.values()))
print(json.dumps(sorted(name for name, reached in zip(targets, answers) if reached)))
"""


def main():
    buckets(Store(A), Store(B))
    of_the_other(Store(B))
    guard()
    trust = certify()
    # Meanwhile the kubelet brings keys and certificate to the routers.
    accounts()
    network()
    calls(trust)


if __name__ == "__main__":
    main()
