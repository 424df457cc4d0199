"""The conformance suite against our server and the peers from PyPI that speak the protocol; prints a Markdown table of the results.

    conformance_table.py [--only NAME ...] [--json FOLDER]
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "conformance"), str(HERE)]

import models  # noqa: E402
from compare import OursAsPeer, peers  # noqa: E402
from conformance import OUTCOMES, Target, by_topic, count, run  # noqa: E402


def candidates(folder):
    theirs = peers(folder)
    return {
        "millrace": lambda: OursAsPeer(folder, ()),
        "mlserver": theirs["mlserver"],
        "kserve": theirs["kserve"],
    }


# What a server has by its documentation and does not announce in its metadata.
ASSUMED = {"kserve": ("binary_tensor_data",)}


def results_of(name, make):
    with make() as server:
        target = Target(f"http://127.0.0.1:{server.ports['http']}", f"127.0.0.1:{server.ports['grpc']}", ASSUMED.get(name, ()))
        told = f"{target.metadata.get('name', '?')} {target.metadata.get('version', '')}".strip()
        return told, run(target)


def table(found):
    topics = {}
    for results in found.values():
        for key in by_topic(results):
            topics.setdefault(key)
    lines = ["| topic | wire | " + " | ".join(found) + " |", "|---|---|" + "---:|" * len(found)]
    counts = {name: by_topic(results) for name, results in found.items()}
    for topic, wire in sorted(topics):
        cells = []
        for name in found:
            row = counts[name].get((topic, wire), dict.fromkeys(OUTCOMES, 0))
            asked = row["passed"] + row["failed"]
            cells.append(f"{row['passed']}/{asked}" if asked else "no such extension")
        lines.append(f"| {topic} | {wire} | " + " | ".join(cells) + " |")
    sums = []
    for results in found.values():
        asked = len(results) - count(results, "skipped")
        sums.append(f"**{count(results, 'passed')}/{asked}**")
    lines.append("| **all** | | " + " | ".join(sums) + " |")
    required = [f"{count(r, 'failed', level='required')}" for r in found.values()]
    lines.append("| failures of what the protocol requires | | " + " | ".join(required) + " |")
    lines.append("| skipped: extension, versions or model not there | | " + " | ".join(str(count(r, "skipped")) for r in found.values()) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory(prefix="conformance-models-") as folder:
        models.write(folder)
        for name, make in candidates(folder).items():
            if options.only and name not in options.only:
                continue
            told, results = results_of(name, make)
            found[told] = results
            if options.json:
                options.json.mkdir(parents=True, exist_ok=True)
                (options.json / f"{name}.json").write_text(json.dumps([asdict(r) for r in results], indent=1))
    print(f"{time.strftime('%Y-%m-%d')}\n\n{table(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
