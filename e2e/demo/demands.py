"""What the demo demands of its numbers: measured weights that chance explains, next to no user who met a bad model, and an operator that stays
small."""

from scipy.stats import binom

from kube import kubectl, say

# Megabytes of resident memory of an operator pod, at any time.
MOST_MEGABYTES = 40
CONFIDENCE = 0.999
# A measured weight of fewer requests shows nothing.
LEAST_REQUESTS = 50
# Of a hundred users, how many may meet a bad model: get an error, a wrong answer, or none within the client's 2 s.
MOST_MET = 0.5


class Weights:
    """The last measured weight of each step, with a number of requests that it certainly rests on."""

    def __init__(self):
        self.steps = {}

    def look(self, canary, sent):
        """Takes down a canary's weight; `sent` is how many requests the client has sent by now."""
        weight = canary.get("weight") or {}
        if weight.get("measured") is None or not weight.get("accepted"):
            return
        step = self.steps.setdefault((canary["modelVersion"], weight["intended"]), {"first": sent})
        # Only a number that is new tells of the requests since: while no operator leads, the old one stands. The routers have counted
        # since before the first look; half of it, as the count of a router that is killed is lost.
        if step.get("measured") != weight["measured"]:
            step.update(accepted=weight["accepted"], measured=weight["measured"], requests=(sent - step["first"]) // 2)

    def problems(self, versions):
        """Tells every step; returns those that chance does not explain, and versions of which no step was measured well."""
        problems = []
        for (version, intended), step in self.steps.items():
            low, high = bounds(intended, step["requests"])
            say(f"  weight of {version}: intended {intended} %, accepted {step['accepted']} %, measured {step['measured']:.1f} %; "
                f"{100 * CONFIDENCE} % interval {low:.1f} to {high:.1f} for at least {step['requests']} requests")
            if not low <= step["measured"] <= high:
                problems.append(f"the weight of {version} was {step['measured']} %, expected {intended} %, {low:.1f} to {high:.1f} by chance")
        measured = {version for (version, intended), step in self.steps.items() if intended < 100 and step["requests"] >= LEAST_REQUESTS}
        return problems + [f"no step of {version} was measured over {LEAST_REQUESTS} requests or more" for version in versions if version not in measured]


class Met:
    """Who met a bad model: what failed while one was tried, whoever answered."""

    def __init__(self):
        self.tried = []

    def look(self, what, revision, before, after):
        """Takes down a bad rollout by the client's counts before and after it."""
        answered = after["revisions"].get(revision, 0) - before["revisions"].get(revision, 0)
        self.tried.append((what, answered, after["failed"] - before["failed"], after["sent"] - before["sent"]))

    def problems(self, whole):
        """Tells every bad rollout, and the whole by the client's last counts; returns those in which too many met one."""
        problems = []
        for what, answered, failed, sent in self.tried:
            told = f"{what}: {failed} of {sent} requests failed while it was tried, {answered} were answered by it"
            problems += self.too_many(told, failed, sent)
        if self.tried:
            problems += self.too_many(f"in the whole demo {whole['failed']} of {whole['sent']} requests failed", whole["failed"], whole["sent"])
        return problems

    def too_many(self, told, failed, sent):
        share = 100 * failed / max(1, sent)
        say(f"  users who met a bad model: {share:.2f} %, expected less than {MOST_MET} % ({told})")
        return [f"{share:.2f} % of the users met a bad model ({told})"] if share >= MOST_MET or not sent else []


def bounds(intended, requests):
    """Between which percentages a right router measures; it rounds to a tenth."""
    if requests < 1:
        return 0.0, 100.0
    low, high = binom.interval(CONFIDENCE, requests, intended / 100)
    return 100 * low / requests - 0.05, 100 * high / requests + 0.05


def memory(pod):
    """Resident memory of a pod's process in MB: now, as its own metrics report it, and the most so far, as its kernel keeps it. None for what
    can't be read."""
    where = pod["metadata"]
    now = most = None
    for line in kubectl("get", "--raw", f"/api/v1/namespaces/{where['namespace']}/pods/{where['name']}:9090/proxy/metrics", check=False).splitlines():
        if line.startswith("process_resident_memory_bytes"):
            now = float(line.split()[-1]) / 1e6
    # The image's entry point is the process itself; the line counts in units of 1024 bytes.
    for line in kubectl("exec", where["name"], "--", "cat", "/proc/1/status", namespace=where["namespace"], check=False).splitlines():
        if line.startswith("VmHWM:"):
            most = float(line.split()[1]) * 1024 / 1e6
    return now, most


def problems_of_memory(pods):
    """Tells the memory of every operator pod; returns those that use, or have used, too much, or do not say."""
    problems = [] if pods else ["there is no operator pod to ask for its memory"]
    in_words = lambda megabytes: "not reported" if megabytes is None else f"{megabytes:.1f} MB"
    for pod in pods:
        now, most = memory(pod)
        told = f"memory of {pod['metadata']['name']}: {in_words(now)}, at its peak {in_words(most)}, expected at most {MOST_MEGABYTES} MB"
        say(f"  {told}")
        # The peak can't be read where nobody may run a command in the pod.
        if now is None or max(now, most or 0) > MOST_MEGABYTES:
            problems.append(told)
    return problems
