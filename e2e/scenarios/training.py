"""Training on the real cluster: a killed pod goes on from its checkpoint, an eviction spends no restart, suspend stops and goes on, the
deadline ends a job. The trainer itself holds no credentials and no token."""

import os

from kube import Failed, Namespace, condition, kubectl, say, wait

NS = Namespace("bad-input")

# Counts to ten, a step every second, and writes each step as a checkpoint; then leaves a model that is not one, which is enough here.
TRAINER = """
import json, os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
kept = pathlib.Path('/millrace/checkpoint/step')
step = int(kept.read_text()) if kept.exists() else 0
print('starts at', step, flush=True)
assert not any(name.startswith(('STORE_', 'SOURCE_')) for name in os.environ), 'the trainer has credentials'
assert not os.path.exists('/var/run/secrets/kubernetes.io/serviceaccount/token'), 'the trainer has a token'
while step < STEPS:
    time.sleep(1)
    step += 1
    kept.write_text(str(step))
    with open('/millrace/output/metrics.jsonl', 'a') as file:
        file.write(json.dumps({'step': step, 'percent': 100 * step / STEPS, 'started_at': int(os.environ.get('STARTED', 0))}) + chr(10))
"""


def job(name, steps, extra=""):
    script = TRAINER.replace("STEPS", str(steps))
    lines = "\n".join("        " + line for line in script.strip().splitlines())
    return f"""
apiVersion: millrace.dev/v1alpha1
kind: TrainingJob
metadata: {{name: {name}}}
spec:
  model: counts
  dataset: {{name: good}}
  trainer:
    image: {os.environ["TRAINER_IMAGE"]}
    args:
      - -c
      - |
{lines}
  checkpoint: {{intervalSeconds: 1, keep: 2}}
  restarts: {{max: 2}}
  modelVersion: {{task: Classification}}
  {extra}
"""


def status(name):
    return (NS.get("trainingjob", name) or {}).get("status") or {}


def progress(name):
    return status(name).get("progress") or {}


def pod(name):
    pods = [pod for pod in NS.list("pods", f"millrace.dev/training-job={name}") if pod["status"]["phase"] == "Running"]
    return pods[0]["metadata"]["name"] if pods else None


def reaches(name, checkpoint, deadline=60):
    wait(f"{name} has checkpoint {checkpoint}", lambda: (progress(name).get("checkpoint") or 0) >= checkpoint and pod(name), deadline,
         lambda: f"{status(name).get('phase')} {progress(name)}")


def goes_on(name, deadline=90):
    wait(f"{name} goes on from a checkpoint", lambda: progress(name).get("restoredCheckpoint"), deadline,
         lambda: f"{status(name).get('phase')} {progress(name)}")


def killed():
    NS.apply(job("counts-killed", 600))
    reaches("counts-killed", 2)
    say(f"  deleting {pod('counts-killed')}: counts as a failure")
    kubectl("delete", "pod", pod("counts-killed"), "--wait=false", namespace=NS.name)
    goes_on("counts-killed")
    wait("one restart is counted", lambda: status("counts-killed").get("restarts") == 1, 30)
    name = wait("the new pod runs", lambda: pod("counts-killed"), 30)
    say(f"  evicting {name}: a disruption, counts as none")
    eviction = f'{{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {{"name": "{name}", "namespace": "{NS.name}"}}}}'
    kubectl("create", "--raw", f"/api/v1/namespaces/{NS.name}/pods/{name}/eviction", "-f", "-", stdin=eviction)
    wait("a third pod runs", lambda: pod("counts-killed") not in (None, name), 90)
    if status("counts-killed").get("restarts") != 1:
        raise Failed(f"the eviction was counted: {status('counts-killed')}")


def suspended():
    kubectl("patch", "trainingjob", "counts-killed", "--type=merge", "-p", '{"spec": {"suspend": true}}', namespace=NS.name)
    wait("counts-killed is Suspended and has no pod", lambda: status("counts-killed").get("phase") == "Suspended" and not pod("counts-killed"), 90)
    kubectl("patch", "trainingjob", "counts-killed", "--type=merge", "-p", '{"spec": {"suspend": false}}', namespace=NS.name)
    wait("counts-killed runs again", lambda: pod("counts-killed"), 90, lambda: status("counts-killed").get("phase"))
    refused = kubectl("patch", "trainingjob", "counts-killed", "--type=merge", "-p", '{"spec": {"model": "other"}}', namespace=NS.name, check=False)
    if refused:
        raise Failed("the spec of a started job could be changed")
    kubectl("patch", "trainingjob", "counts-killed", "--type=merge", "-p", '{"spec": {"activeDeadlineSeconds": 1}}', namespace=NS.name)
    wait("counts-killed fails by its deadline", lambda: condition(NS.get("trainingjob", "counts-killed"), "Ready")[1] == "DeadlineExceeded", 120,
         lambda: " ".join(condition(NS.get("trainingjob", "counts-killed"), "Ready")))


if __name__ == "__main__":
    killed()
    suspended()
