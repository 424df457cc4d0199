"""Whether the clients see what they are there to see: a server on loopback that answers right, wrong, late, in halves or not at all. A rig that
counts nothing would find nothing. `client_test.py PYTHON`: the interpreter of the clients."""

import asyncio
import json
import pathlib
import socket
import struct
import sys
import tempfile
import threading
import time

from load import Client

REQUESTS = 40
RIGHT, WRONG = 0.25, 0.75
# What the server does, and the word that the client must have for it; none where nothing is wrong.
ANSWERS = {
    "right": None, "wrong": "wrong answer", "status 503": "refused: status 503", "late": "late", "closes": "EOFError", "resets": "Connection", "half": "EOFError",
    "nonsense": "JSONDecodeError", "null": "TypeError", "two": "ValueError",
}


def body(probability):
    return json.dumps({"outputs": [{"name": "p", "datatype": "FP32", "shape": [1, 2], "data": [1 - probability, probability]}]}).encode()


def answer(status, content):
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content


async def serve(how, reader, writer):
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            if how == "late":
                await asyncio.sleep(2.3)
            if how == "resets":
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return
            writer.write({"right": answer(200, body(RIGHT)), "late": answer(200, body(RIGHT)), "wrong": answer(200, body(WRONG)),
                          "status 503": answer(503, b"full"), "closes": b"", "half": answer(200, body(RIGHT))[:-5],
                          "nonsense": answer(200, b"[not JSON"), "null": answer(200, b"null"), "two": answer(200, body(RIGHT)) * 2}[how])
            await writer.drain()
            if how in ("closes", "half") or b"connection: close" in head.lower():
                break
    except (asyncio.IncompleteReadError, ConnectionError, IndexError):
        pass
    writer.close()


def server(how):
    """Its port; it ends with the process."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    port = []

    async def start():
        listening = await asyncio.start_server(lambda *streams: serve(how, *streams), "127.0.0.1", 0)
        port.append(listening.sockets[0].getsockname()[1])
        started.set()
        await listening.serve_forever()

    threading.Thread(target=lambda: loop.run_until_complete(start()), daemon=True).start()
    started.wait(5)
    return port[0]


def ask(python, kind, port, rows):
    """What a client makes of it: sent, failed, and its words."""
    words = []
    client = Client(python, kind, f"127.0.0.1:{port}", "soak.soak", rows, lambda failure: words.append(failure.problem))
    client.order(rate=100)
    deadline = time.monotonic() + 20
    while client.sent() < REQUESTS and time.monotonic() < deadline:
        time.sleep(0.1)
    client.order(stop=True)
    client.process.wait(timeout=20)
    client.thread.join(timeout=5)
    return client.sent(), client.counts.get("failed", 0), words


def main(python):
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        rows = pathlib.Path(folder) / "rows.json"
        rows.write_text(json.dumps([{"row": [1.0, 2.0], "right": [RIGHT]}]))
        cases = [(kind, how, word, server(how)) for kind in ("kept", "fresh") for how, word in ANSWERS.items()]
        # Nobody is there at all; and something that speaks no gRPC is no right answer either.
        cases += [("kept", "refused", "Connection", 1), ("fresh", "refused", "Connection", 1), ("grpc", "refused", "UNAVAILABLE", 1),
                  ("grpc", "closes", "refused", server("closes"))]
        for kind, how, word, port in cases:
            sent, failed, words = ask(python, kind, port, str(rows))
            expected = 0 if word is None else sent
            seen = sent >= REQUESTS and failed == expected and all(word in said for said in words)
            wrong += not seen
            print(f"{'passed' if seen else 'FAILED'}  {kind}, server {how}: {failed} of {sent} failed{': ' + words[0] if words else ''}", flush=True)
    print(f"what clients see: {len(cases) - wrong} of {len(cases)} passed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
