"""Checks of the users' own: a real Prometheus that reads the routers, a webhook and Jobs decide over new versions. One is promoted by them, one is
rejected, and one waits while a query returns nothing or the address is wrong, and goes on when that is mended. A Job asks the new revision by the
address it is told; one that says no rolls back, one whose image is nowhere waits and says so, and one that says yes lets it pass. None is left
running."""

import http.client
import json
import os
import pathlib
import subprocess
import tempfile

from kube import Failed, condition, kubectl, say, wait
from rollouts import approve
from served import BODY, NS, Requests, address_of, approved, model_version, status_of

NAME = "measured"
ROOT = pathlib.Path(__file__).resolve().parents[2]
PROMETHEUS_PORT, WEBHOOK_PORT = 9099, 9098
# Answered requests of the canary by all of its requests, as the routers count them.
GOOD = 'sum(millrace_router_revision_requests_total{service="{{service}}",revision="{{canary}}",outcome="Answered"})'
# Asks the file whose name follows whether a version may go forward.
WEBHOOK = """
import http.server, json, pathlib, sys
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        said = json.loads(self.rfile.read(int(self.headers["content-length"])))
        refused = pathlib.Path(sys.argv[2]).read_text().split()
        self.send_response(409 if said["modelVersion"] in refused else 200)
        self.end_headers()
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Hook).serve_forever()
"""

# Asks the address it is told, and says yes where the revision answers whose name stands in the variable that follows.
JOB = """
import os, sys, urllib.request
url = os.environ["MILLRACE_CANARY_URL"] + "/v2/models/" + os.environ["MILLRACE_SERVICE"] + "/infer"
request = urllib.request.Request(url, sys.argv[1].encode(), {"content-type": "application/json"})
with urllib.request.urlopen(request, timeout=10) as answer:
    answered_by = answer.headers["x-millrace-revision"]
print("asked", url, "and", answered_by, "answered")
sys.exit(answered_by != os.environ[sys.argv[2]])
"""


def in_cluster(*command, log):
    return subprocess.Popen([str(ROOT / "e2e/cluster/in-cluster"), *command], stdout=log, stderr=log)


class Surroundings:
    """Prometheus and webhook in the network of the node; stopped at the end."""

    def __init__(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="millrace-metrics-"))
        self.refused = self.work / "refused"
        self.refused.write_text("")
        nodes = json.loads(kubectl("get", "nodes", "-l", "millrace.dev/node=real", "-o", "json"))["items"]
        self.address = next(entry["address"] for entry in nodes[0]["status"]["addresses"] if entry["type"] == "InternalIP")
        self.running = []

    def start(self):
        routers = [pod["status"]["podIP"] for pod in NS.list("pods", "millrace.dev/component=router") if condition(pod, "Ready")[0] == "True"]
        config = {"global": {"scrape_interval": "1s"},
                  "scrape_configs": [{"job_name": "routers", "static_configs": [{"targets": [f"{ip}:9090" for ip in routers]}]}]}
        (self.work / "prometheus.yaml").write_text(json.dumps(config))
        binary = subprocess.run([str(ROOT / "e2e/scenarios/prometheus")], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        log = (self.work / "log").open("wb")
        self.running.append(in_cluster(binary, f"--config.file={self.work}/prometheus.yaml", f"--storage.tsdb.path={self.work}/data",
                                       f"--web.listen-address=0.0.0.0:{PROMETHEUS_PORT}", log=log))
        self.running.append(in_cluster("python3", "-c", WEBHOOK, str(WEBHOOK_PORT), str(self.refused), log=log))
        wait("Prometheus has read the routers", self.has_read, 120, lambda: (self.work / "log").read_text()[-200:])

    def has_read(self):
        try:
            connection = http.client.HTTPConnection(self.address, PROMETHEUS_PORT, timeout=2)
            connection.request("GET", "/api/v1/query?query=sum(up)")
            response = connection.getresponse()
            if response.status != 200:  # it listens, and says "Service Unavailable" until it has read its own store
                return False
            answer = json.loads(response.read())
            return answer["data"]["result"] and float(answer["data"]["result"][0]["value"][1]) > 0
        except (OSError, http.client.HTTPException):
            return False

    def stop(self):
        for process in self.running:
            process.terminate()
            process.wait(timeout=60)


def service(surroundings, query=GOOD, port=PROMETHEUS_PORT):
    metrics = [
        {"name": "answers", "prometheus": {"address": f"http://{surroundings.address}:{port}", "query": query}, "min": 1, "intervalSeconds": 5},
        {"name": "gate", "webhook": {"url": f"http://{surroundings.address}:{WEBHOOK_PORT}/may"}, "intervalSeconds": 5},
    ]
    return of_checks(metrics)


def of_checks(metrics, concurrency=1):
    """The service with these checks. Another concurrency is another revision of the newest version."""
    rollout = {"steps": [{"weight": 50, "holdSeconds": 5}], "analysis": {"minRequests": 50, "checks": ["errorRate"], "metrics": metrics}}
    return json.dumps({"apiVersion": "millrace.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": NAME}, "spec": {
        "model": {"name": NAME}, "server": {"concurrency": concurrency, "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}},
        "rollout": rollout}})


def by_job(expected, image=os.environ.get("TRAINER_IMAGE", "")):
    """A check by a Job that says yes where this variable names the revision that answers."""
    job = {"image": image, "command": ["python3", "-c", JOB, BODY, expected], "timeoutSeconds": 120}
    return {"name": "smoke", "job": job, "intervalSeconds": 5}


def stable():
    return (status_of(NAME).get("stable") or {}).get("modelVersion")


def says(words, but_not=None):
    """`but_not`: what it said before, and would be taken for what is awaited."""
    said = lambda: status_of(NAME).get("nextStep") or ""
    wait(f"status says {words!r}", lambda: words in said() and not (but_not and but_not in said()), 90, said)


def main():
    artifacts = [version["spec"]["artifact"] for version in approved()[:2]]
    surroundings, requests = Surroundings(), None
    try:
        # All are evaluated while something else is awaited.
        versions = ((1, "Automatic"), (2, "Manual"), (3, "Manual"))
        NS.apply(*(model_version(NAME, number, artifacts[(number - 1) % 2], approval) for number, approval in versions))
        NS.apply(service(surroundings))
        surroundings.start()
        wait("the first version serves", lambda: stable() == f"{NAME}-1" and status_of(NAME).get("phase") == "Serving", 120, lambda: status_of(NAME).get("nextStep"))
        # Enough of them that a promotion is not waited for for want of requests.
        requests = Requests(address_of(NAME), NAME, clients=5)
        waits_and_goes_on(surroundings)
        is_rejected(surroundings)
        is_rejected_by_a_job()
        waits_for_a_job_and_passes()
    finally:
        surroundings.stop()
        try:
            # Before the service goes: whoever asks it afterwards is refused.
            if requests:
                requests.stop()
        finally:
            kubectl("delete", "inferenceservice", NAME, "--wait=false", namespace=NS.name, check=False)
            kubectl("delete", "modelversion", *(f"{NAME}-{number}" for number in (1, 2, 3)), "--wait=false", "--ignore-not-found", namespace=NS.name)


def waits_and_goes_on(surroundings):
    NS.apply(service(surroundings, query="sum(nobody_has_this)"))
    approve(f"{NAME}-2")
    says("answers is still open: no data: the query returns nothing")
    NS.apply(service(surroundings, query="sum("))
    says("answers is still open: no data: the query fails")
    NS.apply(service(surroundings, port=1))
    says("answers is still open: no data: ", but_not="the query")
    NS.apply(service(surroundings))
    wait("the second version is promoted by its checks", lambda: stable() == f"{NAME}-2" and not status_of(NAME).get("canary"), 240, lambda: status_of(NAME).get("nextStep"))
    checks = {check["name"]: check["verdict"] for decision in status_of(NAME)["history"] for check in decision.get("checks", [])}
    if checks.get("answers") != "Pass" or checks.get("gate") != "Pass":
        raise Failed(f"the history does not hold both checks: {checks}")


def is_rejected(surroundings):
    surroundings.refused.write_text(f"{NAME}-3")
    approve(f"{NAME}-3")
    wait("the third version is rejected", lambda: any(entry["modelVersion"] == f"{NAME}-3" for entry in status_of(NAME).get("rejected", [])), 180,
         lambda: status_of(NAME).get("nextStep"))
    entry = status_of(NAME)["rejected"][0]
    say(f"  {entry['reason']}: {entry['message']}")
    if entry["reason"] != "MetricFailed" or "gate: the webhook says no" not in entry["message"]:
        raise Failed(f"rejected for another reason: {entry}")


def is_rejected_by_a_job():
    NS.apply(of_checks([by_job("MILLRACE_STABLE")], concurrency=2))
    its_own = lambda: [entry for entry in status_of(NAME).get("rejected", []) if "smoke: the Job " in entry["message"]]
    entry = wait("the third version is rejected by a Job", its_own, 180, lambda: status_of(NAME).get("nextStep"))[0]
    say(f"  {entry['reason']}: {entry['message']}")
    name = entry["message"].partition("the Job ")[2].split()[0]
    log = kubectl("logs", f"job/{name}", namespace=NS.name).strip()
    if entry["reason"] != "MetricFailed" or " says no" not in entry["message"] or f"and {entry['revision']} answered" not in log:
        raise Failed(f"rejected for another reason, or another revision was asked: {entry}, {log!r}")


def waits_for_a_job_and_passes():
    # A name that no name server is asked for: the node has none, and would wait for its answer.
    NS.apply(of_checks([by_job("MILLRACE_CANARY", image="localhost/nowhere:1")], concurrency=3))
    says("smoke is still open: no data: the Job ")
    says("can't be pulled")
    NS.apply(of_checks([by_job("MILLRACE_CANARY")], concurrency=3))
    wait("the third version is promoted by a Job", lambda: stable() == f"{NAME}-3" and not status_of(NAME).get("canary"), 240, lambda: status_of(NAME).get("nextStep"))
    checks = {check["name"]: check["verdict"] for decision in status_of(NAME)["history"][:1] for check in decision.get("checks", [])}
    if checks.get("smoke") != "Pass":
        raise Failed(f"the history does not hold the check: {status_of(NAME)['history'][:1]}")
    selector = f"millrace.dev/component=check,millrace.dev/inference-service={NAME}"
    runs = lambda: [job["metadata"]["name"] for job in NS.list("jobs", selector) if not (job.get("status") or {}).get("conditions")]
    wait("no Job of a check runs after the rollout", lambda: not runs(), 60, lambda: ", ".join(runs()))


if __name__ == "__main__":
    main()
