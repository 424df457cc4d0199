"""The same service as a naive operator runs it: Millrace's operator is scaled to nothing, and its objects are patched to what is common
where nobody thought of the end of pods. What is left out, each a reason why requests fail:

- no drain: `terminationGracePeriodSeconds: 0`, so that pods are killed with requests in flight and before anybody knows;
- readiness is ignored: no probes, and the revisions' Services publish addresses that are not ready;
- `maxUnavailable: 100%` for servers and routers, no disruption budgets, a single router;
- weight before ready: the routing plan names a revision before its pods exist, and the old one goes in the same moment;
- no shield, no retries, no ejection in the plan.
"""

import json
import time

from api import STRATEGIC, done, seen
from kube import condition, say, wait
from rig import SYSTEM, gone_is_gone

ROUTER, PLAN = "millrace-router", "soak-plan"
# A naive operator waits for a while instead of for something.
PAUSE_SECONDS = 4
STRATEGY = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%", "maxSurge": 0}}


class Naive:
    def __init__(self, rig):
        self.rig, self.api, self.namespace, self.number = rig, rig.api, rig.namespace, 0
        self.kinds = {"rollout": self.rollout, "scale up": lambda: self.scale(1), "scale down": lambda: self.scale(-1), "server delete": self.server_delete,
                      "drain": self.drain, "router delete": self.router_delete, "router restart": self.router_restart}

    def prepare(self):
        say("=== the naive configuration")
        self.api.patch("deployments", SYSTEM, "millrace-operator", {"spec": {"replicas": 0}})
        wait("the operator is gone", lambda: not self.rig.operators(), 60)
        for budget in self.api.list("poddisruptionbudgets", self.namespace):
            self.api.delete("poddisruptionbudgets", self.namespace, budget["metadata"]["name"])
        self.revision = self.rig.status()["stable"]["revision"]
        self.api.patch("services", self.namespace, self.child(self.revision), {"spec": {"publishNotReadyAddresses": True}})
        self.plan([(self.revision, 100)])
        self.api.patch("deployments", self.namespace, self.child(self.revision), {"spec": {"strategy": STRATEGY, "template": careless("server")}}, STRATEGIC)
        self.api.patch("deployments", self.namespace, ROUTER, {"spec": {"replicas": 1, "strategy": STRATEGY, "template": careless("router")}}, STRATEGIC)
        wait("all pods are the naive ones", lambda: seen(self.is_calm), 120)

    def is_calm(self):
        pods = self.rig.servers() + self.rig.routers()
        return pods and all("deletionTimestamp" not in pod["metadata"] and condition(pod, "Ready")[0] == "True"
                            and pod["spec"]["terminationGracePeriodSeconds"] == 0 for pod in pods)

    def child(self, revision):
        return f"soak-{revision}"

    def plan(self, weights):
        """Writes the routing plan, whatever is ready."""
        stored = self.api.get("configmaps", self.namespace, PLAN)
        plan = json.loads(stored["data"]["plan.json"])
        plan["generation"] += 1
        plan["targets"] = [{"revision": revision, "service": self.child(revision), "weight": weight} for revision, weight in weights]
        plan["shield"] = None
        plan["policy"] = plan.get("policy", {}) | {"retries": {"maxAttempts": 1}, "ejection": {"consecutiveErrors": 0}}
        self.api.patch("configmaps", self.namespace, PLAN, {"data": {"plan.json": json.dumps(plan)}})

    def rollout(self):
        """Another revision of the same model: weight first, then pods; the old ones go when the new ones get everything."""
        self.number += 1
        former, new = self.revision, f"{self.number:08x}"
        old = self.api.get("deployments", self.namespace, self.child(former))
        service = self.api.get("services", self.namespace, self.child(former))
        self.api.apply("services", self.namespace, renamed(service, self.child(new), former, new))
        self.plan([(former, 50), (new, 50)])
        self.api.apply("deployments", self.namespace, renamed(old, self.child(new), former, new))
        time.sleep(PAUSE_SECONDS)
        self.plan([(new, 100)])
        self.api.delete("deployments", self.namespace, self.child(former))
        self.api.delete("services", self.namespace, self.child(former))
        self.revision = new
        self.calm()

    def scale(self, more):
        name = self.child(self.revision)
        replicas = self.api.get("deployments", self.namespace, name)["spec"]["replicas"] + more
        self.api.patch("deployments", self.namespace, name, {"spec": {"replicas": replicas}})
        self.calm()

    def calm(self):
        time.sleep(1)
        wait("all pods are ready", lambda: seen(self.is_calm), 120)

    def server_delete(self):
        self.rig.delete_pod(self.rig.servers)
        self.calm()

    def router_delete(self):
        self.rig.delete_pod(self.rig.routers)
        self.calm()

    def router_restart(self):
        annotation = {"kubectl.kubernetes.io/restartedAt": str(time.time())}
        self.api.patch("deployments", self.namespace, ROUTER, {"spec": {"template": {"metadata": {"annotations": annotation}}}})
        self.calm()

    def drain(self):
        for pod in self.rig.servers() + self.rig.routers():
            gone_is_gone(lambda name=pod["metadata"]["name"]: done(f"evict {name}", lambda: self.api.evict(self.namespace, name)))
        self.calm()


def careless(container):
    """A pod that ends at once and is ready at once."""
    probes = {"readinessProbe": None, "startupProbe": None, "livenessProbe": None}
    return {"spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": container, **probes}]}}


def renamed(thing, name, former, new):
    """A copy for another revision, with nothing that the API server adds."""
    kept = json.loads(json.dumps(thing["spec"]).replace(former, new))
    labels = {key: new if value == former else value for key, value in thing["metadata"].get("labels", {}).items()}
    kept.pop("clusterIPs", None)
    return {"apiVersion": thing.get("apiVersion"), "kind": thing.get("kind"), "metadata": {"name": name, "labels": labels}, "spec": kept}

