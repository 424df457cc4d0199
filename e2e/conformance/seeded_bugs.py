"""Seeds the bugs of faults.py, one after the other, into a right server by a proxy, and prints which of them the suite finds.

A bug is found when a case fails that passes through the same proxy without it. Ends with 1 if more than --may-miss are missed.
"""

import argparse
import sys
import time

from conformance import CASES, Target, run, run_case
from faults import BUGS
from proxy import Proxy

UNSEEN = "transport"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--grpc", required=True)
    parser.add_argument("--may-miss", type=int, default=1, metavar="COUNT")
    options = parser.parse_args()
    began = time.monotonic()
    proxy = Proxy(options.url, options.grpc)
    target = Target(proxy.url, proxy.grpc)
    sound = [c for c in CASES if c.group != UNSEEN]
    passing = {r.id for r in run(target, sound) if r.outcome == "passed"}
    cases = [c for c in sound if c.id in passing]
    print(f"without a bug {len(cases)} of {len(sound)} cases pass through the proxy; topic {UNSEEN} is not seen through it\n")
    missed = 0
    for kind in BUGS:
        proxy.fault = kind()
        found = next((r for r in (run_case(c, target, False) for c in cases) if r.outcome == "failed"), None)
        if proxy.errors:
            # The seeded bug itself failed: what a case noticed then says nothing.
            found, told = None, f"the proxy failed: {proxy.errors[0]}"
        else:
            told = f"by {found.id}: {found.why[:90]}" if found else ""
        missed += found is None
        print(f"{'found ' if found else 'MISSED'}  {kind.name:<66} {told}", flush=True)
        proxy.errors.clear()
    proxy.close()
    print(f"\nseeded bugs: {len(BUGS) - missed} of {len(BUGS)} found in {time.monotonic() - began:.0f} s")
    return 1 if missed > options.may_miss else 0


if __name__ == "__main__":
    sys.exit(main())
