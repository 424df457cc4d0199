"""Fifty rollouts of a revision that is the same as the stable one (another CPU request of its pods, nothing else), ten services at a time: none may be
rolled back. By name only: it takes a while. SAME_SERVICES, SAME_ROLLOUTS (of each) and SAME_RATE (requests a second to each, at most) change it."""

import json
import os
import threading
import time

from kube import Failed, kubectl, say, wait
from served import NS, ROW, Requests, address_of, approved, body, status_of

SERVICES = int(os.environ.get("SAME_SERVICES", "10"))
ROLLOUTS = int(os.environ.get("SAME_ROLLOUTS", "5"))
RATE = float(os.environ.get("SAME_RATE", "40"))
ROWS = [ROW, [1.0, 300.0, 6.0, 1.0, 20.0, 40.0, 2.0, 1.0, 5.0],
        [0.0, 2400.0, 20.0, 6.0, 75.0, 80.0, 25.0, 0.0, 3.0], [1.0, 700.0, 17.0, 2.0, 60.0, 55.0, 15.0, 0.0, 8.0]]
BODIES = [body(row) for row in ROWS]


def service(name, version, rollout):
    return json.dumps({"apiVersion": "millrace.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": name}, "spec": {
        "model": {"modelVersion": version},
        "server": {"resources": {"requests": {"cpu": f"{10 + rollout}m", "memory": "48Mi"}}},
        "rollout": {"steps": [{"weight": 50, "holdSeconds": 5}], "analysis": {"minRequests": 200}}}})


class Trial(threading.Thread):
    """The rollouts of one service, one after another."""

    def __init__(self, name, version):
        super().__init__(daemon=True)
        self.service, self.version, self.problem, self.done, self.seconds = name, version, None, 0, []
        self.requests = None
        self.start()

    def run(self):
        try:
            self.roll(0, None)
            self.requests = Requests(address_of(self.service), self.service, bodies=BODIES, clients=1, pause=1 / RATE)
            for number in range(1, ROLLOUTS + 1):
                began = time.monotonic()
                self.roll(number, status_of(self.service)["stable"]["revision"])
                self.seconds.append(time.monotonic() - began)
                self.done += 1
        except Exception as error:  # told at the end, beside the others
            self.problem = f"{self.service}: {error}"
        finally:
            if self.requests:
                self.requests.stopped = True

    def roll(self, number, former):
        kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=service(self.service, self.version, number), namespace=NS.name)

        def is_promoted():
            status = status_of(self.service)
            if status.get("rejected"):
                raise Failed(f"rolled back: {status['rejected'][0]['reason']}: {status['rejected'][0]['message']}")
            stable = status.get("stable") or {}
            return stable.get("revision") not in (None, former) and stable.get("loaded") and not status.get("canary")
        wait(f"{self.service}: rollout {number}", is_promoted, 900, every=2)


def main():
    version = approved()[0]["metadata"]["name"]
    trials = [Trial(f"same-{number}", version) for number in range(SERVICES)]
    for trial in trials:
        trial.join()
    kubectl("delete", "inferenceservice", *(trial.service for trial in trials), "--wait=false", namespace=NS.name)
    seconds = sorted(second for trial in trials for second in trial.seconds)
    sent, failed = sum(trial.requests.sent for trial in trials if trial.requests), [one for trial in trials if trial.requests for one in trial.requests.failed]
    say(f"  {sum(trial.done for trial in trials)} of {SERVICES * ROLLOUTS} rollouts of the same model were promoted, {sent} requests, {len(failed)} failed")
    if seconds:
        say(f"  seconds from the edit to the promotion: least {seconds[0]:.0f}, median {seconds[len(seconds) // 2]:.0f}, most {seconds[-1]:.0f}")
    problems = [trial.problem for trial in trials if trial.problem]
    if problems or failed:
        raise Failed(f"{problems} {failed[:5]}")


if __name__ == "__main__":
    main()
