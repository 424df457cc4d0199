"""What the events act on: the service under test, its versions, pods and routers. Reads, waits and single actions; no story."""

import itertools
import json
import pathlib
import subprocess
import tempfile
import time

import models
from api import Answered, Api, done, seen
from kube import Failed, Namespace, condition, kubectl, wait
from store import Store, digest

NAME, SYSTEM = "soak", "millrace-system"
ROUTER_SELECTOR = "millrace.dev/component=router"
SERVER_SELECTOR = f"millrace.dev/component=server,millrace.dev/inference-service={NAME}"
OPERATOR_SELECTOR = "app.kubernetes.io/component=operator"
REPLICAS = 2


class Rig:
    """The service `soak` in a namespace that has a bucket."""

    def __init__(self, namespace):
        self.namespace, self.api, self.ns = namespace, Api(), Namespace(namespace)
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="millrace-soak-"))
        self.replicas, self.numbers, self.good = REPLICAS, itertools.count(1), itertools.cycle(models.GOOD)
        self.user = kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
        self.files = models.make()
        models.live_rows(self.files, self.work / "rows.json")
        self.store = None

    # -- looking -------------------------------------------------------------------------------------------------------

    def status(self):
        return (seen(lambda: self.api.get("inferenceservices", self.namespace, NAME)) or {}).get("status") or {}

    def servers(self):
        return self.api.list("pods", self.namespace, SERVER_SELECTOR)

    def routers(self):
        return self.api.list("pods", self.namespace, ROUTER_SELECTOR)

    def operators(self):
        return self.api.list("pods", SYSTEM, OPERATOR_SELECTOR)

    def unsettled(self):
        """What is not at rest yet, a sentence; nothing when all is."""
        try:
            for what, pods, wanted in (("servers", self.servers(), self.replicas), ("routers", self.routers(), 2), ("operators", self.operators(), 2)):
                ready = sum(is_ready(pod) for pod in pods)
                if (ready, len(pods)) != (wanted, wanted):
                    return f"{ready} of {wanted} {what} are ready, {len(pods) - ready} are not or end"
            status = self.status()
            if status.get("canary") or (status.get("stable") or {}).get("ready") != self.replicas:
                return f"{status.get('phase')}: {status.get('nextStep')}"
            return None
        except Answered as error:
            return str(error)

    def settled(self, deadline=180):
        wait("all is at rest", lambda: self.unsettled() is None, deadline, self.unsettled)

    # -- versions ------------------------------------------------------------------------------------------------------

    def next_version(self, model=None):
        """Makes a version that awaits its approval; its name. `model` is a bad one; without it, the good ones take turns."""
        number = next(self.numbers)
        model = model or next(self.good)
        data = models.marked(self.files[model], number)
        uri = self.store.put(f"models/soak-{number}.onnx", data)
        version = {
            "apiVersion": "millrace.dev/v1alpha1", "kind": "ModelVersion", "metadata": {"name": f"{NAME}-{number}"},
            "spec": {"model": NAME, "version": number, "artifact": {"uri": uri, "digest": digest(data)},
                     "source": {"external": {"origin": f"made for the soak: {model}"}}, "approval": "Manual",
                     "evaluation": {"dataset": NAME, "task": "Classification", "gates": [{"metric": "accuracy", "threshold": 0.6}]}},
        }
        done(f"make {NAME}-{number}", lambda: self.api.apply("modelversions", self.namespace, version))
        return f"{NAME}-{number}"

    def phase(self, version):
        return ((seen(lambda: self.api.get("modelversions", self.namespace, version)) or {}).get("status") or {}).get("phase")

    def approve(self, version):
        """As its approver does, once it is evaluated: the API server may be away for a minute meanwhile."""
        look = lambda: self.phase(version)
        wait(f"{version} is evaluated", lambda: look() == "AwaitingApproval", 240, look)
        body = {"spec": {"approved": {"by": self.user}}}
        done(f"approve {version}", lambda: self.api.patch("modelversions", self.namespace, version, body))

    # -- the service ---------------------------------------------------------------------------------------------------

    def begin(self):
        """The dataset, a first version, the service."""
        kubectl("label", "namespace", self.namespace, "pod-security.kubernetes.io/enforce=restricted", "--overwrite")
        for kind in ("inferenceservices", "modelversions"):
            kubectl("delete", kind, "--all", "--wait=true", "--timeout=60s", namespace=self.namespace)
        wait("the namespace has a store", lambda: self.ns.get("secret", "millrace-store"), 60)
        self.store = Store(self.ns)
        self.store.put("soak/rows.csv", models.csv())
        self.ns.apply(DATASET, NAMESPACE=self.namespace)
        dataset = lambda: self.ns.get("dataset", NAME)
        wait("the dataset is Ready", lambda: condition(dataset(), "Ready")[0] == "True", 180, lambda: " ".join(condition(dataset(), "Ready")[1:]))
        self.approve(self.next_version())
        self.ns.apply(SERVICE)
        wait("the service is Ready", lambda: condition({"status": self.status()}, "Ready")[0] == "True", 180, lambda: self.status().get("nextStep"))
        self.settled()

    def address(self):
        return kubectl("get", "service", NAME, "-o", "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}", namespace=self.namespace)

    def command(self, verb, revision):
        """As `kubectl millrace` asks."""
        nonce = f"soak-{time.time_ns()}"

        def ask():
            # Each try has its own minute: the API server may be away for longer, and a request that has expired is refused.
            expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))
            asked = {"verb": verb, "revision": revision, "nonce": nonce, "expires": expires}
            body = {"metadata": {"annotations": {"millrace.dev/command": json.dumps(asked)}}}
            return self.api.patch("inferenceservices", self.namespace, NAME, body)
        done(verb, ask)

    def scale(self, replicas):
        self.replicas = replicas
        body = {"spec": {"scaling": {"replicas": replicas}}}
        done("scale", lambda: self.api.patch("inferenceservices", self.namespace, NAME, body))

    def delete_pod(self, look, namespace=None):
        """Deletes the oldest ready pod, by its grace; its name. Others may have deleted it meanwhile."""
        pods = sorted((pod for pod in done("list pods", look) if is_ready(pod)), key=lambda pod: pod["metadata"]["creationTimestamp"])
        if not pods:
            raise Failed("no ready pod to delete")
        name = pods[0]["metadata"]["name"]
        gone_is_gone(lambda: done(f"delete {name}", lambda: self.api.delete("pods", namespace or self.namespace, name)))
        wait(f"{name} is gone", lambda: seen(lambda: [pod for pod in look() if pod["metadata"]["name"] == name] == []), 120)
        return name

    def stop(self):
        self.api.stop()


def component(*arguments):
    """Stops or starts a part of the local cluster."""
    script = pathlib.Path(__file__).resolve().parents[1] / "cluster" / "component"
    ran = subprocess.run([str(script), *arguments], capture_output=True, text=True, timeout=180, check=False)
    if ran.returncode:
        raise Failed(f"component {' '.join(arguments)}: {ran.stderr.strip()}")


def gone_is_gone(action):
    try:
        action()
    except Failed as error:
        if not isinstance(error.__cause__, Answered) or error.__cause__.status != 404:
            raise


def is_ready(pod):
    return condition(pod, "Ready")[0] == "True" and "deletionTimestamp" not in pod["metadata"]


DATASET = """
apiVersion: millrace.dev/v1alpha1
kind: Dataset
metadata: {name: soak}
spec:
  source: {files: {uri: "s3://millrace-$NAMESPACE/soak/", format: CSV}}
  schema:
    fields:
      - {name: id, type: String, role: Id}
      - {name: delay, type: Number}
      - {name: distance, type: Number}
      - {name: hour, type: Number}
      - {name: temp, type: Number}
      - {name: late, type: Integer, role: Label}
  split: {train: 0.5, validation: 0.1, test: 0.4, seed: 1}
"""

SERVICE = """
apiVersion: millrace.dev/v1alpha1
kind: InferenceService
metadata: {name: soak}
spec:
  model: {name: soak}
  scaling: {replicas: 2}
  server:
    resources:
      requests: {cpu: 50m, memory: 64Mi}
      limits: {memory: 512Mi}
  rollout:
    steps:
      - {weight: 20, holdSeconds: 4}
      - {weight: 50, holdSeconds: 4}
    analysis: {minRequests: 150}
    progressDeadlineSeconds: 180
  requests: {timeoutMilliseconds: 900}
"""
