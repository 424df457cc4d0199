"""One client of the soak, of one kind, in a process of its own: an ordinary client that never retries. A request has failed when it
did not get a right answer (2xx, or OK in gRPC, with the probability that one of the models gives this row) within 2 s of being sent.

    client.py kept|fresh|grpc HOST:PORT SERVICE.NAMESPACE ROWS.json

ROWS.json: [{"row": [features], "right": [probabilities]}]. Reads lines of JSON: {"rate": R} sends R requests a second whatever comes back, {"closed": N}
keeps N in flight, {"rate": 0} pauses, {"stop": true} ends. Writes lines of JSON: counts every quarter of a second, and each failure.
"""

import asyncio
import bisect
import collections
import json
import random
import sys
import time

import rest
import rpc

REPORT_SECONDS = 0.25
# So many at once means that nothing is answered any more; more would only tell that the client's machine is full.
MOST_IN_FLIGHT = 2000
MOST_FAILURES_TOLD = 2000
# Upper edges of the bins of latencies, in milliseconds: 20 a decade, from 0.1 ms to 10 s.
EDGES = [round(10 ** (-1 + step / 20), 3) for step in range(101)]
KINDS = {"kept": rest.Kept, "fresh": rest.Fresh, "grpc": rpc.Grpc}


class Load:
    """Sends as it is told, and counts."""

    def __init__(self, requests, rows):
        self.requests, self.rows = requests, rows
        self.rate, self.closed, self.stopped = 0.0, 0, False
        self.in_flight, self.tasks = 0, set()
        self.counts = collections.Counter()
        self.latencies = collections.Counter()
        self.lag, self.changed = 0.0, asyncio.Event()

    def tell(self, **line):
        sys.stdout.write(json.dumps(line) + "\n")

    async def one(self):
        row = random.choice(self.rows)
        self.in_flight += 1
        sent, began, revision = time.time(), time.monotonic(), None
        try:
            async with asyncio.timeout(rest.DEADLINE_SECONDS):
                revision, found = await self.requests.ask(row["body"])
            problem = None if is_right(found, row["right"]) else f"wrong answer: {found} for {row['right']}"
        except TimeoutError:
            problem = "late: no answer within 2 s"
        except (rest.Refused, rpc.Refused) as error:
            problem, revision = f"refused: {error}", error.revision
        except Exception as error:  # whatever the answer made of this client: it was no right one, and must be counted
            problem = f"{type(error).__name__}: {error}"
        finally:
            self.in_flight -= 1
        seconds = time.monotonic() - began
        # The loop itself may have been held up: the answer came in time to the socket, but not to its reader. The user waited.
        if not problem and seconds > rest.DEADLINE_SECONDS:
            problem = f"late: {seconds:.2f} s"
        self.count(problem, revision, sent, seconds)

    def count(self, problem, revision, sent, seconds):
        self.counts["sent"] += 1
        self.counts[f"revision {revision}"] += 1
        self.latencies[EDGES[min(bisect.bisect_left(EDGES, seconds * 1000), len(EDGES) - 1)]] += 1
        if problem:
            self.counts["failed"] += 1
            if self.counts["failed"] <= MOST_FAILURES_TOLD:
                self.tell(failure=problem[:300], sent=sent, ended=sent + seconds, revision=revision, lag_ms=round(1000 * self.lag))

    def start_one(self):
        task = asyncio.create_task(self.one())
        self.tasks.add(task)
        task.add_done_callback(self.ended)

    def ended(self, task):
        self.tasks.discard(task)
        if self.closed and self.in_flight < self.closed and not self.stopped:
            self.start_one()

    async def run(self):
        due = time.monotonic()
        while not self.stopped:
            if not self.rate:
                while self.closed and self.in_flight < self.closed:
                    self.start_one()
                    await asyncio.sleep(0)
                self.changed.clear()
                await self.changed.wait()
                due = time.monotonic()
                continue
            now = time.monotonic()
            self.lag = max(0.0, now - due)
            while due <= now:
                due += 1 / self.rate
                if self.in_flight < MOST_IN_FLIGHT:
                    self.start_one()
                else:
                    self.counts["not sent"] += 1
            await asyncio.sleep(max(0.001, due - time.monotonic()))
        if self.tasks:
            await asyncio.wait(self.tasks)

    async def report(self):
        while not self.stopped:
            await asyncio.sleep(REPORT_SECONDS)
            self.tell(counts=dict(self.counts), at=time.time(), lag_ms=round(1000 * self.lag))
            sys.stdout.flush()

    async def obey(self):
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            order = json.loads(line)
            self.rate, self.closed = float(order.get("rate", 0)), int(order.get("closed", 0))
            self.stopped = bool(order.get("stop"))
            self.changed.set()
            if self.stopped:
                return
        self.stopped = True
        self.changed.set()


def is_right(found, right):
    return any(abs(found - expected) < rest.TOLERANCE for expected in right)


async def main(kind, address, host, rows):
    with open(rows, encoding="utf-8") as file:
        rows = json.load(file)
    requests = KINDS[kind](address, host)
    for row in rows:
        row["body"] = requests.body(row["row"])
    load = Load(requests, rows)
    reporting = asyncio.create_task(load.report())
    obeying = asyncio.create_task(load.obey())
    await load.run()
    await asyncio.gather(reporting, obeying)
    await requests.close()
    load.tell(counts=dict(load.counts), latencies=load.latencies, at=time.time(), lag_ms=0, ended=True)
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
