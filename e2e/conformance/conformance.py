"""The conformance suite of the Open Inference Protocol: runs every case against a server, prints a table, ends with 1 if one failed.

A case is skipped where the server does not announce its extension, does not serve its model or has no gRPC; with --strict that is
a failure, as it is for our own server.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

from cases import CASES
from cases.registry import View
from oip.grpc import Grpc
from oip.rest import Rest
from oip.tensors import Broken


@dataclass
class Result:
    id: str
    wire: str
    clause: str
    level: str
    outcome: str
    why: str
    milliseconds: float


class Target:
    """A server by its addresses, and what it says of itself."""

    def __init__(self, url, grpc=None, assume=()):
        self.assumed = set(assume)
        self.rest = Rest(url)
        self.grpc = Grpc(grpc) if grpc else None
        self.metadata = self._metadata()
        self.served = {}

    def _metadata(self):
        try:
            document = self.rest.get("/v2").json()
            return document if isinstance(document.get("extensions"), list) else {"extensions": []}
        except (Broken, OSError, AttributeError):
            return {"extensions": []}

    def serves(self, model):
        if model not in self.served:
            try:
                self.served[model] = self.rest.get(f"/v2/models/{model}/ready").status == 200
            except OSError:
                return True  # The case shall say what is wrong.
        return self.served[model]

    def lacks(self, case):
        """Why a case cannot be asked of this server, or None."""
        if case.wire in ("rpc", "grpc", "grpc-raw") and self.grpc is None:
            return "no gRPC address"
        announced = self.assumed | {name.split("(")[0] for name in self.metadata["extensions"] if isinstance(name, str)}
        if case.extension and case.extension not in announced:
            return f"extension {case.extension} is not announced"
        missing = [model for model in case.models if not self.serves(model)]
        if missing:
            return f"model {missing[0]} is not served"
        return "the server has no versions" if case.versions and not self.has_versions() else None

    def has_versions(self):
        try:
            return bool(self.rest.get("/v2/models/versioned").json().get("versions"))
        except (Broken, OSError):
            return True


def run_case(case, target, strict):
    began = time.monotonic()
    lacking = target.lacks(case)
    if lacking:
        outcome, why = ("failed" if strict else "skipped"), lacking
    else:
        try:
            case.run(View(target, case))
            outcome, why = "passed", ""
        except Exception as error:  # Whatever a server makes a client raise is a failure of this case.
            outcome, why = "failed", f"{error}" if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
    spent = (time.monotonic() - began) * 1000
    return Result(case.id, case.title, case.clause, case.level, outcome, why.replace("\n", " ")[:300], round(spent, 1))


def run(target, cases=CASES, strict=False, stop_at_failure=False, watch=None, gaps=()):
    results = []
    for case in cases:
        results.append(with_gap(run_case(case, target, strict), gaps))
        if watch:
            watch(results[-1])
        if stop_at_failure and results[-1].outcome == "failed":
            break
    return results


def chosen(patterns):
    return [c for c in CASES if not patterns or any(fnmatch(c.id, p) or c.id.startswith(p) for p in patterns)]


def count(results, outcome, **having):
    return sum(r.outcome == outcome and all(getattr(r, k) == v for k, v in having.items()) for r in results)


OUTCOMES = ("passed", "failed", "skipped", "gap")


def with_gap(result, gaps):
    """What is known to be missing is told as such, so that it is not forgotten and nothing new hides behind it."""
    if result.id in gaps:
        known = result.outcome == "failed"
        result.outcome, result.why = ("gap", result.why) if known else ("failed", "it passes, but is listed as a gap")
    return result


def by_topic(results):
    """(topic, wire) -> counts."""
    table = {}
    for result in results:
        row = table.setdefault((result.id.split(".")[0], result.wire), dict.fromkeys(OUTCOMES, 0))
        row[result.outcome] += 1
    return table


def summary(results):
    lines = [f"{'topic':<16} {'wire':<12} {'passed':>7} {'failed':>7} {'skipped':>8} {'gaps':>5}"]
    for (topic, wire), row in by_topic(results).items():
        lines.append(f"{topic:<16} {wire:<12} {row['passed']:>7} {row['failed']:>7} {row['skipped']:>8} {row['gap']:>5}")
    return "\n".join(lines)


def markdown(results, server):
    lines = [f"# Conformance of {server}", "", "| topic | wire | passed | failed | skipped |", "|---|---|---:|---:|---:|"]
    lines += [f"| {t} | {w} | {r['passed']} | {r['failed']} | {r['skipped']} |" for (t, w), r in by_topic(results).items()]
    lines += ["", "| case | wire | clause | level | outcome |", "|---|---|---|---|---|"]
    for r in results:
        told = r.outcome + (f": {r.why}" if r.why else "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (r.id, r.wire, r.clause, r.level, told)) + " |")
    return "\n".join(lines) + "\n"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="where the server answers REST, as http://127.0.0.1:8080")
    parser.add_argument("--grpc", help="where it answers gRPC, as 127.0.0.1:8001; without it gRPC is skipped")
    parser.add_argument("--only", action="append", metavar="CASE", help="cases by name, prefix or pattern; may be repeated")
    parser.add_argument("--assume", action="append", default=[], metavar="EXTENSION", help="an extension that it has and does not announce")
    parser.add_argument("--gap", action="append", default=[], metavar="CASE", help="a case that is known to fail: told, and a failure only if it passes")
    parser.add_argument("--strict", action="store_true", help="what the server lacks is a failure, not skipped")
    parser.add_argument("--quiet", action="store_true", help="print failures and sums only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the results as Markdown")
    return parser.parse_args()


def main():
    options = arguments()
    target = Target(options.url, options.grpc, options.assume)
    server = f"{target.metadata.get('name', 'a server')} {target.metadata.get('version', '')}".strip()

    def tell(result):
        if result.outcome in ("failed", "gap") or not options.quiet:
            told = f": {result.why}" if result.why else ""
            print(f"{result.outcome:<8} {result.id:<58} {result.wire}: {result.clause}{told}", flush=True)

    began = time.monotonic()
    results = run(target, chosen(options.only), options.strict, watch=tell, gaps=options.gap)
    print(f"\n{summary(results)}\n")
    failed = count(results, "failed")
    print(f"conformance of {server}: {len(results)} cases in {time.monotonic() - began:.1f} s: {count(results, 'passed')} passed, "
          f"{failed} failed ({count(results, 'failed', level='required')} of what is required), {count(results, 'skipped')} skipped, {count(results, 'gap')} known gaps")
    if options.json:
        options.json.write_text(json.dumps({"server": server, "results": [asdict(r) for r in results]}, indent=1))
    if options.markdown:
        options.markdown.write_text(markdown(results, server))
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
