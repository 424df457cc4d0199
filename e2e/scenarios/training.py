"""Training on the real cluster: a killed pod goes on from its checkpoint, an eviction spends no restart, suspend stops and goes on, the
deadline ends a job, and so do failures beyond restarts.max. A job waits for GPUs that no node has, and is placed where they are. The trainer
itself holds no credentials and no token."""

import os
import pathlib
import subprocess

from kube import Failed, Namespace, at_once, condition, kubectl, read, say, wait

NS = Namespace("bad-input")
GPU_NODES = pathlib.Path(__file__).resolve().parents[1] / "cluster" / "gpu-nodes"
IS_LOCAL = os.environ.get("CLUSTER", "local") != "current"
GPU = "nvidia.com/gpu"
# More than the demo gives the real node, fewer than a simulated one has.
GPUS = 4

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


def job(name, script, restarts=2, trainer=""):
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
    {trainer}
    args:
      - -c
      - |
{lines}
  checkpoint: {{intervalSeconds: 1, keep: 2}}
  restarts: {{max: {restarts}}}
  modelVersion: {{task: Classification}}
"""


def status(name):
    return (NS.get("trainingjob", name) or {}).get("status") or {}


def progress(name):
    return status(name).get("progress") or {}


def pod(name):
    pods = [pod for pod in NS.list("pods", f"millrace.dev/training-job={name}") if pod["status"]["phase"] == "Running"]
    return pods[0]["metadata"]["name"] if pods else None


def reaches(name, checkpoint, deadline=120):
    wait(f"{name} has checkpoint {checkpoint}", lambda: (progress(name).get("checkpoint") or 0) >= checkpoint and pod(name), deadline,
         lambda: f"{status(name).get('phase')} {progress(name)}")


def goes_on(name, deadline=150):
    wait(f"{name} goes on from a checkpoint", lambda: progress(name).get("restoredCheckpoint"), deadline,
         lambda: f"{status(name).get('phase')} {progress(name)}")


def ready(name):
    return condition(NS.get("trainingjob", name), "Ready")


def killed():
    NS.apply(job("counts-killed", TRAINER.replace("STEPS", "600")))
    reaches("counts-killed", 2)
    say(f"  deleting {pod('counts-killed')}: counts as a failure")
    kubectl("delete", "pod", pod("counts-killed"), "--wait=false", namespace=NS.name)
    goes_on("counts-killed")
    wait("one restart is counted", lambda: status("counts-killed").get("restarts") == 1, 60)
    name = wait("the new pod runs", lambda: pod("counts-killed"), 60)
    say(f"  evicting {name}: a disruption, counts as none")
    eviction = f'{{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {{"name": "{name}", "namespace": "{NS.name}"}}}}'
    kubectl("create", "--raw", f"/api/v1/namespaces/{NS.name}/pods/{name}/eviction", "-f", "-", stdin=eviction)
    wait("a third pod runs", lambda: pod("counts-killed") not in (None, name), 150)
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
    wait("counts-killed fails by its deadline", lambda: ready("counts-killed")[1] == "DeadlineExceeded", 120,
         lambda: " ".join(ready("counts-killed")))


def exhausted():
    """One restart is allowed, and the trainer fails twice: no third pod, and the condition says how it ended."""
    ends = wait("a job that fails twice has spent its one restart",
                lambda: (end := ready("fails-twice"))[:2] == ("False", "BackoffLimitExceeded") and end, 180, lambda: " ".join(ready("fails-twice")))
    say(f"    {': '.join(ends[1:])}")
    missing = [word for word in ("failed 2 times", "restarts.max is 1", "exit code 7", "make a new TrainingJob") if word not in ends[2]]
    pods = [pod["status"]["phase"] for pod in NS.list("pods", "millrace.dev/training-job=fails-twice")]
    told = {key: status("fails-twice").get(key) for key in ("phase", "restarts")}
    if missing or pods != ["Failed", "Failed"] or told != {"phase": "Failed", "restarts": 2}:
        raise Failed(f"the condition does not say {missing}; two pods were to fail, there are {pods}; the status has {told}")


def gpus_of_nodes():
    return {node["metadata"]["name"]: int(node["status"]["allocatable"].get(GPU, "0")) for node in read("/api/v1/nodes")["items"]}


def gpu_pods():
    return NS.list("pods", "millrace.dev/training-job=needs-gpus")


def placed():
    """GPUs that no node has are named; once a node has them, the scheduler alone puts the pod there. Such a node is simulated: no container starts."""
    wait("a job says which GPUs it lacks", lambda: (end := ready("needs-gpus"))[1] == "Unschedulable" and f"needs {GPUS} {GPU}" in end[2], 120,
         lambda: " ".join(ready("needs-gpus")))
    say(f"    {ready('needs-gpus')[2]}")
    lacking = gpus_of_nodes()
    if any(gpus >= GPUS for gpus in lacking.values()):
        raise Failed(f"a node has the GPUs that were to be missing: {lacking}")
    try:
        subprocess.run([GPU_NODES, "1"], check=True, stdout=subprocess.DEVNULL, timeout=120)
        pod = wait("its pod has a node", lambda: next((pod for pod in gpu_pods() if pod["spec"].get("nodeName")), None), 60,
                   lambda: " ".join(ready("needs-gpus")))
        node, gpus = pod["spec"]["nodeName"], gpus_of_nodes()
        say(f"    it is bound to {node}; GPUs of the nodes: {gpus}")
        if pod["spec"].get("nodeSelector") or gpus[node] < GPUS or node in lacking:
            raise Failed(f"the pod is on {node}, nodes have {gpus}, its nodeSelector is {pod['spec'].get('nodeSelector')}")
        kubectl("delete", "trainingjob", "needs-gpus", namespace=NS.name)
        wait("its pod is gone", lambda: not gpu_pods(), 60)
    finally:
        subprocess.run([GPU_NODES, "0"], check=False, stdout=subprocess.DEVNULL, timeout=120)


def counts():
    killed()
    suspended()
    exhausted()


def main():
    # These two take their time while the others are looked at.
    needs_gpus = [job("needs-gpus", "pass", trainer=f"gpu: {{count: {GPUS}}}")] if IS_LOCAL else []
    NS.apply(job("fails-twice", "raise SystemExit(7)", restarts=1), *needs_gpus)
    at_once(counts, *([placed] if IS_LOCAL else []))


if __name__ == "__main__":
    main()
