"""From the first request that makes the evidence suffice to the last answer by a bad revision: found by the routers' access log alone, with the
formula of the test written a second time here. The way back is one routing write and starts no pod, and next to nobody meets the bad model."""

import json
import math
import subprocess

from scipy.special import betaln
from scipy.stats import beta

from kube import Failed, kubectl, read, say, wait
from served import BODY, NS, ROW, Requests, address_that_answers, approved, body, status_of
from upgrade import INSTALL, TENANTS

NAME, WEIGHT = "breach", 0.2
MOST_SECONDS, MOST_MET = 10.0, 0.005
# decision 5: alpha of the rollout over three checks, nine tenths of the error check's for errors.
ALPHA = 0.005 / 3 * 0.9
FAR_ROW = [ROW[0], 4500.0, *ROW[2:]]
FAR = body(FAR_ROW)


def install(per_ten_thousand):
    subprocess.run([INSTALL, TENANTS, "--set", f"router.accessLogPerTenThousand={per_ten_thousand}"], check=True, stdout=subprocess.DEVNULL, timeout=300)
    # The Deployment as it was has been rolled out for long: what the new operator makes of it is waited for.
    wait(f"routers are to write {per_ten_thousand} of ten thousand", lambda: logged() == per_ten_thousand, 120)
    kubectl("rollout", "status", "deployment/millrace-router", "--timeout=110s", namespace=NS.name)


def logged():
    """How many of ten thousand requests the routers are told to write down."""
    deployment = read(f"/apis/apps/v1/namespaces/{NS.name}/deployments/millrace-router")
    arguments = deployment["spec"]["template"]["spec"]["containers"][0].get("args", [])
    return next((int(one.partition("=")[2]) for one in arguments if one.startswith("--access-log-per-ten-thousand=")), 0)


def service(version):
    return json.dumps({"apiVersion": "millrace.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": NAME}, "spec": {
        "model": {"modelVersion": version}, "server": {"resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}},
        "rollout": {"steps": [{"weight": round(100 * WEIGHT), "holdSeconds": 600}]}}})


def serve(version):
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=service(version), namespace=NS.name)


def routers():
    return [pod["metadata"]["name"] for pod in NS.list("pods", "millrace.dev/component=router")]


def stable_pods(revision):
    return {pod["metadata"]["uid"] for pod in NS.list("pods", f"millrace.dev/revision={revision}")}


def lines():
    """What the routers wrote about this service, by time."""
    found = []
    for router in routers():
        for line in kubectl("logs", router, namespace=NS.name).splitlines():
            entry = json.loads(line)
            if entry.get("service") == NAME and "microseconds" in entry:
                found.append(entry)
    return sorted(found, key=lambda entry: entry["time"])


def log_evidence(canary, stable):
    """Errors of the canary and of the stable revision: ln of the likelihood ratio averaged over Beta(2 w, 2 (1 - w)) cut to shares above w."""
    a, b = 2 * WEIGHT, 2 * (1 - WEIGHT)
    ratio = betaln(a + canary, b + stable) - betaln(a, b) - canary * math.log(WEIGHT) - stable * math.log(1 - WEIGHT)
    return ratio + beta.logsf(WEIGHT, a + canary, b + stable) - beta.logsf(WEIGHT, a, b)


def suffices_at(entries, bad):
    """When the evidence sufficed, in milliseconds, and after how many requests and errors."""
    errors = [0, 0]
    for number, entry in enumerate(entries, 1):
        is_bad = bad in (entry.get("revision"), entry.get("shielded"))
        if entry.get("shielded") == bad or entry["status"] >= 500:
            errors[0 if is_bad else 1] += 1
        if log_evidence(*errors) >= -math.log(ALPHA):
            return entry["time"], number, errors
    raise Failed(f"by the access log the evidence never sufficed: {errors} errors in {len(entries)} requests")


def judge(entries, bad):
    first, number, errors = suffices_at(entries, bad)
    last = max((entry["time"] for entry in entries if bad in (entry.get("revision"), entry.get("shielded"))), default=first)
    seconds = (last - first) / 1000
    met = sum(entry["status"] >= 500 and entry.get("revision") == bad for entry in entries)
    say(f"  the evidence sufficed after {number} requests ({errors[0]} errors of the new revision, {errors[1]} of the stable one); its last answer came {seconds:.1f} s later")
    say(f"  {met} of {len(entries)} requests were answered with its errors ({100 * met / len(entries):.2f} %); the others were answered by the stable revision")
    if seconds >= MOST_SECONDS:
        raise Failed(f"{seconds:.1f} s from sufficient evidence to its last answer, not under {MOST_SECONDS:.0f}")
    if met >= MOST_MET * len(entries):
        raise Failed(f"{met} of {len(entries)} users met the bad model")


def roll_out(good, bad):
    serve(good)
    wait(f"{good} serves", lambda: (status_of(NAME).get("stable") or {}).get("modelVersion") == good and status_of(NAME)["stable"].get("ready"), 120)
    requests = Requests(address_that_answers(NAME), NAME, bodies=[BODY] * 4 + [FAR], clients=4, pause=0.01)
    serve(bad)
    begun = wait("the bad one gets its share", lambda: (status_of(NAME).get("canary") or {}).get("weight", {}).get("accepted") == round(100 * WEIGHT) and status_of(NAME), 120)
    pods = stable_pods(begun["stable"]["revision"])
    ended = wait("it is rolled back", lambda: status_of(NAME).get("rejected") and status_of(NAME), 120)
    wait("every router follows", lambda: ((status_of(NAME).get("stable") or {}).get("weight") or {}).get("accepted") == 100, 60)
    requests.stop()
    writes = ended["planGeneration"] - begun["planGeneration"]
    if writes != 1 or stable_pods(begun["stable"]["revision"]) != pods:
        raise Failed(f"the way back took {writes} routing writes, and the stable pods are {'the same' if stable_pods(begun['stable']['revision']) == pods else 'others'}")
    say(f"  {ended['rejected'][0]['reason']}: {ended['rejected'][0]['message']}")
    return begun["canary"]["revision"]


def fails_on_far_rows():
    """The demo's model of that kind."""
    named = [version for version in approved() if "fails-on-some-inputs" in version["spec"]["source"].get("external", {}).get("origin", "")]
    if not named:
        raise Failed("the demo's bad models are not there: run the demo first")
    return named[0]["metadata"]["name"]


def main():
    install(10_000)
    try:
        judge_after = roll_out(approved()[0]["metadata"]["name"], fails_on_far_rows())
        judge(lines(), judge_after)
    finally:
        kubectl("delete", "inferenceservice", NAME, "--wait=false", "--ignore-not-found", namespace=NS.name)
        install(0)


if __name__ == "__main__":
    main()
