"""Live traffic: an ordinary client with the standard library's HTTP, in a process of its own. It never retries. A request has failed
when it did not get a 2xx with a right answer within 2 s. `traffic.py URL ROWS.json CONTROL.json STATS.json`. Where a thread of its own ends or
hangs, it exits with 1: what nobody sends, nobody counts.

ROWS.json: {mix: [{"row": [features], "right": {model: probability}}]}; both are read again when they change. CONTROL.json: {"mix": {name: share}, "rate": requests/s,
"stop": bool}. STATS.json is rewritten every half second.
"""

import collections
import http.client
import json
import os
import random
import sys
import threading
import time
import traceback
import urllib.parse

DEADLINE_SECONDS = 2.0
TOLERANCE = 2e-4
THREADS = 6


class Shared:
    def __init__(self, rows, control, stats):
        self.files = {"rows": rows, "control": control}
        self.stats_file = stats
        self.lock = threading.Lock()
        self.sent = 0
        self.failed = collections.Counter()
        self.by_revision = collections.Counter()
        self.latencies = collections.deque(maxlen=20000)
        self.examples = []
        self.broken = []
        self.times = {}
        self.reload()

    def reload(self):
        for name, path in self.files.items():
            changed = os.stat(path).st_mtime_ns
            if self.times.get(name) != changed:
                with open(path, encoding="utf-8") as file:
                    setattr(self, name, json.load(file))
                self.times[name] = changed

    def count(self, problem, revision, seconds):
        with self.lock:
            self.sent += 1
            self.by_revision[revision or "none"] += 1
            self.latencies.append(seconds)
            if problem:
                self.failed[problem.split(":")[0]] += 1
                if len(self.examples) < 20:
                    self.examples.append(f"{time.strftime('%H:%M:%S')} {revision}: {problem}")

    def write(self):
        with self.lock:
            ordered = sorted(self.latencies)
            quantile = lambda q: round(1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))], 1) if ordered else None
            stats = {"sent": self.sent, "failed": sum(self.failed.values()), "failures": dict(self.failed), "examples": self.examples,
                     "revisions": dict(self.by_revision), "p50_ms": quantile(0.5), "p99_ms": quantile(0.99)}
        partial = f"{self.stats_file}.partial"
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(stats, file)
        os.replace(partial, self.stats_file)


def is_right(answer, right):
    """Whether the probability of being late is that of one of the models on this row."""
    for output in answer["outputs"]:
        if output["datatype"] in ("FP32", "FP64") and len(output["data"]) == 2:
            return any(abs(output["data"][1] - expected) < TOLERANCE for expected in right)
    return False


def one(connection, path, row, right):
    """Sends one request; returns what is wrong (or nothing) and the revision that answered."""
    body = json.dumps({"inputs": [{"name": "X", "shape": [1, len(row)], "datatype": "FP32", "data": row}]})
    connection.request("POST", path, body, {"content-type": "application/json"})
    response = connection.getresponse()
    data = response.read()
    revision = response.getheader("x-millrace-revision")
    if response.status // 100 != 2:
        return f"status {response.status}: {data[:200]!r}", revision
    return (None if is_right(json.loads(data), right) else f"wrong answer: {data[:200]!r} for {right}"), revision


def worker(shared, url, number):
    parts = urllib.parse.urlsplit(url)
    chance, connection, uses = random.Random(number), None, 0
    following = time.monotonic() + number / 50
    while not shared.control.get("stop"):
        following = max(following + THREADS / shared.control["rate"] * chance.uniform(0.5, 1.5), time.monotonic() - 1)
        time.sleep(max(0.0, following - time.monotonic()))
        mix = shared.control["mix"]
        entry = chance.choice(shared.rows[chance.choices(list(mix), list(mix.values()))[0]])
        if connection is None or uses >= 200:
            # Connections are kept for a while and then opened anew: both kinds of client meet every event.
            if connection:
                connection.close()
            connection, uses = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=DEADLINE_SECONDS), 0
        uses += 1
        began, revision = time.monotonic(), None
        try:
            problem, revision = one(connection, parts.path, entry["row"], entry["right"].values())
            if not problem and time.monotonic() - began > DEADLINE_SECONDS:
                problem = "late: more than 2 s"
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            problem = f"{type(error).__name__}: {error}"
            connection.close()
            connection = None
        shared.count(problem, revision, time.monotonic() - began)


def guarded(shared, url, number):
    try:
        worker(shared, url, number)
    except Exception:  # whatever it is, the thread sends nothing any more
        shared.broken.append(traceback.format_exc())


def main(url, rows, control, stats):
    shared = Shared(rows, control, stats)
    threads = [threading.Thread(target=guarded, args=(shared, url, number), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    while not shared.control.get("stop") and not shared.broken:
        time.sleep(0.5)
        shared.reload()
        shared.write()
    for thread in [] if shared.broken else threads:
        thread.join(timeout=5)
        if thread.is_alive():
            shared.broken.append(f"{thread.name} does not end")
    shared.write()
    return shared.broken


if __name__ == "__main__":
    broken = main(*sys.argv[1:5])
    for problem in broken:
        print(f"the client of the demo broke: {problem}", file=sys.stderr)
    sys.exit(1 if broken else 0)
