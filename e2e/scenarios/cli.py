"""kubectl millrace on the real cluster: the chain, files checked without a cluster, and refusals that say why."""

import os
import subprocess
import tempfile

from kube import Failed, say
from served import CLI, NS

GOOD = """
apiVersion: millrace.dev/v1alpha1
kind: InferenceService
metadata: {name: fraud}
spec:
  model: {name: fraud}
"""


def millrace(*arguments, code, words, offline=False):
    """Runs it, and compares its exit code and what it says."""
    environment = {**os.environ, **({"KUBECONFIG": "/dev/null"} if offline else {})}
    done = subprocess.run([CLI, "-n", NS.name, *arguments], capture_output=True, text=True, timeout=120, check=False, env=environment)
    text, shown = done.stdout + done.stderr, " ".join(os.path.basename(argument) for argument in arguments)
    missing = [word for word in words if word not in text]
    if done.returncode != code or missing:
        raise Failed(f"kubectl millrace {shown} ended with {done.returncode}, expected {code}; it does not say {missing}: {text}")
    say(f"  $ kubectl millrace {shown}: ends with {code}: {(text.strip().splitlines() or [''])[-1]}")


def lint():
    """Without a cluster: the kubeconfig is empty."""
    unknown = GOOD + "  replicas: 2\n"
    both = GOOD.replace("model: {name: fraud}", "model: {name: fraud, modelVersion: fraud-1}")
    cases = [("good.yaml", GOOD, 0, ["1 objects checked", "0 problems"]), ("unknown.yaml", unknown, 1, ["InferenceService/fraud", "replicas"]),
             ("both.yaml", both, 1, ["InferenceService/fraud", "spec.model", "exactly one of name"])]
    with tempfile.TemporaryDirectory() as folder:
        for name, text, code, words in cases:
            path = os.path.join(folder, name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            millrace("lint", path, code=code, words=words, offline=True)
        millrace("lint", os.path.join(folder, "absent.yaml"), code=1, words=["absent.yaml"], offline=True)


def refusals(service, stable):
    """Each says why, and changes nothing."""
    millrace("approve", stable, code=1, words=[f"{stable} is already approved"])
    for verb in ("promote", "abort"):
        millrace(verb, "flights", code=1, words=["flights", "nothing is being rolled out", stable])
        millrace(verb, "nobody", code=1, words=["nobody"])
    now = NS.get("inferenceservice", "flights")
    former = [thing["metadata"].get("annotations", {}).get("millrace.dev/command") for thing in (service, now)]
    if former[0] != former[1] or now["status"]["stable"]["modelVersion"] != stable:
        raise Failed(f"a refused request was written all the same: {former[1]}, expected {former[0]}; stable is {now['status']['stable']}")


def main():
    service = NS.get("inferenceservice", "flights")
    stable = service["status"]["stable"]["modelVersion"]
    if service["status"].get("canary"):
        raise Failed(f"{service['status']['canary']['modelVersion']} is being rolled out: the refusals need a service at rest")
    millrace("--help", code=0, words=["status", "approve", "promote", "pause", "resume", "abort", "retry", "rollback", "rehearse", "replay", "lint"])
    millrace("no-such-verb", code=2, words=["no-such-verb"])
    millrace("status", "flights", code=0, words=["flights", stable, "ModelVersion", "TrainingJob", "Dataset"])
    millrace("status", "nobody", code=1, words=["nobody"])
    lint()
    refusals(service, stable)


if __name__ == "__main__":
    main()
