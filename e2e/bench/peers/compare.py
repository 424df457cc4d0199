"""Our server beside its peers: the same model, the server on one core and the client on another, one after the other.

    compare.py [--seconds N] [--only NAME ...] [--json FILE]

Each answer is checked before and after its load. The best of several numbers of connections counts for the rate; one at a time is a
row of its own.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "conformance"), str(HERE)]

import numpy as np  # noqa: E402
import onnxruntime as ort  # noqa: E402
from load import Request, measure, memory_mebibytes, tree  # noqa: E402
from mlp import main_model  # noqa: E402
from oip import grpc as oip_grpc  # noqa: E402
from oip import rest as oip_rest  # noqa: E402
from oip.tensors import Given  # noqa: E402
from server import CACHE, Ours, free_port, runtime_library  # noqa: E402

SERVER_CPU, CLIENT_CPU = 0, 1
CONNECTIONS = (16, 64, 256)
START_SECONDS = 240
METHOD = "/inference.GRPCInferenceService/ModelInfer"


class Peer:
    """A server of `mlp` from PyPI or crates: how it is started and what it is asked."""

    def __init__(self, name, command, wires, ready="/v2/health/ready"):
        self.name, self.command, self.wires, self.ready = name, command, wires, ready

    def __enter__(self):
        self.ports = {"http": free_port(), "grpc": free_port()}
        self.home = tempfile.TemporaryDirectory(prefix="peer-")
        self.log = open(Path(self.home.name) / "log", "wb")
        command, env = self.command(self.ports)
        quiet = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "1", "BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0",
                 "RAY_raylet_start_wait_time_s": "180"}
        self.process = subprocess.Popen(
            ["taskset", "-c", str(SERVER_CPU), *map(str, command)], env=os.environ | quiet | env, stdout=self.log, stderr=self.log,
            cwd=self.home.name, start_new_session=True,
        )
        self._await()
        return self

    def _await(self):
        rest, deadline = oip_rest.Rest(f"http://127.0.0.1:{self.ports['http']}"), time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if rest.get(self.ready).status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.25)
        said = (Path(self.home.name) / "log").read_text(errors="replace")[-1500:]
        self.__exit__()
        raise RuntimeError(f"not ready within {START_SECONDS} s: {said}")

    @property
    def pid(self):
        return self.process.pid

    def __exit__(self, *_):
        for kind in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, kind)
                self.process.wait(10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self.log.close()
        self.home.cleanup()


class OursAsPeer(Ours):
    """Ours, with the ports under the names of the others."""

    name = "millrace"

    def __init__(self, folder, wires):
        super().__init__(folder, cpus=SERVER_CPU)
        self.wires, self.ports = wires, {"http": self.port, "grpc": self.port}

    @property
    def pid(self):
        return self.process.pid


def wire(name, x):
    """The request over a wire, and how its answer is read."""
    given = [Given("input", x)]
    if name == "plain":
        return Request("/predict", json.dumps({"x": x.tolist()}).encode(), {"Content-Type": "application/json"})
    if name == "JSON":
        body = json.dumps(oip_rest.json_request(given)).encode()
        return Request(oip_rest.infer_path("mlp"), body, {"Content-Type": "application/json"})
    if name == "binary":
        body, head = oip_rest.binary_request(given)
        return Request(oip_rest.infer_path("mlp"), body, {"Content-Type": "application/octet-stream", oip_rest.HEADER: str(head)})
    message = oip_grpc.infer_request("mlp", given, raw=True).SerializeToString()
    frame = b"\0" + len(message).to_bytes(4, "big") + message
    return Request(METHOD, frame, {"content-type": "application/grpc", "te": "trailers"}, grpc=True)


def answer(name, request, ports):
    """The elements of the output as the server gives them now."""
    if request.grpc:
        client = oip_grpc.Grpc(f"127.0.0.1:{ports['grpc']}")
        reply = oip_grpc.read_reply(client.call("ModelInfer", oip_grpc.pb.ModelInferRequest.FromString(request.body[5:])))
        client.channel.close()
        return reply.outputs["output"].array
    found = oip_rest.Rest(f"http://127.0.0.1:{ports['http']}").call("POST", request.path, request.body, request.headers)
    if name in ("JSON", "binary"):
        return oip_rest.read_reply(found).outputs["output"].array
    document = found.json()
    return np.array(document["y"] if isinstance(document, dict) else document, np.float32)


def check(name, request, ports, wanted):
    np.testing.assert_allclose(answer(name, request, ports).reshape(-1), wanted.reshape(-1), rtol=1e-5)


def compare(peer, seconds, wanted, x):
    """The rows of one server."""
    rows = []
    began = time.monotonic()
    with peer:
        started = time.monotonic() - began
        for name in peer.wires:
            request = wire(name, x)
            port = peer.ports["grpc" if request.grpc else "http"]

            check(name, request, peer.ports, wanted)
            measure(request, port, peer.pid, 8, 1, CLIENT_CPU)
            one = measure(request, port, peer.pid, 1, seconds, CLIENT_CPU)
            many = [(c, measure(request, port, peer.pid, c, seconds, CLIENT_CPU)) for c in CONNECTIONS]
            check(name, request, peer.ports, wanted)
            connections, best = max(many, key=lambda pair: pair[1].rate)
            errors = sum(f.errors for _, f in many) + one.errors
            row = {
                "server": peer.name, "wire": name, "rate": best.rate, "connections": connections, "p50": best.p50, "p99": best.p99,
                "one_rate": one.rate, "one_p50": one.p50, "cpu": best.cpu, "memory": memory_mebibytes(tree(peer.pid)), "errors": errors,
                "started": started,
            }
            rows.append(row)
            print(line(row), flush=True)
    return rows


HEAD = (f"{'server':<10} {'wire':<7} {'requests/s':>10} {'at':>4} {'p50 ms':>8} {'p99 ms':>8} {'alone/s':>8} {'alone ms':>9} "
        f"{'CPU ms/1000':>12} {'MiB':>6} {'errors':>7} {'start s':>8}")


# What of ours a peer's wire is held against: the plain ones are JSON without a protocol.
BESIDE = {"plain": "JSON"}


def ratios(rows):
    """Ours in times of each peer's, wire by wire."""
    ours = {r["wire"]: r for r in rows if r["server"] == OursAsPeer.name}
    lines = []
    for r in rows:
        own = ours.get(BESIDE.get(r["wire"], r["wire"]))
        if own and r is not own and r["rate"]:
            lines.append(f"{OursAsPeer.name} {own['wire']:<6} beside {r['server']:<9} {r['wire']:<7} {own['rate'] / r['rate']:>7.2f} times the rate, "
                         f"{own['p99'] / r['p99']:.2f} of the p99, {own['one_p50'] / r['one_p50']:.2f} of the p50 of one at a time")
    return lines


def line(r):
    return (f"{r['server']:<10} {r['wire']:<7} {r['rate']:>10,.0f} {r['connections']:>4} {r['p50']:>8.2f} {r['p99']:>8.2f} "
            f"{r['one_rate']:>8,.0f} {r['one_p50']:>9.3f} {r['cpu']:>12.1f} {r['memory']:>6.0f} {r['errors']:>7} {r['started']:>8.2f}")


def peers(folder):
    model = Path(folder).resolve() / "mlp/1/model.onnx"

    def python(name):
        return subprocess.run(
            [HERE.parents[1] / "python", name, HERE / f"requirements/{name}.txt"], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()

    def repository(name, script):
        return lambda ports: ([python(name), HERE / script, Path(folder).resolve(), ports["http"], ports["grpc"]], {})

    def alone(name, script):
        return lambda ports: ([python(name), HERE / script, model, ports["http"]], {})

    def bento(ports):
        program = python("bentoml")
        command = [program, "-m", "bentoml", "serve", "bentoml_service:Onnx", "--working-dir", HERE, "--port", ports["http"], "--host", "127.0.0.1"]
        return command, {"BENTO_MODEL": str(model), "BENTOML_HOME": str(CACHE / "bentoml")}

    def furnace(ports):
        program = CACHE / "peers/furnace-target/release/furnace-peer"
        if not program.exists():
            raise RuntimeError(f"{program} is not built: run with FURNACE=1")
        return [program, model, "mlp", ports["http"], ports["grpc"], 32], {"ORT_DYLIB_PATH": runtime_library()}

    return {
        "millrace": lambda: OursAsPeer(folder, ("JSON", "binary", "gRPC")),
        "furnace": lambda: Peer("furnace", furnace, ("JSON", "binary", "gRPC")),
        "fastapi": lambda: Peer("fastapi", alone("fastapi", "fastapi_server.py"), ("plain",), "/ready"),
        "litserve": lambda: Peer("litserve", alone("litserve", "litserve_server.py"), ("plain",), "/ready"),
        "bentoml": lambda: Peer("bentoml", bento, ("plain",), "/readyz"),
        "ray": lambda: Peer("ray", alone("ray", "ray_server.py"), ("plain",), "/ready"),
        "mlserver": lambda: Peer("mlserver", repository("mlserver", "mlserver_server.py"), ("JSON", "gRPC")),
        "kserve": lambda: Peer("kserve", repository("kserve", "kserve_server.py"), ("JSON", "binary", "gRPC")),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=5, metavar="N", help="of each measurement")
    parser.add_argument("--only", nargs="*", metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    x = np.random.default_rng(8).standard_normal((1, 30)).astype(np.float32).round(3)
    rows, failed = [], []
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        main_model(folder)
        wanted = ort.InferenceSession(str(Path(folder) / "mlp/1/model.onnx"), providers=["CPUExecutionProvider"]).run(None, {"input": x})[0]
        print(f"{time.strftime('%Y-%m-%d %H:%M')}, {platform.machine()}, {os.cpu_count()} cores, server on core {SERVER_CPU}, client on core "
              f"{CLIENT_CPU}; load average of the machine before: {os.getloadavg()[0]:.1f} (anything much above 0 makes all figures too low)\n\n{HEAD}")
        for name, make in peers(folder).items():
            if options.only and name not in options.only:
                continue
            try:
                rows += compare(make(), options.seconds, wanted, x)
            except Exception as error:
                failed.append(name)
                print(f"{name:<10} not measured: {type(error).__name__}: {str(error)[-600:]}", flush=True)
    print("", *ratios(rows), sep="\n")
    print(f"\nload average after: {os.getloadavg()[0]:.1f}; not measured: {', '.join(failed) or 'none'}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 1 if not rows else 0


if __name__ == "__main__":
    sys.exit(main())
