"""The API server over `kubectl proxy`, as JSON, for reads and writes that may have to be tried again. Knows nothing of the soak's story."""

import http.client
import json
import time

from kube import Failed, Proxy

MERGE, STRATEGIC, SERVER_SIDE = "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"
PATHS = {
    "pods": "/api/v1/namespaces/{namespace}/pods", "services": "/api/v1/namespaces/{namespace}/services",
    "configmaps": "/api/v1/namespaces/{namespace}/configmaps", "deployments": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "poddisruptionbudgets": "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
    "leases": "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
    "inferenceservices": "/apis/millrace.dev/v1alpha1/namespaces/{namespace}/inferenceservices",
    "modelversions": "/apis/millrace.dev/v1alpha1/namespaces/{namespace}/modelversions",
    "datasets": "/apis/millrace.dev/v1alpha1/namespaces/{namespace}/datasets",
}


class Answered(Failed):
    """The API server refused; `status` is its code, 0 where it gave none."""

    def __init__(self, status, message):
        super().__init__(f"the API server: {status} {message}")
        self.status = status


class Api(Proxy):
    """One proxy process."""

    def call(self, method, path, body=None, kind="application/json"):
        try:
            status, text = self.answer(method, path, None if body is None else json.dumps(body), {"content-type": kind})
        except (OSError, http.client.HTTPException) as error:
            raise Answered(0, str(error)) from error
        if status // 100 != 2:
            raise Answered(status, text[:500].decode(errors="replace"))
        return json.loads(text)

    def path(self, kind, namespace, name="", selector=""):
        path = PATHS[kind].format(namespace=namespace) + (f"/{name}" if name else "")
        return path + (f"?labelSelector={selector}" if selector else "")

    def get(self, kind, namespace, name):
        """Nothing where it does not exist."""
        try:
            return self.call("GET", self.path(kind, namespace, name))
        except Answered as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind, namespace, selector=""):
        return self.call("GET", self.path(kind, namespace, selector=selector))["items"]

    def apply(self, kind, namespace, thing):
        """Server-side: the same again changes nothing."""
        path = self.path(kind, namespace, thing["metadata"]["name"]) + "?fieldManager=soak&force=true"
        return self.call("PATCH", path, thing, SERVER_SIDE)

    def patch(self, kind, namespace, name, body, how=MERGE):
        return self.call("PATCH", self.path(kind, namespace, name), body, how)

    def delete(self, kind, namespace, name, grace=None):
        return self.call("DELETE", self.path(kind, namespace, name), {} if grace is None else {"gracePeriodSeconds": grace})

    def evict(self, namespace, pod):
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace}}
        return self.call("POST", self.path("pods", namespace, pod) + "/eviction", eviction)


def done(what, action, seconds=120):
    """Does it, again and again while the API server does not answer: whoever runs a cluster may retry; the clients may not."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except Answered as error:
            if error.status not in (0, 409, 429, 500, 502, 503, 504) or time.monotonic() > deadline:
                raise Failed(f"{what}: {error}") from error
            time.sleep(0.5)


def seen(look):
    """What `look` finds; nothing while the API server does not answer."""
    try:
        return look()
    except Answered:
        return None
