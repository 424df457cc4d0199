"""The soak: clients at a fixed rate while everything that may happen to a service happens, and not one request may fail.

    soak.py [--long] [--naive] [--namespace NAME]

`run` beside this file brings a cluster up for it. SOAK_SHARE: share of the capacity that was measured first, 0.7 on four cores or more, else 0.35. SOAK_RATE: requests a second instead.
SOAK_SEED (1), SOAK_OUTAGE_SECONDS (60, or 10 in the short run), SOAK_REQUESTS (1,000,000; 0 in the short run): events go on until so many were sent at
that rate. The long run also fails where there were fewer than 200 events, 20 overlapping pairs or 10 events of a kind; the short one where a kind is missing.
"""

import argparse
import collections
import os
import random
import sys
import threading
import time

import naive
import report
import schedule
from events import Events
from kube import Failed, main_exit, say
from load import KINDS, Load, quantile
from rig import NAME, Rig

LEAST_NAIVE_KINDS = 3
# On two cores clients and services leave nothing at 0.7 for the pods that start, and requests are late by the machine's fault.
USUAL_SHARE = "0.7" if (os.cpu_count() or 1) >= 4 else "0.35"
# Of one event.
MOST_FAILURES_PRINTED = 20
# Between the beginnings of the two events of a pair.
OFFSET_SECONDS = (0.5, 5.0)


class Soak:
    def __init__(self, options):
        self.options, self.rig = options, Rig(options.namespace)
        self.share, self.seed = float(os.environ.get("SOAK_SHARE", USUAL_SHARE)), int(os.environ.get("SOAK_SEED", "1"))
        outage = float(os.environ.get("SOAK_OUTAGE_SECONDS", "60" if options.long else "10"))
        self.events = Events(self.rig, outage)
        requests = int(os.environ.get("SOAK_REQUESTS", "1000000" if options.long else "0"))
        self.least = report.Least(requests, events=200, pairs=20, of_each=10) if options.long else report.Least(requests, of_each=1)
        self.happened, self.problems, self.printed = [], [], collections.Counter()
        self.load, self.capacity = None, {}
        self.began, self.before, self.busy = time.time(), 0, busy()

    # -- traffic -------------------------------------------------------------------------------------------------------

    def told(self, failure):
        kinds = ", ".join(report.under_way(self.happened, failure))
        self.printed[kinds, len(self.happened)] += 1
        if self.printed[kinds, len(self.happened)] > MOST_FAILURES_PRINTED:
            return
        at = time.strftime("%H:%M:%S", time.localtime(failure.sent)) + f"{failure.sent % 1:.3f}"[1:]
        say(f"  FAILED {at} {KINDS[failure.client]}, revision {failure.revision}, during {kinds}: {failure.problem}"
            + (f" (its client was {failure.lag_ms} ms behind)" if failure.lag_ms > 100 else ""))

    def start_traffic(self):
        self.load = Load(self.rig.address(), f"{NAME}.{self.rig.namespace}", str(self.rig.work / "rows.json"), self.told)
        given = os.environ.get("SOAK_RATE")
        # With a given rate the capacity only says which part of it is each kind's.
        self.capacity = self.load.capacity(20 if self.options.long else 3 if given else 8)
        total = sum(self.capacity.values())
        if not total:
            raise Failed("no request was answered while the capacity was measured")
        say(f"  capacity with clients, servers and cluster on {os.cpu_count()} cores: {total:.0f} requests/s ({told(self.capacity)})")
        share = float(given) / total if given else self.share
        rates = {kind: share * rate for kind, rate in self.capacity.items()}
        self.load.rates(rates)
        self.began, self.before, self.busy = time.time(), self.load.total(), busy()
        say(f"  sending {sum(rates.values()):.0f} requests/s, {100 * share:.0f} % of it ({told(rates)})")

    def sent(self):
        """Since the rate was set: what the capacity was measured by met no event."""
        return self.load.total() - self.before

    def failed(self):
        return len(self.load.failures) + self.load.untold()

    # -- events --------------------------------------------------------------------------------------------------------

    def happen(self, kinds, actions):
        """One event, or two that overlap; then all must come to rest."""
        say(f"=== {' + '.join(kinds)}")
        chance = random.Random(f"{self.seed}-{len(self.happened)}")
        threads, began = [], []
        for place, kind in enumerate(kinds):
            if place:
                time.sleep(chance.uniform(*OFFSET_SECONDS))
            overlaps = place > 0 and self.is_under_way(threads)
            event = report.Event(kind, len(kinds) > 1, time.time(), overlaps=overlaps)
            self.happened.append(event)
            began.append((event, self.load.total()))
            threads.append(threading.Thread(target=self.attempt, args=(event, actions[kind])))
            threads[-1].start()
        for thread in threads:
            thread.join()
        try:
            self.rest()
        except Failed as error:
            self.problems.append(f"after {' + '.join(kinds)}: {error}")
        for event, before in began:
            event.end, event.requests = time.time(), self.load.total() - before

    def is_under_way(self, threads):
        """An event is over when it was brought about and all is at rest again."""
        return any(thread.is_alive() for thread in threads) or self.rig.unsettled() is not None

    def rest(self):
        if not self.options.naive:
            self.rig.settled()

    def attempt(self, event, action):
        try:
            action()
        except Exception as error:  # one event that does not come about must not end the run
            event.problem = f"{type(error).__name__}: {error}"
            self.problems.append(f"{event.kind}: {event.problem}")
            say(f"  {event.kind} did not come about: {event.problem}")

    def run(self):
        self.rig.begin()
        self.start_traffic()
        time.sleep(2)
        if self.options.naive:
            self.naively()
        else:
            self.go_through(schedule.long if self.options.long else schedule.short)
            self.problems += report.shortfalls(self.happened, self.sent(), schedule.kinds(), self.least)
        time.sleep(2)

    def go_through(self, plan):
        """Once, and then again with another seed while there are too few requests."""
        repeat = 0
        while repeat == 0 or self.sent() < self.least.requests:
            for kinds in plan(self.seed + repeat):
                if repeat and self.sent() >= self.least.requests and self.rig.replicas == 2:
                    return
                self.happen(kinds, self.events.kinds)
                self.progress()
            repeat += 1

    def progress(self):
        self.load.check()
        say(f"  {self.sent():,} requests, {self.failed()} failed")

    def naively(self):
        operator = naive.Naive(self.rig)
        operator.prepare()
        for kind in [kind for kind in operator.kinds for _ in range(2)]:
            self.happen((kind,), operator.kinds)
            self.progress()

    # -- the end -------------------------------------------------------------------------------------------------------

    def end(self):
        if not self.load:
            return
        seconds, idle = time.time() - self.began, busy()
        sent = self.sent()
        self.load.stop()
        say("=== summary")
        for line in report.table(["event", "times", "in pairs", "requests", "failed", *KINDS], report.by_kind(self.happened, self.load.failures, KINDS)):
            print(f"  {line}")
        rows = [[KINDS[client.kind], client.sent(), client.counts.get("failed", 0), quantile(client.latencies, 0.5), quantile(client.latencies, 0.99),
                 quantile(client.latencies, 1), client.counts.get("not sent", 0), client.worst_lag] for client in self.load.clients]
        print()
        for line in report.table(["client", "requests", "failed", "p50 ms", "p99 ms", "longest ms", "not sent", "behind ms"], rows):
            print(f"  {line}")
        if untold := self.load.untold():
            say(f"  {untold} more failures were counted, and belong to no event here: clients tell of so many only")
        pairs, happened = sum(event.pair for event in self.happened) // 2, len(report.came_about(self.happened))
        working = 100 * (idle[0] - self.busy[0]) / max(1, idle[1] - self.busy[1])
        say(f"  {self.sent():,} requests, {self.failed()} failed (with {self.before:,} before them, by which the capacity was measured)")
        say(f"  {happened} of {len(self.happened)} events came about, {pairs} pairs, of which {report.overlapping(self.happened)} overlapped")
        say(f"  {sent / seconds:.0f} requests/s for {seconds:.0f} s, {100 * sent / seconds / max(1, sum(self.capacity.values())):.0f} % of the capacity; "
            f"the machine was busy for {working:.0f} % of the time")

    def verdict(self):
        failures = self.load.failures if self.load else []
        if self.options.naive:
            kinds = report.kinds_that_failed(self.happened, failures)
            if len(kinds) < LEAST_NAIVE_KINDS:
                self.problems.append(f"the naive configuration failed requests in {len(kinds)} kinds of events only: this rig would not see a failure")
            else:
                say(f"  as it should be, the naive configuration failed requests in {len(kinds)} kinds of events: {', '.join(sorted(kinds))}")
            return self.problems
        if self.load and self.failed():
            self.problems.append(f"{self.failed()} of {self.load.total()} requests failed")
        return self.problems


def told(rates):
    return ", ".join(f"{KINDS[kind]} {rate:.0f}" for kind, rate in rates.items())


def busy():
    """Ticks the machine worked since it started, and all ticks."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def run(arguments=None):
    """Returns what went wrong, sentences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--naive", action="store_true")
    parser.add_argument("--namespace", default=NAME)
    soak = Soak(parser.parse_args(arguments))
    try:
        soak.run()
    except Failed as error:
        soak.problems.append(str(error))
    finally:
        try:
            soak.end()
            problems = soak.verdict()
        finally:
            soak.rig.stop()
    return problems


if __name__ == "__main__":
    sys.path.insert(0, "")
    main_exit(run())
