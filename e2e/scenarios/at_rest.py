"""With nothing to do the operator writes nothing: its writes, as the API server's audit log counts them, while it looks at a monitored service
twice. Leases of the leader election are no work and left out. Only where the audit log is at hand, on the local cluster."""

import collections
import json
import os
import pathlib
import time

from kube import Failed, condition, kubectl, say, wait

ACCOUNT = "system:serviceaccount:millrace-system:millrace-operator"
LOG = pathlib.Path("/var/lib/millrace-cluster") / os.environ.get("CLUSTER_NAME", "millrace") / "logs" / "audit.log"
# It looks at a service with monitoring every ten seconds, and at all others less often.
LOOK_SECONDS = 22
QUIET_SECONDS = 5


def writes(since):
    """Completed writes of the operator after this many bytes of the log, by what was written."""
    found = collections.Counter()
    if LOG.stat().st_size < since:
        raise Failed(f"{LOG} was begun anew while it was watched: what was written before is not known")
    with LOG.open("rb") as log:
        log.seek(since)
        for line in log:
            if not line.endswith(b"\n"):
                break
            event = json.loads(line)
            thing = event.get("objectRef") or {}
            if event["user"]["username"] == ACCOUNT and event["stage"] == "ResponseComplete" and thing.get("resource") != "leases":
                found[" ".join(filter(None, (event["verb"], thing.get("resource"), thing.get("subresource"), thing.get("namespace"), thing.get("name"))))] += 1
    return found


def busy():
    """Services anywhere that are not Ready, or roll something out."""
    services = json.loads(kubectl("get", "inferenceservices", "-A", "-o", "json"))["items"]
    if not services:
        raise Failed("there is no InferenceService: rest would show nothing")
    return [service["metadata"]["name"] for service in services
            if condition(service, "Ready")[0] != "True" or (service.get("status") or {}).get("canary")]


def written_within(seconds):
    """Nothing can be awaited here: what must not happen has to be given the time to."""
    since = LOG.stat().st_size
    time.sleep(seconds)
    return writes(since)


class Rest:
    """Whether what began before has ended: a while without a write."""

    def __init__(self):
        self.newest = {}

    def is_there(self):
        self.newest = written_within(QUIET_SECONDS)
        return not self.newest

    def tell(self):
        return f"written in the last {QUIET_SECONDS} s: {dict(self.newest)}" if self.newest else None


def main():
    if os.environ.get("CLUSTER", "local") == "current":
        say("  left out: the audit log of a cluster of yours is not at hand")
        return
    wait("every service is Ready and nothing is rolled out", lambda: not busy(), 120, lambda: f"busy: {', '.join(busy())}")
    total = sum(writes(0).values())
    if not total:
        raise Failed(f"{LOG} holds no write of {ACCOUNT}: the count would show nothing")
    rest = Rest()
    wait(f"no write for {QUIET_SECONDS} s", rest.is_there, 90, rest.tell)
    say(f"  {total} writes so far; watching for {LOOK_SECONDS} s")
    found = written_within(LOOK_SECONDS)
    for what, count in found.most_common():
        say(f"    {count} x {what}")
    if found:
        raise Failed(f"at rest the operator wrote {sum(found.values())} times in {LOOK_SECONDS} s, expected 0: {dict(found)}")
    say(f"  0 writes in {LOOK_SECONDS} s")


if __name__ == "__main__":
    main()
