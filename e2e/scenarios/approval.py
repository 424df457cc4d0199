"""Manual approval is guarded: who approves must be who writes it, and needs the verb `approve`, as does who would leave it to the gates after
all; a failed gate can't be overruled. An approval is told in an Event and written to the audit log. A request to a service is guarded alike:
it may name who makes it and nobody else, and the decision keeps that name."""

import json
import time

from kube import Failed, condition, kubectl, say, wait
from served import NS, approved, model_version, phase_of, status_of

NAME = "approvals"
NUMBERS = {"manual": 901, "failing": 902}


SERVICE = f"""
apiVersion: millrace.dev/v1alpha1
kind: InferenceService
metadata: {{name: {NAME}}}
spec:
  model: {{name: {NAME}}}
  server: {{resources: {{requests: {{cpu: 20m, memory: 64Mi}}}}}}
"""


def edit(number, user, check=False, **spec):
    patch = json.dumps({"spec": spec})
    return kubectl("patch", "modelversion", f"approvals-{number}", "--type=merge", "-p", patch, "--as", user, namespace=NS.name, check=check)


def approve(number, by, user):
    return edit(number, user, approved={"by": by})


def phase_seen(number):
    """Its phase, where the operator has seen the newest spec."""
    version = NS.get("modelversion", f"approvals-{number}")
    status = version.get("status") or {}
    return status.get("phase") if status.get("observedGeneration") == version["metadata"]["generation"] else None


def leave_it_to_the_gates():
    """Only who may approve makes a version that awaits a person one that awaits none."""
    try:
        edit(901, "eve", check=True, approval="Automatic")
    except Failed as refusal:
        if not ("leaves the approval to the gates" in str(refusal) and "millrace-approver" in str(refusal)):
            raise
    else:
        raise Failed("who may only edit made a manual approval an automatic one")
    say("  refused: approval: Automatic instead of Manual without the verb")
    edit(902, "ann", check=True, approval="Automatic")


def event(kind, name, reason):
    """The Events of this reason about the object as it is now: one of an earlier run had another uid."""
    uid = NS.get(kind, name)["metadata"]["uid"]
    return [told for told in NS.list("events") if told["reason"] == reason and told["involvedObject"].get("uid") == uid]


def audited(number):
    """Reasons of the decisions about the version in the audit log, of both replicas: only the one that leads decides."""
    uid = NS.get("modelversion", f"approvals-{number}")["metadata"]["uid"]
    lines = kubectl("logs", "-l", "app.kubernetes.io/component=operator", "--tail=-1", namespace="millrace-system").splitlines()
    records = [json.loads(line) for line in lines if '"target":"audit"' in line and uid in line]
    return [json.loads(record["decision"])["reason"] for record in records]


def ask(user, by, **asked):
    """A request as `kubectl millrace` writes it, by this user and in this name; without one, what is left of an earlier request stays."""
    nonce = f"scenario-{time.time_ns()}"
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))
    annotations = {"millrace.dev/command": json.dumps({**asked, "nonce": nonce, "expires": expires})}
    if by:
        annotations["millrace.dev/command-by"] = f"{nonce} {by}"
    patch = json.dumps({"metadata": {"annotations": annotations}})
    return kubectl("patch", "inferenceservice", NAME, "--type=merge", "-p", patch, "--as", user, namespace=NS.name, check=False)


def decided(reason):
    """The newest decision of this reason."""
    return next((one for one in status_of(NAME).get("history", []) if one["reason"] == reason), None)


def requests():
    """One version serves, the other, which nobody approved, is rehearsed."""
    kubectl("create", "rolebinding", "ann-edits", "--clusterrole=edit", "--user=ann", namespace=NS.name, check=False)
    wait("the approved version serves", lambda: (status_of(NAME).get("stable") or {}).get("loaded"), 120, lambda: status_of(NAME).get("nextStep"))
    rehearse = {"verb": "rehearse", "modelVersion": "approvals-902", "requests": 10}
    if ask("eve", "ann", **rehearse):
        raise Failed("a request in another's name was accepted")
    say("  refused: a request in another's name")
    if not ask("ann", "ann", **rehearse):
        raise Failed("ann's own request was refused")
    started = wait("the history names her", lambda: decided("Started"), 60, lambda: status_of(NAME).get("nextStep"))
    if (started["decidedBy"], started.get("user")) != ("User", "ann"):
        raise Failed(f"ann's decision is kept as {started}")
    told = wait("so does the Event", lambda: event("inferenceservice", NAME, "RehearsalStarted"), 30)
    if not told[0]["message"].endswith("(asked by ann)"):
        raise Failed(f"the Event says: {told[0]['message']}")
    if not ask("eve", None, verb="abort", revision=status_of(NAME)["rehearsal"]["revision"]["revision"]):
        raise Failed("a request without a name was refused")
    ended = wait("a request without a name is acted on", lambda: decided("Rehearsed"), 60, lambda: status_of(NAME).get("nextStep"))
    if ended["decidedBy"] != "User" or "user" in ended:
        raise Failed(f"what nobody signed is kept as {ended}")


def main():
    artifacts = list({one["spec"]["artifact"]["digest"]: one["spec"]["artifact"] for one in approved()}.values())
    NS.apply(model_version(NAME, NUMBERS["manual"], artifacts[0], "Manual"))
    NS.apply(model_version(NAME, NUMBERS["failing"], artifacts[1], "Manual", 0.999))
    phases = lambda: (phase_of("approvals-901"), phase_of("approvals-902"))
    wait("one awaits approval, the other is rejected", lambda: phases() == ("AwaitingApproval", "Rejected"), 180, lambda: " ".join(map(str, phases())))
    kubectl("create", "rolebinding", "eve", "--clusterrole=edit", "--user=eve", namespace=NS.name, check=False)
    kubectl("create", "rolebinding", "ann", "--clusterrole=millrace-approver", "--user=ann", namespace=NS.name, check=False)
    for by, user, what in [("ann", "eve", "in another's name"), ("eve", "eve", "without the verb")]:
        if approve(901, by, user):
            raise Failed(f"an approval {what} was accepted")
        say(f"  refused: an approval {what}")
    leave_it_to_the_gates()
    # It starts while the approval is looked at.
    kubectl("delete", "inferenceservice", NAME, "--ignore-not-found", namespace=NS.name)
    NS.apply(SERVICE)
    if not approve(901, "ann", "ann"):
        raise Failed("ann, who may approve, was refused")
    wait("ann's approval counts", lambda: phase_of("approvals-901") == "Approved", 60, lambda: " ".join(condition(NS.get("modelversion", "approvals-901"), "Ready")))
    wait("it is told in an Event", lambda: event("modelversion", "approvals-901", "ApprovalDecided"), 30)
    wait("it is in the audit log once", lambda: audited(901).count("ApprovedByUser") == 1, 30, lambda: f"decisions in the log: {audited(901)}")
    approve(902, "ann", "ann")
    # What is told of the version before it was approved says nothing.
    after = wait("the approval of a failed one was seen", lambda: phase_seen(902), 60)
    if after != "Rejected":
        raise Failed(f"an approval overruled a failed gate: {after}")
    requests()
    kubectl("delete", "inferenceservice", NAME, "--wait=false", namespace=NS.name)
    kubectl("delete", "modelversion", "approvals-901", "approvals-902", "--wait=false", namespace=NS.name)


if __name__ == "__main__":
    main()
