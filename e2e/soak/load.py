"""The clients of a run: starts one process a kind (client.py), tells them how fast to send, and collects what they count."""

import collections
import dataclasses
import json
import os
import pathlib
import subprocess
import threading
import time

from kube import Failed

HERE = pathlib.Path(__file__).resolve().parent
KINDS = {"kept": "REST keep-alive", "fresh": "REST fresh", "grpc": "gRPC unary"}
# In flight at once while the capacity is measured: REST on kept connections is most of what services get.
CLOSED = {"kept": 8, "fresh": 3, "grpc": 6}
START_SECONDS = 60
# A client writes its counts every quarter of a second.
MOST_SILENT_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Failure:
    """A request that failed. Times are seconds since 1970; `lag_ms` is how late its client was in sending at that time."""

    client: str
    problem: str
    sent: float
    ended: float
    revision: str | None
    lag_ms: int


class Client:
    """One process."""

    def __init__(self, python, kind, address, host, rows, failed):
        self.kind, self.failed, self.counts, self.latencies, self.worst_lag = kind, failed, {}, {}, 0
        self.heard = time.monotonic()
        command = [python, str(HERE / "client.py"), kind, address, host, rows]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENBLAS_", "GRPC_"))}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def order(self, **order):
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def read(self):
        for line in self.process.stdout:
            said = json.loads(line)
            self.heard = time.monotonic()
            if "failure" in said:
                self.failed(Failure(self.kind, said["failure"], said["sent"], said["ended"], said["revision"], said["lag_ms"]))
                continue
            self.counts, self.latencies = said["counts"], said.get("latencies", self.latencies)
            self.worst_lag = max(self.worst_lag, said["lag_ms"])

    def sent(self):
        return self.counts.get("sent", 0)

    def trouble(self):
        """Why it sends or tells nothing any more; nothing where it does."""
        if (code := self.process.poll()) is not None:
            return f"has ended with {code}"
        if not self.thread.is_alive():
            return "is not listened to any more"
        silent = time.monotonic() - self.heard
        return f"has said nothing for {silent:.0f} s" if silent > MOST_SILENT_SECONDS else None


class Load:
    """All clients. `told` is called with each failure."""

    def __init__(self, address, host, rows, told):
        python = subprocess.run([HERE.parent / "conformance" / "python"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        self.failures, self.told, self.lock = [], told, threading.Lock()
        self.clients = [Client(python, kind, address, host, rows, self.failed) for kind in KINDS]

    def failed(self, failure):
        with self.lock:
            self.failures.append(failure)
        self.told(failure)

    def check(self):
        """Fails where a client does not go on: what nobody sends can't fail."""
        for client in self.clients:
            if trouble := client.trouble():
                raise Failed(f"the client for {KINDS[client.kind]} {trouble}")

    def untold(self):
        """Failures that clients counted, and of which they told nothing as there were too many."""
        told = collections.Counter(failure.client for failure in self.failures)
        return sum(max(0, client.counts.get("failed", 0) - told[client.kind]) for client in self.clients)

    def capacity(self, seconds):
        """Requests a second of each kind, all at once, each as fast as answers come. The first part does not count: connections are made, code is warm after."""
        for client in self.clients:
            client.order(closed=CLOSED[client.kind])
        # What a client needs to start is no part of it; one that gets no answer at all is told of below.
        deadline = time.monotonic() + START_SECONDS
        while not all(client.sent() for client in self.clients) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(seconds / 3)
        began, before = time.monotonic(), [client.sent() for client in self.clients]
        time.sleep(seconds)
        took = time.monotonic() - began
        rates = {client.kind: (client.sent() - first) / took for client, first in zip(self.clients, before)}
        self.rates({})
        return rates

    def rates(self, rates):
        """Each kind sends at its rate from now on, whatever comes back."""
        for client in self.clients:
            client.order(rate=rates.get(client.kind, 0))

    def sent(self):
        return {client.kind: client.sent() for client in self.clients}

    def total(self):
        return sum(self.sent().values())

    def stop(self):
        for client in self.clients:
            if client.process.poll() is None:
                client.order(stop=True)
        for client in self.clients:
            try:
                client.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                client.process.kill()
            client.thread.join(timeout=5)
            if client.process.returncode:
                self.failed(Failure(client.kind, f"the client ended with {client.process.returncode}", time.time(), time.time(), None, 0))


def quantile(latencies, share):
    """Upper edge of the bin a share of the requests is below, in milliseconds."""
    ordered = sorted((float(edge), count) for edge, count in latencies.items())
    wanted = share * sum(count for _, count in ordered)
    for edge, count in ordered:
        wanted -= count
        if wanted <= 0:
            return edge
    return None
