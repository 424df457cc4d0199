"""The REST clients: HTTP/1.1 on a raw socket, one request at a time on a connection, on kept connections or on a new one each."""

import asyncio
import collections
import json

DEADLINE_SECONDS = 2.0
TOLERANCE = 2e-4
MOST_IDLE = 64


class Refused(Exception):
    """An answer that is no 2xx."""

    def __init__(self, status, body, revision):
        super().__init__(f"status {status}: {body[:200]!r}")
        self.revision = revision


class Connection(asyncio.Protocol):
    """Reads one answer after the other."""

    def __init__(self):
        self.transport, self.answer, self.received, self.is_open = None, None, b"", False

    def connection_made(self, transport):
        self.transport, self.is_open = transport, True

    def ask(self, request):
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer

    def data_received(self, data):
        self.received += data
        if not self.answer or self.answer.done():
            # Nobody asked: whatever it is, nothing more can be read here.
            self.transport.abort()
            return
        try:
            parsed = parse(self.received)
        except ValueError as error:
            self.answer.set_exception(error)
            return
        if parsed:
            self.received = b""
            self.answer.set_result(parsed)

    def eof_received(self):
        self.is_open = False

    def connection_lost(self, error):
        self.is_open = False
        if self.answer and not self.answer.done():
            self.answer.set_exception(error or EOFError("the connection was closed before an answer"))


def parse(data):
    """Status, headers and body of a whole answer; nothing where more is to come."""
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    status = int(first.split(" ")[1])
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = joined(rest)
        return None if body is None else (status, headers, body)
    if len(rest) > (length := int(headers["content-length"])):
        raise ValueError(f"{len(rest) - length} bytes behind the answer")
    return (status, headers, rest) if len(rest) == length else None


def joined(rest):
    """The body of chunks; nothing where more is to come."""
    body = b""
    while True:
        size, found, rest = rest.partition(b"\r\n")
        if not found:
            return None
        size = int(size.split(b";")[0], 16)
        if len(rest) < size + 2:
            return None
        if size == 0:
            return body
        body, rest = body + rest[:size], rest[size + 2:]


class Rest:
    """What both kinds share."""

    keeps = True

    def __init__(self, address, host):
        (self.host, port), self.name = address.rsplit(":", 1), host
        self.port, self.model = int(port), host.split(".")[0]

    def body(self, row):
        """The whole request for a row, as it goes over the wire."""
        body = json.dumps({"inputs": [{"name": "X", "shape": [1, len(row)], "datatype": "FP32", "data": row}]}).encode()
        lines = [f"POST /v2/models/{self.model}/infer HTTP/1.1", f"host: {self.name}", "content-type: application/json",
                 f"content-length: {len(body)}", *([] if self.keeps else ["connection: close"])]
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def open(self):
        _, connection = await asyncio.get_running_loop().create_connection(Connection, self.host, self.port)
        return connection

    async def ask(self, request):
        """The revision that answered, and the probability it gave."""
        connection = await self.take()
        try:
            status, headers, body = await connection.ask(request)
        except BaseException:
            # Also when the time is over: an answer that comes later must meet nobody.
            connection.transport.abort()
            raise
        if self.keeps and connection.is_open and headers.get("connection", "").lower() != "close":
            self.give_back(connection)
        else:
            connection.transport.close()
        revision = headers.get("x-millrace-revision")
        if status // 100 != 2:
            raise Refused(status, body, revision)
        return revision, probability(json.loads(body))


def probability(answer):
    """That of the second class."""
    for output in answer["outputs"]:
        if output["datatype"] in ("FP32", "FP64") and len(output["data"]) == 2:
            return float(output["data"][1])
    raise ValueError(f"no probabilities in {answer}")


class Kept(Rest):
    """Connections are kept and used in turn, so that each one is used often: an idle one that ends is dropped, as every client does."""

    def __init__(self, address, host):
        super().__init__(address, host)
        self.idle = collections.deque()

    async def take(self):
        while self.idle:
            if (connection := self.idle.popleft()).is_open:
                return connection
            connection.transport.close()
        return await self.open()

    def give_back(self, connection):
        if len(self.idle) < MOST_IDLE:
            self.idle.append(connection)
        else:
            connection.transport.close()

    async def close(self):
        for connection in self.idle:
            connection.transport.close()


class Fresh(Rest):
    """A connection for each request."""

    keeps = False

    async def take(self):
        return await self.open()

    async def close(self):
        """Nothing is kept."""
