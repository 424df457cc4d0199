"""kubectl for the demo: apply, read, wait with a deadline and progress. Knows nothing of the demo's story."""

import json
import string
import subprocess
import sys
import time


class Failed(Exception):
    """An expectation of the demo did not come true; the message says which."""


def say(text):
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def kubectl(*arguments, stdin=None, check=True, namespace=None):
    command = ["kubectl", *(["-n", namespace] if namespace else []), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Namespace:
    """The objects of one namespace."""

    def __init__(self, name):
        self.name = name

    def apply(self, text, **values):
        kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=string.Template(text).substitute(values), namespace=self.name)

    def get(self, kind, name):
        text = kubectl("get", kind, name, "-o", "json", "--ignore-not-found", namespace=self.name)
        return json.loads(text) if text.strip() else None

    def list(self, kind, selector=""):
        text = kubectl("get", kind, "-l", selector, "-o", "json", namespace=self.name)
        return json.loads(text)["items"]

    def delete_pod(self, selector, force=False):
        """Kills one ready pod of a selector; returns its name."""
        pods = [pod for pod in self.list("pods", selector) if condition(pod, "Ready")[0] == "True"]
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


def wait(what, look, deadline, tell=None, every=0.5):
    """Calls `look` until it returns something true, and returns that. Prints what `tell` says when it changes; where only numbers
    change, every five seconds."""
    began, told, told_at = time.monotonic(), None, 0.0
    words = lambda text: "".join(letter for letter in text or "" if not letter.isdigit())
    while True:
        found = look()
        if found:
            say(f"  {what}: {time.monotonic() - began:.1f} s")
            return found
        now_telling = tell() if tell else None
        is_news = words(now_telling) != words(told) or time.monotonic() - told_at > 5
        if now_telling and now_telling != told and is_news:
            told, told_at = now_telling, time.monotonic()
            say(f"    {told}")
        if time.monotonic() - began > deadline:
            raise Failed(f"waited {deadline} s in vain for: {what}" + (f" (last: {told})" if told else ""))
        time.sleep(every)


def main_exit(failures):
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)
