"""What decides over a canary whose requests stay with their keys: the predictions of clusters of keys, which routers name and servers count. A revision
of the same model is promoted, one that takes every flight for two hours later is rolled back for PredictionDrift, and both verdicts tell of how many
clusters they are."""

import json
import queue

import numpy as np
import onnx

from bad_models import constant, with_prologue
from kube import Failed, kubectl, read, say, wait
from routed import Connection, next_step
from served import NS, ROW, address_that_answers, approved, body, in_threads, model_version, phase_of, status_of
from store import FEATURES, Store, digest, probabilities

NAME = "keyed"
OTHER = f"{NAME}-1"
CHECK = "predictionDrift"
USERS = [f"user-{number}" for number in range(300)]
# From flights that are too early to those that are late for sure.
ROWS = [[float(delay), *ROW[1:]] for delay in (-10, -5, 0, 5, 10, 15, 20, 25, 30, 35, 40, 50)]
BODIES = [body(row) for row in ROWS]
LATER_MINUTES = 120.0
THREADS = 6


def service(version, cpu):
    """Another CPU request is another revision of the same model. Where keys are sticky errorRate always decides, too."""
    rollout = {"steps": [{"weight": 50, "holdSeconds": 1}], "analysis": {"checks": ["errorRate", CHECK], "minRequests": 100}}
    return json.dumps({"apiVersion": "millrace.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": NAME}, "spec": {
        "model": {"modelVersion": version}, "server": {"resources": {"requests": {"cpu": cpu, "memory": "64Mi"}}},
        "sticky": {"header": "x-user"}, "rollout": rollout}})


def of_later_flights(data):
    """A model that answers as this one does for flights that leave two hours later."""
    model = onnx.load_from_string(data)
    later = np.zeros((1, len(FEATURES)), dtype=np.float32)
    later[0, FEATURES.index("dep_delay")] = LATER_MINUTES
    model.graph.initializer.append(constant("bad_later", later))
    return with_prologue(model, [], "bad_later")


def other_model(store, artifact):
    """A version that will be approved whatever it answers."""
    good = store.get(artifact["uri"])
    data = of_later_flights(good)
    apart = float(np.mean(probabilities(data, ROWS) - probabilities(good, ROWS)))
    say(f"  of {len(ROWS)} flights the scores of {OTHER} are {apart:.2f} higher on average")
    if apart < 0.3:
        raise Failed(f"the scores of both models differ by {apart:.2f} only: a rollback would not be owed to that")
    uri = store.put(f"models/external/{OTHER}.onnx", data)
    NS.apply(model_version(NAME, 1, {"uri": uri, "digest": digest(data)}, threshold=0.0))


class Users:
    """Every user in turn, each with one row after another."""

    def __init__(self, address):
        self.address, self.rounds, self.sent, self.problems = address, 0, 0, []

    def all_ask(self):
        """One request of each; fails where one did."""
        waiting, number = queue.SimpleQueue(), self.rounds
        for place, user in enumerate(USERS):
            waiting.put((user, BODIES[(place + number) % len(BODIES)]))

        def send():
            connection = Connection(self.address, NAME)
            try:
                while True:
                    user, text = waiting.get_nowait()
                    status, _, fallback = connection.ask(body=text, **{"x-user": user})
                    if status != 200 or fallback:
                        self.problems.append((user, status, fallback))
            except queue.Empty:
                pass
            finally:
                connection.connection.close()

        in_threads(THREADS, send)
        self.rounds, self.sent = number + 1, self.sent + len(USERS)
        if self.problems:
            raise Failed(f"{len(self.problems)} of {self.sent} requests failed: {self.problems[:3]}")


def tells_clusters(check, verdict):
    """The check of a verdict names the clusters of both revisions, and counts those of the canary."""
    say(f"  {check['verdict']}: {check['message']}")
    if check["verdict"] != verdict or "clusters of keys" not in check["message"] or not 4 <= check["samples"] <= len(USERS):
        raise Failed(f"{CHECK} was to be a {verdict} by clusters of keys: {check}")


def check_of(decision):
    return next((check for check in decision.get("checks", []) if check["name"] == CHECK), None)


def counts_by_clusters(revision):
    """The servers of a revision that was compared have counted its clusters alone: at a share of 50 % those from 200 on."""
    pods = NS.list("pods", f"millrace.dev/component=server,millrace.dev/serves={revision}")
    path = "/api/v1/namespaces/{}/pods/{}:9090/proxy/v1/sketches"
    counted = [read(path.format(NS.name, pod["metadata"]["name"])).get("stickyPredictions", {}) for pod in pods]
    clusters = {int(cluster) for parts in counted for part in parts.values() for cluster in part}
    say(f"  the servers of {revision} have counted {sorted({part for parts in counted for part in parts})} of {len(clusters)} clusters")
    if not clusters or min(clusters) < 200 or max(clusters) >= 400:
        raise Failed(f"the servers of the canary were to count clusters 200 to 399: {sorted(clusters)}")


def the_same_is_promoted(users, version):
    former = status_of(NAME)["stable"]["revision"]
    NS.apply(service(version, "51m"))

    def is_promoted():
        users.all_ask()
        status = status_of(NAME)
        if status.get("rejected"):
            raise Failed(f"the same model was rolled back: {status['rejected'][0]}")
        return status["stable"]["revision"] != former and status["stable"].get("loaded") and not status.get("canary") and status
    status = wait("a revision of the same model is promoted", is_promoted, 180, next_step(NAME))
    decision = next((one for one in status["history"] if check_of(one)), None)
    if not decision or decision["question"] != "Promote":
        raise Failed(f"no decision to promote rests on {CHECK}: {status['history'][:2]}")
    tells_clusters(check_of(decision), "Pass")
    counts_by_clusters(status["stable"]["revision"])


def the_other_is_rolled_back(users):
    wait(f"{OTHER} is approved", lambda: phase_of(OTHER) == "Approved", 180, lambda: phase_of(OTHER))
    stable = status_of(NAME)["stable"]["revision"]
    NS.apply(service(OTHER, "51m"))

    def is_rejected():
        users.all_ask()
        status = status_of(NAME)
        return status.get("rejected") and not status.get("canary") and status
    status = wait(f"{OTHER} is rolled back", is_rejected, 180, next_step(NAME))
    rejected = status["rejected"][0]
    say(f"  {rejected['reason']}: {rejected['message']}")
    is_meant = (rejected["modelVersion"], rejected["reason"]) == (OTHER, "PredictionDrift") and "clusters of keys" in rejected["message"]
    if not is_meant or status["stable"]["revision"] != stable:
        raise Failed(f"{OTHER} was to be rolled back for PredictionDrift, and {stable} to serve: {rejected}, {status['stable']}")
    decision = next(one for one in status["history"] if one["reason"] == "PredictionDrift")
    tells_clusters(check_of(decision), "Fail")


def main():
    first = approved()[0]
    version = first["metadata"]["name"]
    try:
        NS.apply(service(version, "50m"))
        # It is evaluated while the same model is rolled out.
        other_model(Store(NS), first["spec"]["artifact"])
        wait(f"{version} serves", lambda: (status_of(NAME).get("stable") or {}).get("loaded"), 120, next_step(NAME))
        users = Users(address_that_answers(NAME))
        the_same_is_promoted(users, version)
        the_other_is_rolled_back(users)
        say(f"  {users.sent} requests of {len(USERS)} users, none failed")
    finally:
        kubectl("delete", "inferenceservice", NAME, "--wait=false", "--ignore-not-found", namespace=NS.name, check=False)
        kubectl("delete", "modelversion", OTHER, "--wait=false", "--ignore-not-found", namespace=NS.name, check=False)


if __name__ == "__main__":
    main()
