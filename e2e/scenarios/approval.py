"""Manual approval is guarded: who approves must be who writes it, and needs the verb `approve`; a failed gate can't be overruled. An approval
is told in an Event and written to the audit log."""

import json

from kube import Failed, Namespace, condition, kubectl, say, wait

NS = Namespace("flights")
NUMBERS = {"manual": 901, "failing": 902}


def version(number, artifact, threshold):
    return f"""
apiVersion: millrace.dev/v1alpha1
kind: ModelVersion
metadata: {{name: approvals-{number}}}
spec:
  model: approvals
  version: {number}
  artifact: {{uri: "{artifact['uri']}", digest: "{artifact['digest']}"}}
  source: {{external: {{origin: a scenario}}}}
  approval: Manual
  evaluation: {{dataset: flights, task: Classification, gates: [{{metric: accuracy, threshold: {threshold}}}]}}
"""


def phase(number):
    return ((NS.get("modelversion", f"approvals-{number}") or {}).get("status") or {}).get("phase")


def approve(number, by, user):
    patch = f'{{"spec": {{"approved": {{"by": "{by}"}}}}}}'
    identity = ["--as", user] if user else []
    return kubectl("patch", "modelversion", f"approvals-{number}", "--type=merge", "-p", patch, *identity, namespace=NS.name, check=False)


def event(number, reason):
    """Whether an Event of this reason was told about the version as it is now: one of an earlier run had another uid."""
    uid = NS.get("modelversion", f"approvals-{number}")["metadata"]["uid"]
    return [told for told in NS.list("events") if told["reason"] == reason and told["involvedObject"].get("uid") == uid]


def audited(number):
    """Reasons of the decisions about the version in the audit log, of both replicas: only the one that leads decides."""
    uid = NS.get("modelversion", f"approvals-{number}")["metadata"]["uid"]
    lines = kubectl("logs", "-l", "app.kubernetes.io/component=operator", "--tail=-1", namespace="millrace-system").splitlines()
    records = [json.loads(line) for line in lines if '"target":"audit"' in line and uid in line]
    return [json.loads(record["decision"])["reason"] for record in records]


def main():
    artifact = NS.list("modelversions", "")[0]["spec"]["artifact"]
    NS.apply(version(NUMBERS["manual"], artifact, 0.5))
    NS.apply(version(NUMBERS["failing"], artifact, 0.999))
    wait("one awaits approval, the other is rejected", lambda: phase(901) == "AwaitingApproval" and phase(902) == "Rejected", 90,
         lambda: f"{phase(901)} {phase(902)}")
    kubectl("create", "rolebinding", "eve", "--clusterrole=edit", "--user=eve", namespace=NS.name, check=False)
    kubectl("create", "rolebinding", "ann", "--clusterrole=millrace-approver", "--user=ann", namespace=NS.name, check=False)
    for by, user, what in [("ann", "eve", "in another's name"), ("eve", "eve", "without the verb")]:
        if approve(901, by, user):
            raise Failed(f"an approval {what} was accepted")
        say(f"  refused: an approval {what}")
    if not approve(901, "ann", "ann"):
        raise Failed("ann, who may approve, was refused")
    wait("ann's approval counts", lambda: phase(901) == "Approved", 60, lambda: " ".join(condition(NS.get("modelversion", "approvals-901"), "Ready")))
    wait("it is told in an Event", lambda: event(901, "ApprovalDecided"), 30)
    wait("it is in the audit log once", lambda: audited(901).count("ApprovedByUser") == 1, 30, lambda: f"decisions in the log: {audited(901)}")
    approve(902, "ann", "ann")
    wait("a failed gate stays a rejection", lambda: phase(902) == "Rejected", 10)
    kubectl("delete", "modelversion", "approvals-901", "approvals-902", "--wait=false", namespace=NS.name)


if __name__ == "__main__":
    main()
