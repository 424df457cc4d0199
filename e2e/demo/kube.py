"""kubectl for the demo: apply, read, wait with a deadline and progress. Knows nothing of the demo's story."""

import atexit
import concurrent.futures
import functools
import http.client
import json
import string
import subprocess
import sys
import threading
import time
import urllib.parse

DEADLINE_SECONDS = 10
# Where the API server has what is read.
GROUPS = {
    **dict.fromkeys(("events", "pods", "secrets"), "/api/v1"), "jobs": "/apis/batch/v1", "leases": "/apis/coordination.k8s.io/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1", "httproutes": "/apis/gateway.networking.k8s.io/v1",
    **dict.fromkeys(("datasets", "trainingjobs", "modelversions", "inferenceservices"), "/apis/millrace.dev/v1alpha1"),
}


class Failed(Exception):
    """An expectation of the demo did not come true; the message says which."""


class Unanswered(Failed):
    """The API server did not answer a read, or not for a reason of the read's own: whoever waits for something asks again."""


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def kubectl(*arguments, stdin=None, check=True, namespace=None):
    command = ["kubectl", *(["-n", namespace] if namespace else []), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Proxy:
    """The API server over one `kubectl proxy`: a kubectl for each look would take a good part of a machine that is under load, and its answer
    comes a tenth of a second later."""

    def __init__(self):
        self.process = subprocess.Popen(["kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, text=True)
        said = self.process.stdout.readline()
        if ":" not in said:
            raise Failed(f"kubectl proxy ended with {self.process.wait()} before it told its port")
        self.port = int(said.rsplit(":", 1)[1])
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=10)

    def answer(self, method, path, body=None, headers=None):
        """Status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_SECONDS)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@functools.cache
def reads():
    """The proxy of this process, which ends with it."""
    proxy = Proxy()
    atexit.register(proxy.stop)
    return proxy


def read(path):
    """What is there; nothing where there is nothing."""
    try:
        status, text = reads().answer("GET", path)
    except (OSError, http.client.HTTPException) as error:
        raise Unanswered(f"GET {path}: {error!r}") from error
    if status == 404:
        return None
    if status != 200:
        kind = Unanswered if status == 429 or status >= 500 else Failed
        raise kind(f"GET {path}: {status} {text[:500].decode(errors='replace')}")
    return json.loads(text)


class Namespace:
    """The objects of one namespace. Kinds are named as kubectl names them, one or many."""

    def __init__(self, name):
        self.name = name

    def path(self, kind):
        many = {"networkpolicy": "networkpolicies"}.get(kind, kind if kind.endswith("s") else f"{kind}s")
        return f"{GROUPS[many]}/namespaces/{self.name}/{many}"

    def apply(self, *texts, **values):
        """All of them by one kubectl, in this order; of several none may be JSON."""
        documents = "\n---\n".join(string.Template(text).substitute(values) for text in texts)
        kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=documents, namespace=self.name)

    def get(self, kind, name):
        return read(f"{self.path(kind)}/{name}")

    def list(self, kind, selector=""):
        listed = read(f"{self.path(kind)}?{urllib.parse.urlencode({'labelSelector': selector})}")
        if listed is None:
            raise Failed(f"the API server has no {kind}")
        return listed["items"]

    def delete_pod(self, selector, force=False):
        """Kills one ready pod of a selector; returns its name."""
        pods = [pod for pod in self.list("pods", selector) if condition(pod, "Ready")[0] == "True" and "deletionTimestamp" not in pod["metadata"]]
        if not pods:
            raise Failed(f"no ready pod for {selector}")
        name = pods[0]["metadata"]["name"]
        how = ["--grace-period=0", "--force"] if force else ["--wait=false"]
        kubectl("delete", "pod", name, *how, namespace=self.name)
        return name


def condition(thing, kind):
    """Status, reason and message of a condition; empty texts where it is absent."""
    for entry in ((thing or {}).get("status") or {}).get("conditions") or []:
        if entry["type"] == kind:
            return entry["status"], entry.get("reason", ""), entry.get("message", "")
    return "", "", ""


def attempt(look):
    """What it finds, and why it found nothing where the API server did not answer."""
    try:
        return look(), None
    except Unanswered as error:
        return None, str(error)


def wait(what, look, deadline, tell=None, every=0.2):
    """Calls `look` until it returns something true, and returns that. Prints what `tell` says when it changes; where only numbers
    change, every five seconds."""
    began, told, told_at = time.monotonic(), None, 0.0
    words = lambda text: "".join(letter for letter in text or "" if not letter.isdigit())
    while True:
        found, unanswered = attempt(look)
        if found:
            say(f"  {what}: {time.monotonic() - began:.1f} s")
            return found
        now_telling = unanswered
        if tell and not unanswered:
            now_telling, unanswered = attempt(tell)
            now_telling = now_telling or unanswered
        is_news = words(now_telling) != words(told) or time.monotonic() - told_at > 5
        if now_telling and now_telling != told and is_news:
            told, told_at = now_telling, time.monotonic()
            say(f"    {told}")
        if time.monotonic() - began > deadline:
            raise Failed(f"waited {deadline} s in vain for: {what}" + (f" (last: {told})" if told else ""))
        time.sleep(every)


def at_once(*stories):
    """Lets several things happen at the same time, none of which knows of another; fails as the first of them does, once all have ended."""
    with concurrent.futures.ThreadPoolExecutor(len(stories)) as pool:
        told = [pool.submit(story) for story in stories]
    for one in told:
        one.result()


def main_exit(failures):
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)
