"""Load on one server and what it costs it: wrk for HTTP/1.1, h2load for gRPC, CPU time and memory of the server's processes from /proc."""

import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
# Before each message: whether it is compressed, and its length.
GRPC_PREFIX = 5


@dataclass
class Request:
    """One request, repeated: HTTP/1.1, or gRPC where `path` names its method."""

    path: str
    body: bytes
    headers: dict
    grpc: bool = False


@dataclass
class Figures:
    rate: float
    p50: float
    p99: float
    errors: int
    cpu: float = 0.0

    @property
    def cpu_per_thousand(self):
        """Milliseconds of the server's CPU for 1,000 requests."""
        return self.cpu


def tree(pid):
    """A process and all below it."""
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        found.append(one)
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                waiting += [int(child) for child in task.read_text().split()]
            except OSError:
                pass
    return found


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        except OSError:
            pass
    return total / TICK


def memory_mebibytes(pids):
    """Proportional set size: what is shared is counted once."""
    total = 0
    for pid in pids:
        try:
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
            total += int(found[1]) if found else 0
        except OSError:
            pass
    return total / 1024


def measure(request, port, pid, connections, seconds, cpu):
    pids = tree(pid)
    before = cpu_seconds(pids)
    figures = (h2load if request.grpc else wrk)(request, port, connections, seconds, cpu)
    spent = cpu_seconds(tree(pid)) - before
    figures.cpu = spent * 1e6 / max(1.0, figures.rate * seconds)
    return figures


def wrk(request, port, connections, seconds, cpu):
    with tempfile.TemporaryDirectory() as home:
        body, script = Path(home) / "body", Path(home) / "post.lua"
        body.write_bytes(request.body)
        headers = "".join(f"wrk.headers[{lua(k)}] = {lua(v)}\n" for k, v in request.headers.items())
        script.write_text(f'wrk.method = "POST"\nwrk.body = io.open({lua(str(body))}, "rb"):read("*a")\n{headers}')
        command = ["taskset", "-c", str(cpu), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency"]
        said = run(*command, "-s", str(script), f"http://127.0.0.1:{port}{request.path}")
    errors = sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", said))
    errors += sum(int(n) for found in re.findall(r"Socket errors: (.*)", said) for n in re.findall(r"\d+", found))
    return Figures(float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), milliseconds(said, "50%"), milliseconds(said, "99%"), errors)


def lua(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def milliseconds(said, quantile):
    found = re.search(rf"^\s+{quantile}\s+([\d.]+)(us|ms|s|m)$", said, re.M)
    return float(found[1]) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}[found[2]]


def h2load(request, port, connections, seconds, cpu):
    # At most 16 requests on a connection at once, as clients that share one do.
    clients = max(1, connections // 16)
    with tempfile.TemporaryDirectory() as home:
        body, log = Path(home) / "body", Path(home) / "log"
        body.write_bytes(request.body)
        headers = [part for k, v in request.headers.items() for part in ("-H", f"{k}: {v}")]
        command = ["taskset", "-c", str(cpu), "h2load", "-t1"]
        what = ["-d", str(body), *headers, f"http://127.0.0.1:{port}{request.path}"]
        size = data_bytes(run(*command, "-c1", "-n1", *what))
        if size <= GRPC_PREFIX:
            raise RuntimeError("h2load: the call was answered without a message")
        much = [f"-c{clients}", f"-m{connections // clients}", f"-D{seconds}", "--warm-up-time=1", f"--log-file={log}"]
        said = run(*command, *much, *what)
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    spent = sorted(int(row[2]) / 1000 for row in rows if len(row) >= 3)
    failed = int(re.search(r"(\d+) failed", said)[1]) + sum(row[1] != "200" for row in rows)
    failed += without_message(len(rows), data_bytes(said), size, under_way=connections)
    at = lambda share: spent[min(len(spent) - 1, int(len(spent) * share))] if spent else float("nan")  # noqa: E731
    return Figures(len(rows) / seconds, at(0.5), at(0.99), failed)


def data_bytes(said):
    """Bytes of DATA frames, as h2load counts them."""
    return int(re.search(r"\((\d+)\) data", said)[1])


def without_message(calls, data, size, under_way):
    """Calls that failed as gRPC says it: HTTP 200, `grpc-status` in the trailers, and no DATA before them. Every right answer has `size` bytes;
    of the calls under way at either end h2load may have counted one without the other."""
    missing = calls - data / size
    return round(missing) if missing > 2 * under_way else 0


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[3]}: {done.stderr or done.stdout}")
    return done.stdout
