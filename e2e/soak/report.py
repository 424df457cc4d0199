"""Which event a failure belongs to, and the tables at the end. Pure."""

import collections
import dataclasses

BETWEEN = "between events"


@dataclasses.dataclass
class Event:
    """One that happened. Times are seconds since 1970; it ends when all is at rest again. `requests`: sent meanwhile."""

    kind: str
    pair: bool
    begin: float
    end: float = float("inf")
    requests: int = 0
    problem: str | None = None


def under_way(events, failure):
    """Kinds of the events that overlap with a request."""
    kinds = sorted({event.kind for event in events if event.begin <= failure.ended and failure.sent <= event.end})
    return kinds or [BETWEEN]


def kinds_that_failed(events, failures):
    return {kind for failure in failures for kind in under_way(events, failure)} - {BETWEEN}


def by_kind(events, failures, clients):
    """Rows: kind, events, of them in pairs, requests meanwhile, failed, failed of each client. A request during a pair counts for both."""
    failed = collections.Counter((kind, failure.client) for failure in failures for kind in under_way(events, failure))
    kinds = sorted({event.kind for event in events}) + ([BETWEEN] if any(kind == BETWEEN for kind, _ in failed) else [])
    rows = []
    for kind in kinds:
        these = [event for event in events if event.kind == kind]
        each = [failed[kind, client] for client in clients]
        requests = sum(event.requests for event in these) if these else "-"
        rows.append([kind, len(these), sum(event.pair for event in these), requests, sum(each), *each])
    return rows


def table(titles, rows):
    """Lines with aligned columns: the first to the left, numbers to the right."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in [titles, *rows]]
    widths = [max(len(row[place]) for row in cells) for place in range(len(titles))]
    return ["  ".join(cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in enumerate(zip(row, widths))) for row in cells]
