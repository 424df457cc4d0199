"""Which event a failure belongs to, and the tables at the end. Pure."""

import collections
import dataclasses

BETWEEN = "between events"


@dataclasses.dataclass
class Event:
    """One that happened. Times are seconds since 1970; it ends when all is at rest again. `requests`: sent meanwhile. `overlaps`: it began while the
    first of its pair was not over. `problem`: why it did not come about."""

    kind: str
    pair: bool
    begin: float
    end: float = float("inf")
    requests: int = 0
    overlaps: bool = False
    problem: str | None = None


@dataclasses.dataclass(frozen=True)
class Least:
    """What a run must have had to show anything: requests, events, overlapping pairs, events of each kind."""

    requests: int = 0
    events: int = 0
    pairs: int = 0
    of_each: int = 0


def under_way(events, failure):
    """Kinds of the events that overlap with a request."""
    kinds = sorted({event.kind for event in events if event.begin <= failure.ended and failure.sent <= event.end})
    return kinds or [BETWEEN]


def kinds_that_failed(events, failures):
    return {kind for failure in failures for kind in under_way(events, failure)} - {BETWEEN}


def came_about(events):
    return [event for event in events if event.problem is None]


def overlapping(events):
    """Pairs of which the second event began while the first was not over."""
    return sum(event.overlaps for event in came_about(events))


def shortfalls(events, requests, kinds, least):
    """What there was too little of, a sentence each."""
    happened = came_about(events)
    times = collections.Counter(event.kind for event in happened)
    counts = [("requests", requests, least.requests), ("events", len(happened), least.events), ("overlapping pairs", overlapping(events), least.pairs)]
    counts += [(f"events of the kind {kind}", times[kind], least.of_each) for kind in kinds]
    return [f"{found:,} {what}, at least {wanted:,} were to be" for what, found, wanted in counts if found < wanted]


def by_kind(events, failures, clients):
    """Rows: kind, events that came about, of them in pairs, requests meanwhile, failed, failed of each client. A request during a pair counts for
    both."""
    failed = collections.Counter((kind, failure.client) for failure in failures for kind in under_way(events, failure))
    kinds = sorted({event.kind for event in events}) + ([BETWEEN] if any(kind == BETWEEN for kind, _ in failed) else [])
    rows = []
    for kind in kinds:
        these = [event for event in events if event.kind == kind]
        each = [failed[kind, client] for client in clients]
        requests = sum(event.requests for event in these) if these else "-"
        happened = came_about(these)
        rows.append([kind, len(happened), sum(event.pair for event in happened), requests, sum(each), *each])
    return rows


def table(titles, rows):
    """Lines with aligned columns: the first to the left, numbers to the right."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in [titles, *rows]]
    widths = [max(len(row[place]) for row in cells) for place in range(len(titles))]
    return ["  ".join(cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(zip(row, widths))) for row in cells]
