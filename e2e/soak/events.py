"""What happens to the service while it is asked: one function a kind of event. Each returns when its effect is there; that all is at rest
again is awaited after the event, or the pair, and still belongs to it."""

import time

from api import Answered, done, seen
from kube import Failed, wait
from rig import SYSTEM, component, gone_is_gone, is_ready

ROLLOUT_SECONDS = 240
BAD_MODELS = ("fails", "out-of-memory", "slow")


class Events:
    """Acts on a rig. `outage_seconds`: how long the API server is away."""

    def __init__(self, rig, outage_seconds):
        self.rig, self.outage_seconds, self.bad = rig, outage_seconds, 0
        self.kinds = {
            "rollout": self.rollout, "abort": self.abort, "rollback": self.rollback, "scale up": self.scale_up, "scale down": self.scale_down,
            "server delete": self.server_delete, "drain": self.drain, "operator kill": self.operator_kill, "router delete": self.router_delete,
            "router restart": self.router_restart, "API outage": self.api_outage,
        }

    # -- versions ------------------------------------------------------------------------------------------------------

    def rollout(self):
        """A new approved version takes over by canary."""
        version = self.approved_version()
        self.await_status(f"{version} is stable", lambda status: is_stable(status, version), version)

    def abort(self):
        """A canary that gets requests is aborted."""
        version = self.approved_version()
        canary = self.canary_of(version)
        self.rig.command("abort", canary["revision"])
        self.await_status(f"{version} is aborted", lambda status: reason(status, version) == "Aborted")

    def rollback(self):
        """A bad version is found out in traffic and rolled back by itself."""
        model = BAD_MODELS[self.bad % len(BAD_MODELS)]
        self.bad += 1
        version = self.approved_version(model)
        self.await_status(f"{version} ({model}) is rolled back", lambda status: reason(status, version))

    def approved_version(self, model=None):
        version = self.rig.next_version(model)
        self.rig.approve(version)
        return version

    def canary_of(self, version):
        def look(status):
            canary = status.get("canary") or {}
            if canary.get("modelVersion") != version:
                return None
            return canary if canary["weight"].get("accepted") else None
        return self.await_status(f"{version} gets requests", look, version)

    def await_status(self, what, look, wanted=None):
        """`wanted`: a version that must not be rejected meanwhile."""
        def checked():
            status = self.rig.status()
            if wanted and reason(status, wanted):
                raise Failed(f"{wanted} was rejected: {status['rejected'][0]['message']}")
            return look(status)
        return wait(what, checked, ROLLOUT_SECONDS, lambda: self.rig.status().get("nextStep"))

    # -- pods ----------------------------------------------------------------------------------------------------------

    def scale_up(self):
        self.scale(self.rig.replicas + 1)

    def scale_down(self):
        self.scale(self.rig.replicas - 1)

    def scale(self, replicas):
        self.rig.scale(replicas)
        self.await_status(f"{replicas} pods are ready", lambda status: (status.get("stable") or {}).get("ready") == replicas)

    def server_delete(self):
        self.rig.delete_pod(self.rig.servers)

    def router_delete(self):
        self.rig.delete_pod(self.rig.routers)

    def router_restart(self):
        """As `kubectl rollout restart` does."""
        former = {pod["metadata"]["uid"] for pod in done("list routers", self.rig.routers)}
        annotation = {"kubectl.kubernetes.io/restartedAt": str(time.time())}
        body = {"spec": {"template": {"metadata": {"annotations": annotation}}}}
        done("restart the routers", lambda: self.rig.api.patch("deployments", self.rig.namespace, "millrace-router", body))
        wait("the routers are new", lambda: seen(lambda: not former & {pod["metadata"]["uid"] for pod in self.rig.routers()}), 180)

    def drain(self):
        """As `kubectl drain` does it, but for the cordon, as there is no other node: every pod of servers and routers is evicted, again and
        again while its budget forbids it."""
        look = lambda: self.rig.servers() + self.rig.routers()
        left = {pod["metadata"]["name"] for pod in done("list pods", look) if "deletionTimestamp" not in pod["metadata"]}
        deadline = time.monotonic() + 180
        while left:
            for name in sorted(left):
                if self.evicted(name):
                    left.discard(name)
            if time.monotonic() > deadline:
                raise Failed(f"a drain waited 180 s in vain for {', '.join(sorted(left))}")
            time.sleep(1)

    def evicted(self, name):
        try:
            self.rig.api.evict(self.rig.namespace, name)
        except Answered as error:
            return error.status == 404
        return True

    # -- control -------------------------------------------------------------------------------------------------------

    def operator_kill(self):
        """The leading operator, without grace; the other one takes over."""
        holder = wait("an operator leads", self.leader, 120)
        pods = [pod for pod in done("list operators", self.rig.operators) if is_ready(pod)]
        leads = [pod for pod in pods if pod["metadata"]["name"] in holder] or pods
        if not leads:
            raise Failed("no operator to kill")
        name = leads[0]["metadata"]["name"]
        gone_is_gone(lambda: done(f"kill {name}", lambda: self.rig.api.delete("pods", SYSTEM, name, grace=0)))
        wait("another operator leads", lambda: (now := self.leader()) and now != holder, 120, self.leader)

    def leader(self):
        leases = seen(lambda: self.rig.api.list("leases", SYSTEM)) or []
        holders = [lease["spec"].get("holderIdentity") for lease in leases if "millrace" in lease["metadata"]["name"]]
        return holders[0] if holders else None

    def api_outage(self):
        component("kill", "kube-apiserver")
        time.sleep(self.outage_seconds)
        component("start", "kube-apiserver")
        wait("the API server answers", lambda: seen(lambda: self.rig.operators() is not None), 60)


def is_stable(status, version):
    return (status.get("stable") or {}).get("modelVersion") == version and not status.get("canary")


def reason(status, version):
    return next((entry["reason"] for entry in status.get("rejected", []) if entry["modelVersion"] == version), None)
