"""Whether the soak's plan has what it promises, and its report tells what a run had too little of. Pure: no cluster, no client. `report_test.py`"""

import collections
import sys

import report
import schedule

LEAST = report.Least(requests=1_000_000, events=200, pairs=20, of_each=10)
KINDS = schedule.kinds()


def happened(plan):
    """Events that all came about, and whose pairs all overlapped."""
    return [report.Event(kind, len(kinds) > 1, 0.0, overlaps=place > 0) for kinds in plan for place, kind in enumerate(kinds)]


def plans():
    """Every seed has enough of everything, and ends with as many pods as it began."""
    wrong = []
    for seed in range(50):
        for plan, least in ((schedule.long(seed), LEAST), (schedule.short(seed), report.Least(of_each=1, pairs=3))):
            times = collections.Counter(kind for kinds in plan for kind in kinds)
            wrong += [f"seed {seed}: {shortfall}" for shortfall in report.shortfalls(happened(plan), LEAST.requests, KINDS, least)]
            if times["scale up"] != times["scale down"]:
                wrong.append(f"seed {seed}: {times}")
    return wrong


def shortfalls():
    single, first = report.Event("a", False, 0.0), report.Event("a", True, 0.0)
    overlapping, too_late = (report.Event("b", True, 0.0, overlaps=overlaps) for overlaps in (True, False))
    failed = report.Event("b", True, 0.0, overlaps=True, problem="it did not come about")
    least = report.Least(requests=10, events=3, pairs=1, of_each=1)
    cases = [
        ("all is there", [single, first, overlapping], 10, []),
        ("too few requests", [single, first, overlapping], 9, ["9 requests, at least 10 were to be"]),
        ("too few events", [first, overlapping], 10, ["2 events, at least 3 were to be"]),
        ("the second came when the first was over", [single, first, too_late], 10, ["0 overlapping pairs, at least 1 were to be"]),
        ("what did not come about counts for nothing", [single, single, first, failed], 10, [
            "0 overlapping pairs, at least 1 were to be", "0 events of the kind b, at least 1 were to be"]),
    ]
    return [f"{case}: {found}" for case, events, requests, expected in cases if (found := report.shortfalls(events, requests, ("a", "b"), least)) != expected]


def main():
    wrong = plans() + shortfalls()
    for line in wrong:
        print(f"FAILED: {line}")
    print(f"the soak's plan and report: {'some wrong' if wrong else 'right'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
