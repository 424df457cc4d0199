"""Our own server against the suite: makes the models, starts the server over them, and runs what is named: cases, clients, bugs.

    ours.py [cases] [clients] [bugs]         all of them where nothing is named
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import models
from server import Ours

HERE = Path(__file__).resolve().parent
PARTS = ("cases", "clients", "bugs")


def run(title, *command):
    print(f"\n--- {title}", flush=True)
    return subprocess.run(command, check=False).returncode == 0


def kserve_python():
    requirements = HERE.parent / "bench/peers/requirements/kserve.txt"
    return subprocess.run([HERE.parent / "python", "kserve", requirements], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main(named):
    unknown = set(named) - set(PARTS)
    if unknown:
        raise SystemExit(f"{', '.join(sorted(unknown))}: no such part; there are {', '.join(PARTS)}")
    named = named or PARTS
    good = []
    with tempfile.TemporaryDirectory(prefix="conformance-models-") as folder:
        models.write(folder)
        # Whether the models that are refused on purpose were refused is a case; readiness does not wait for them.
        with Ours(folder) as ours:
            at = ("--url", ours.url, "--grpc", ours.grpc)
            print(f"ready {ours.start_seconds * 1000:.0f} ms after the start, with {len(models.MODELS)} models")
            if "cases" in named:
                reports = [f"--{kind}={os.environ[name]}" for kind, name in (("json", "JSON"), ("markdown", "MARKDOWN")) if os.environ.get(name)]
                quiet = [] if os.environ.get("VERBOSE") else ["--quiet"]
                good.append(run("conformance", sys.executable, HERE / "conformance.py", *at, "--strict", *quiet, *reports))
            if "clients" in named:
                good.append(run("tritonclient", sys.executable, HERE / "clients.py", *at))
                good.append(run("KServe's client", kserve_python(), HERE / "clients_kserve.py", *at))
            if "bugs" in named:
                good.append(run("seeded bugs", sys.executable, HERE / "seeded_bugs.py", *at))
            if not all(good):
                print(f"\nthe server's log ends:\n{ours.said()}", file=sys.stderr)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
