"""One switch after a preview, a gate, a rollback while the former revision is warm, a rehearsal on copies of live requests, shadows over each wire
(copies.py), and a decision computed again: by kubectl millrace, under requests of which none may fail."""

import http.client
import subprocess
import time

from breach import FAR_ROW, fails_on_far_rows
from copies import Live, are_compared, fail_alone
from grpc_calls import interpreter
from kube import Failed, kubectl, say, wait
from served import BODY, CLI, NS, ROW, Requests, address_of, address_that_answers, approved, model_version, phase_of, status_of

NAME = "switched"
SHADOW = "{strategy: Shadow, shadow: {minCopies: 200, minAgreement: 0.5, maxLatencyRatio: 10}, switch: {holdSeconds: 1, approval: APPROVAL}}"


def service(rollout):
    return f"""
apiVersion: millrace.dev/v1alpha1
kind: InferenceService
metadata: {{name: {NAME}}}
spec:
  model: {{name: {NAME}}}
  server: {{resources: {{requests: {{cpu: 50m, memory: 64Mi}}}}}}
  rollout: {rollout}
"""


def version_of(role):
    return (status_of(NAME).get(role) or {}).get("modelVersion")


def millrace(*arguments, fails=False):
    done = subprocess.run([CLI, "-n", NS.name, *arguments], capture_output=True, text=True, timeout=180, check=False)
    text = (done.stdout + done.stderr).strip()
    if (done.returncode != 0) != fails:
        raise Failed(f"kubectl millrace {' '.join(arguments)} ended with {done.returncode}: {text}")
    say(f"  $ kubectl millrace {' '.join(arguments)}: {text.splitlines()[-1] if text else ''}")
    return text


def approve(version):
    """One that was made to wait for it, so that it could be evaluated while something else was looked at."""
    wait(f"{version} awaits approval", lambda: phase_of(version) == "AwaitingApproval", 180, lambda: phase_of(version))
    millrace("approve", version)


def answered_by(address, host):
    """Status and revision of one answer; where there is none, why."""
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("POST", f"/v2/models/{NAME}/infer", BODY, {"host": host})
        response = connection.getresponse()
        response.read()
        return response.status, response.getheader("x-millrace-revision")
    except (OSError, http.client.HTTPException) as error:
        return repr(error), None
    finally:
        connection.close()


def rehearse(second):
    """A version that nobody has approved answers copies, and nobody else."""
    millrace("rehearse", NAME, second, "--requests", "100")
    ended = wait("the rehearsal ends", lambda: (status_of(NAME).get("rehearsal") or {}).get("endTime") and status_of(NAME)["rehearsal"], 180,
                 lambda: (status_of(NAME).get("rehearsal") or {}).get("message"))
    say(f"  {ended['verdict']}: {ended['message']}")
    if ended["compared"] < 100 or {check["name"] for check in ended["checks"]} != {"agreement", "latencyRatio"}:
        raise Failed(f"the rehearsal compared {ended['compared']}: {ended['checks']}")


def switch(second, address):
    millrace("approve", second)
    wait("the switch waits for a person", lambda: "waits for a person" in status_of(NAME).get("nextStep", ""), 120, lambda: status_of(NAME).get("nextStep"))
    now = status_of(NAME)
    at_preview = lambda: answered_by(address_of(f"{NAME}-preview"), f"{NAME}-preview.{NS.name}.svc")
    # Its Service is a new one, and its address with it.
    wait("the preview answers at its address", lambda: isinstance(at_preview()[0], int), 30, lambda: str(at_preview()[0]))
    preview, plain = at_preview(), answered_by(address, NAME)
    if preview != (200, now["canary"]["revision"]) or plain != (200, now["stable"]["revision"]):
        raise Failed(f"the preview answered {preview}, the service {plain}: {now['canary']} {now['stable']}")
    millrace("pause", NAME)
    if "paused" not in millrace("promote", NAME, fails=True):
        raise Failed("promote of a paused rollout was not refused for that")
    millrace("resume", NAME)
    millrace("promote", NAME)
    wait(f"{second} bakes", lambda: version_of("stable") == second and status_of(NAME).get("previous"), 60, lambda: status_of(NAME).get("nextStep"))
    me = kubectl("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
    asked = {one["reason"]: one.get("user") for one in status_of(NAME)["history"] if one["decidedBy"] == "User"}
    if asked != dict.fromkeys(("Started", "Paused", "Resumed", "Promoted"), me):
        raise Failed(f"{me} asked for all of it; the history says {asked}")


def roll_back(first):
    pods = {pod["metadata"]["uid"] for pod in NS.list("pods", f"millrace.dev/inference-service={NAME}")}
    began = time.monotonic()
    millrace("rollback", NAME)
    wait(f"{first} serves again", lambda: version_of("stable") == first, 60, lambda: status_of(NAME).get("nextStep"))
    say(f"  {time.monotonic() - began:.1f} s from the command to the status")
    started = [pod for pod in NS.list("pods", f"millrace.dev/inference-service={NAME}") if pod["metadata"]["uid"] not in pods]
    if started:
        raise Failed(f"a rollback started pods: {[pod['metadata']['name'] for pod in started]}")


def shadow(bad, second, address):
    """Of two versions, each with copies of the live requests: one fails them, the other takes over, once a person has looked at what is said of it."""
    live = Live(address, NAME)
    millrace("approve", bad)
    NS.apply(service(SHADOW.replace("APPROVAL", "Manual")))
    millrace("resume", NAME)
    fail_alone(live, bad, FAR_ROW)
    are_compared(live, second, ROW)
    say(f"  {live.sent} live requests were answered meanwhile, the slowest within {live.slowest:.2f} s")
    requests = Requests(address, NAME)
    try:
        NS.apply(service(SHADOW.replace("APPROVAL", "Automatic")))
        wait(f"{second} is promoted on its copies", lambda: version_of("stable") == second and not status_of(NAME).get("canary"), 240, lambda: status_of(NAME).get("nextStep"))
    finally:
        requests.stop()
    decision = next(one for one in status_of(NAME)["history"] if one["reason"] == "Switched")
    if "the same verdict, and the same numbers" not in millrace("replay", NAME, str(decision["id"])):
        raise Failed("a decision computed again has another result")


def main():
    good, bad = approved(), NS.get("modelversion", fails_on_far_rows())
    first, second, third = (f"{NAME}-{number}" for number in (1, 2, 3))
    NS.apply(*(model_version(NAME, number, model["spec"]["artifact"], approval)
               for number, model, approval in ((1, good[0], "Automatic"), (2, good[1], "Manual"), (3, bad, "Manual"))),
             service("{strategy: BlueGreen, switch: {holdSeconds: 1, approval: Manual}, bakeSeconds: 600}"))
    interpreter()
    waiting = lambda: all(phase_of(version) == "AwaitingApproval" for version in (second, third))
    wait(f"{first} serves, {second} and {third} await approval", lambda: version_of("stable") == first and waiting(), 180, lambda: status_of(NAME).get("nextStep"))
    address = address_that_answers(NAME)
    requests = Requests(address, NAME)
    try:
        rehearse(second)
        switch(second, address)
        roll_back(first)
        requests.stop()
        shadow(third, second, address)
    finally:
        requests.stopped = True
        kubectl("delete", "inferenceservice", NAME, "--wait=false", namespace=NS.name)
        kubectl("delete", "modelversion", first, second, third, "--wait=false", namespace=NS.name)


if __name__ == "__main__":
    main()
