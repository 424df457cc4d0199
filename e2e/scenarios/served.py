"""What several scenarios serve in the namespace of the demo, and how they ask it: versions of a model of their own from the demo's files, the
address of a service, the command line as it was built, and requests that never cease and never retry."""

import http.client
import json
import os
import threading
import time

from kube import Failed, Namespace, kubectl, say, wait

NS = Namespace("flights")
ROW = [0.0, 1000.0, 12.0, 3.0, 40.0, 60.0, 10.0, 0.0, 10.0]
CACHE = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
CLI = os.path.join(os.environ.get("CARGO_TARGET_DIR", f"{CACHE}/millrace/target"), "debug/kubectl-millrace")


def body(row):
    """An inference request for one row."""
    return json.dumps({"inputs": [{"name": "X", "shape": [1, len(row)], "datatype": "FP32", "data": row}]})


BODY = body(ROW)


def approved():
    """Approved ModelVersions of the demo, by their number. Those that other scenarios made of the same files may still be going."""
    is_there = lambda v: (v.get("status") or {}).get("phase") == "Approved" and "deletionTimestamp" not in v["metadata"]
    return sorted((v for v in NS.list("modelversions") if v["spec"]["model"] == "flights" and is_there(v)), key=lambda v: v["spec"]["version"])


def phase_of(version):
    return ((NS.get("modelversion", version) or {}).get("status") or {}).get("phase")


def model_version(model, number, artifact, approval="Automatic", threshold=0.5):
    return f"""
apiVersion: millrace.dev/v1alpha1
kind: ModelVersion
metadata: {{name: {model}-{number}}}
spec:
  model: {model}
  version: {number}
  artifact: {{uri: "{artifact['uri']}", digest: "{artifact['digest']}"}}
  source: {{external: {{origin: a scenario}}}}
  approval: {approval}
  evaluation: {{dataset: flights, task: Classification, gates: [{{metric: accuracy, threshold: {threshold}}}]}}
"""


def status_of(service):
    return (NS.get("inferenceservice", service) or {}).get("status") or {}


def server_selector(service, revision=None):
    """That of a service's server pods, or of those of one revision."""
    selector = f"millrace.dev/component=server,millrace.dev/inference-service={service}"
    return selector + (f",millrace.dev/revision={revision}" if revision else "")


def address_of(service):
    return kubectl("get", "service", service, "-o", "jsonpath={.spec.clusterIP}", namespace=NS.name)


def address_that_answers(service):
    """The address of a new service, once its first request was answered: the cluster may learn of a new address after the status tells of its pods."""
    address = address_of(service)

    def status():
        connection = http.client.HTTPConnection(address, timeout=5)
        try:
            connection.request("POST", f"/v2/models/{service}/infer", BODY)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        finally:
            connection.close()
    wait(f"{service} answers at its address", lambda: status() == 200, 30, lambda: str(status()))
    return address


def in_threads(count, work):
    """Does the same work so many times at once, and waits for all of it."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Requests:
    """Some requests a second to one model, from the start on. What was not answered right within 2 s has failed. `host` is that of the requests,
    where the address is not; of the bodies one is sent after another."""

    def __init__(self, address, model, host=None, bodies=(BODY,), clients=2, pause=0.02, headers=None):
        self.address, self.path, self.headers = address, f"/v2/models/{model}/infer", ({"host": host} if host else {}) | (headers or {})
        self.bodies, self.pause = bodies, pause
        self.stopped, self.sent, self.failed, self.revisions = False, 0, [], set()
        self.threads = [threading.Thread(target=self.send, daemon=True) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def send(self):
        connection = http.client.HTTPConnection(self.address, timeout=2)
        while not self.stopped:
            self.sent += 1
            try:
                connection.request("POST", self.path, self.bodies[self.sent % len(self.bodies)], self.headers)
                response = connection.getresponse()
                data = response.read()
                if response.status != 200 or len(json.loads(data)["outputs"]) < 1:
                    self.failed.append(f"{time.strftime('%H:%M:%S')} {response.status} {data[:100]!r}")
                self.revisions.add(response.getheader("x-millrace-revision"))
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failed.append(f"{time.strftime('%H:%M:%S')} {error!r}")
                connection.close()
            time.sleep(self.pause)

    def stop(self):
        """Ends them, and fails where one request did."""
        self.stopped = True
        for thread in self.threads:
            thread.join(timeout=5)
        say(f"  {self.sent} requests, {len(self.failed)} failed")
        if self.failed or not self.sent:
            raise Failed(f"{len(self.failed)} of {self.sent} requests failed: {self.failed[:3]}")
