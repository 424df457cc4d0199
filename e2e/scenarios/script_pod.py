"""A pod of the trainer's image that runs a script of a scenario's: somebody inside the cluster for Millrace to reach."""

import json
import os

from kube import condition, kubectl, wait
from served import NS


class ScriptPod:
    """It is there from `start` to `stop`, and ready once something listens on its port, which is the script's first argument."""

    def __init__(self, name, script, port, *arguments):
        self.name, self.script, self.port, self.arguments = name, script, port, arguments

    def start(self):
        """Its address."""
        kubectl("delete", "pod", self.name, "--ignore-not-found", namespace=NS.name)
        NS.apply(json.dumps(self.manifest()))
        pod = lambda: NS.get("pod", self.name)
        wait(f"the pod {self.name} is ready", lambda: condition(pod(), "Ready")[0] == "True", 120, lambda: " ".join(condition(pod(), "Ready")))
        return pod()["status"]["podIP"]

    def manifest(self):
        container = {"name": "script", "image": os.environ["TRAINER_IMAGE"], "imagePullPolicy": "IfNotPresent",
                     "command": ["python3", "-u", "-c", self.script, str(self.port), *self.arguments],
                     "readinessProbe": {"tcpSocket": {"port": self.port}, "periodSeconds": 1},
                     "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}
        security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name}, "spec": {
            "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 1, "securityContext": security, "containers": [container]}}

    def said(self):
        """What the script has printed so far."""
        return kubectl("logs", self.name, namespace=NS.name)

    def stop(self):
        kubectl("delete", "pod", self.name, "--ignore-not-found", "--wait=false", namespace=NS.name, check=False)
