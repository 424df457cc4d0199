"""The two services of the scenario routing, in versions of the demo, and how they are asked: `parted` with routes, a fallback and tokens; `returned`
with sticky keys and nothing that goes forward without a person. What routers have counted of them."""

import http.client
import json

from kube import condition, read
from served import BODY, NS, status_of

PARTED, RETURNED = "parted", "returned"
# The weight of the stable revision and of the other one in each route.
ROUTES = {"beta": (1, 3), "trial": (1, 1), "gold": (4, 1)}


def service(name, version, **more):
    spec = {"model": {"modelVersion": version}, "server": {"resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}}, **more}
    return json.dumps({"apiVersion": "millrace.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": name}, "spec": spec})


def parted(first, second, jwt):
    def route(name, match):
        stable, other = ROUTES[name]
        return {"name": name, "match": [match], "split": [{"weight": stable}, {"modelVersion": second, "weight": other}]}
    routes = [route("beta", {"header": "x-beta", "present": True}), route("trial", {"cookie": "trial", "exact": "on"}),
              route("gold", {"claim": "plan", "exact": "gold"})]
    return service(PARTED, first, routes=routes, fallback={"modelVersion": second}, auth={"jwt": jwt})


def returned(version, strategy):
    rollout = {"strategy": strategy, "switch": {"holdSeconds": 3600}, "steps": [{"weight": 50, "holdSeconds": 3600}],
               "analysis": {"checks": ["errorRate"]}, "bakeSeconds": 600}
    return service(RETURNED, version, sticky={"header": "x-user"}, rollout=rollout)


def serves(name, version):
    stable = status_of(name).get("stable") or {}
    return stable.get("modelVersion") == version and stable.get("loaded") and stable["weight"].get("accepted") == 100


def next_step(name):
    return lambda: status_of(name).get("nextStep")


def says(name, kind):
    return " ".join(condition(NS.get("inferenceservice", name), kind))


class Connection:
    """A kept connection to a router, or to the Service of them all."""

    def __init__(self, address, name, port=80):
        self.name, self.connection = name, http.client.HTTPConnection(address, port, timeout=10)

    def ask(self, version=None, body=BODY, **headers):
        """Status, revision, and why the fallback answered if it did."""
        path = f"/v2/models/{self.name}" + (f"/versions/{version}" if version else "") + "/infer"
        try:
            self.connection.request("POST", path, body, headers)
            response = self.connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            return repr(error), None, None
        return response.status, response.getheader("x-millrace-revision"), response.getheader("x-millrace-fallback")


def asked(address, name, version=None, port=80, **headers):
    """One request on a connection of its own, which is closed."""
    one = Connection(address, name, port)
    try:
        return one.ask(version, **headers)
    finally:
        one.connection.close()


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def routers():
    """The ready ones that are not on their way out: their pods by uid."""
    pods = NS.list("pods", "millrace.dev/component=router")
    stay = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and condition(pod, "Ready")[0] == "True"]
    return {pod["metadata"]["uid"]: pod for pod in stay}


def traffic(name):
    """What each router has counted beside the evidence."""
    path = "/api/v1/namespaces/{}/pods/{}:9090/proxy/v1/traffic?service={}"
    answers = [read(path.format(NS.name, pod["metadata"]["name"], name)) for pod in routers().values()]
    return [answer["services"][name] for answer in answers if answer and name in answer["services"]]


def total(name, revision, counter):
    return sum(one["revisions"].get(revision, {}).get(counter, 0) for one in traffic(name))
