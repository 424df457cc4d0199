"""Our own server, started over a repository folder on free ports of the loopback interface, and stopped again."""

import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "millrace"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or CACHE / "target")
BINARY = Path(os.environ.get("INFERENCE_SERVER") or TARGET / "debug" / "inference-server")
READY_SECONDS = 60
# A port that was free may be another process's when the server binds it: then it is started again.
STARTS = 3


class Taken(RuntimeError):
    """The server ended since its port was another's."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def runtime_library():
    given = os.environ.get("ORT_DYLIB_PATH")
    return given or subprocess.run([ROOT / "deploy/images/fetch-onnxruntime"], check=True, capture_output=True, text=True).stdout.strip()


class Ours:
    """Used with `with`: `url` and `grpc` are where it answers, REST and gRPC on one port. `config` is added to its configuration."""

    def __init__(self, folder, cpus=None, wait_ready=True, **config):
        self.folder, self.cpus, self.wait_ready = Path(folder), cpus, wait_ready
        self.home = tempfile.TemporaryDirectory(prefix="conformance-")
        self._at(free_port())
        names = sorted(p.name for p in self.folder.iterdir())
        repository = {"uri": f"file://{self.folder.resolve()}", "control": "Explicit", "load": names, "versionPolicy": {"all": {}}}
        self.config = {"repository": repository} | config

    def __enter__(self):
        for start in range(1, STARTS + 1):
            try:
                return self._start()
            except Taken:
                if start == STARTS:
                    raise
                self._at(free_port())

    def _at(self, port):
        self.port = port
        self.url, self.grpc = f"http://127.0.0.1:{port}", f"127.0.0.1:{port}"

    def _start(self):
        config = Path(self.home.name) / "config.json"
        config.write_text(json.dumps(self.config))
        # The server writes why it ends into a file that is there, as the kubelet makes it.
        (Path(self.home.name) / "reason").touch()
        self.log = open(Path(self.home.name) / "log", "wb")
        command = [
            BINARY, "serve", "--config", config, "--http-address", self.grpc, "--admin-address", f"127.0.0.1:{free_port()}",
            "--announce-seconds", "0", "--termination-log", Path(self.home.name) / "reason",
        ]
        if self.cpus is not None:
            command = ["taskset", "-c", str(self.cpus), *command]
        env = os.environ | {"ORT_DYLIB_PATH": runtime_library(), "RUST_LOG": os.environ.get("RUST_LOG", "warn")}
        began = time.monotonic()
        self.process = subprocess.Popen(command, env=env, stdout=self.log, stderr=self.log)
        try:
            self._await(began)
        except Taken:
            self.log.close()
            raise
        except BaseException:
            self.__exit__()
            raise
        self.start_seconds = time.monotonic() - began
        return self

    def _await(self, began):
        while time.monotonic() - began < READY_SECONDS:
            if self.process.poll() is not None:
                kind = Taken if self._reason().startswith("AddressNotUsable") else RuntimeError
                raise kind(f"{BINARY} ended with {self.process.returncode}: {self._reason()} {self.said()}")
            if self._answers():
                return
            time.sleep(0.02)
        raise RuntimeError(f"{BINARY} was not ready within {READY_SECONDS} s: {self.said()}")

    def _answers(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/v2/health/ready" if self.wait_ready else "/v2/health/live")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _reason(self):
        """Why it ended, in its own word."""
        return (Path(self.home.name) / "reason").read_text()

    def said(self):
        """The end of its log."""
        return (Path(self.home.name) / "log").read_text(errors="replace")[-3000:]

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        self.home.cleanup()
