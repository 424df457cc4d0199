"""HTTP as clients really speak it: kept connections, chunks, pipelines, half requests, HTTP/2."""

import json
import shutil
import socket
import subprocess

from oip.rest import json_request, read_reply
from oip.tensors import need

from .inference import check_pair, pair
from .registry import REST, case, equal

PATH = "/v2/models/add_sub/infer"
NAME = "HTTP"


def talk(view, sent, enough, then=None):
    """What comes back on a socket of its own until `enough` says so, the server closes or five seconds pass."""
    with socket.create_connection((view.rest.host, view.rest.port), timeout=5) as connection:
        connection.sendall(sent)
        got = b""
        while not enough(got):
            try:
                part = connection.recv(65536)
            except TimeoutError:
                break
            if not part:
                break
            got += part
            if then is not None and b"100 Continue" in got:
                connection.sendall(then)
                then = None
        return got


def request(body, *lines):
    head = [f"POST {PATH} HTTP/1.1", "Host: x", "Content-Type: application/json", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def answered(got, count=1):
    return got.count(b"HTTP/1.1 200") >= count and got.count(b'"outputs"') >= count and got.endswith((b"}", b"\r\n\r\n", b"\n"))


@case(f"{NAME}/1.1: a connection is kept", REST, ["add_sub"])
def keeps_connections(view):
    body = json.dumps(json_request(pair())).encode()
    one = request(body, f"Content-Length: {len(body)}")
    with socket.create_connection((view.rest.host, view.rest.port), timeout=5) as connection:
        for _ in range(3):
            connection.sendall(one)
            got = b""
            while not answered(got):
                part = connection.recv(65536)
                need(part, "the connection was closed")
                got += part


@case(f"{NAME}/1.1: requests in a row without waiting", REST, ["add_sub"])
def pipelined(view):
    body = json.dumps(json_request(pair())).encode()
    one = request(body, f"Content-Length: {len(body)}")
    got = talk(view, one * 3, lambda got: answered(got, 3))
    equal(got.count(b"HTTP/1.1 200"), 3, "answers")


@case(f"{NAME}/1.1: a body in chunks", REST, ["add_sub"])
def chunked(view):
    body = json.dumps(json_request(pair())).encode()
    parts = [body[:10], body[10:11], body[11:]]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"
    got = talk(view, request(chunks, "Transfer-Encoding: chunked"), answered)
    need(got.startswith(b"HTTP/1.1 200"), f"answered {got[:80]!r}")


@case(f"{NAME}/1.1: Expect: 100-continue", REST, ["add_sub"], level="recommended")
def expects_continue(view):
    body = json.dumps(json_request(pair())).encode()
    got = talk(view, request(b"", f"Content-Length: {len(body)}", "Expect: 100-continue"), answered, then=body)
    need(b"HTTP/1.1 200" in got, f"answered {got[:80]!r}")


@case(f"{NAME}: no content type is no error", REST, ["add_sub"], level="recommended")
def without_content_type(view):
    given = pair()
    answer = view.rest.call("POST", PATH, json.dumps(json_request(given)).encode(), {})
    check_pair(read_reply(answer), given)


@case(f"{NAME}: header names in any case", REST, ["add_sub"])
def header_case(view):
    body = json.dumps(json_request(pair())).encode()
    got = talk(view, request(body, f"CONTENT-LENGTH: {len(body)}"), answered)
    need(got.startswith(b"HTTP/1.1 200"), f"answered {got[:80]!r}")


BAD = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a negative length": b"POST /v2/models/add_sub/infer HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    "two lengths": b"POST /v2/models/add_sub/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "a chunk of no size": b"POST /v2/models/add_sub/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a header of 300 kB": b"GET /v2 HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 300_000 + b"\r\n\r\n",
}


@case(f"{NAME}: what is no request hurts nobody", REST, ["add_sub"], each=tuple(BAD))
def bad_requests(view):
    try:
        got = talk(view, BAD[view.each], lambda got: b"\r\n\r\n" in got)
    except (ConnectionError, BrokenPipeError):
        got = b""
    # A long header may be read or refused; what is malformed may not be answered as if it were not.
    need(b" 200 " not in got[:16] or "300 kB" in view.each, f"answered {got[:80]!r}")
    given = pair()
    check_pair(read_reply(view.rest.post(PATH, json_request(given))), given)


@case(f"{NAME}: a client that leaves within its request hurts nobody", REST, ["add_sub"])
def aborted(view):
    for _ in range(20):
        with socket.create_connection((view.rest.host, view.rest.port), timeout=5) as connection:
            connection.sendall(request(b'{"inputs": [', "Content-Length: 5000"))
    given = pair()
    check_pair(read_reply(view.rest.post(PATH, json_request(given))), given)


@case(f"{NAME}/2: prior knowledge, in clear", REST, ["add_sub"], level="recommended")
def http2(view):
    curl = shutil.which("curl")
    need(curl, "curl is not installed")
    body = json.dumps(json_request(pair()))
    url = f"http://{view.rest.host}:{view.rest.port}{PATH}"
    done = subprocess.run(
        [curl, "-s", "-m", "10", "--http2-prior-knowledge", "-w", "\n%{http_version} %{http_code}", "-d", body, url],
        capture_output=True, text=True, check=False,
    )
    equal(done.stdout.rsplit("\n", 1)[-1], "2 200", "HTTP version and status")
