"""Whether the client of the demo tells that it broke: one that ends in silence sends nothing, and counts no failure. A server on loopback answers
what the client expects, or what no server should. `traffic_test.py` needs the standard library only."""

import http.server
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

DEADLINE_SECONDS = 30
RIGHT = {"outputs": [{"datatype": "FP32", "data": [0.25, 0.75]}]}
# A list in place of an output: the client's own code stumbles over it.
UNFORESEEN = {"outputs": [[0.25, 0.75]]}


def server(answer):
    body = json.dumps(answer).encode()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{served.server_port}/"


def until(what, look):
    end = time.monotonic() + DEADLINE_SECONDS
    while not (found := look()):
        if time.monotonic() > end:
            sys.exit(f"FAILED: waited {DEADLINE_SECONDS} s in vain for: {what}")
        time.sleep(0.02)
    return found


def played(answer):
    """The client's exit code and counts, after it was told to stop or has ended by itself."""
    with tempfile.TemporaryDirectory() as folder:
        rows, control, stats = (pathlib.Path(folder) / name for name in ("rows.json", "control.json", "stats.json"))
        rows.write_text(json.dumps({"all": [{"row": [1.0], "right": {"a": 0.75}}]}))
        control.write_text(json.dumps({"mix": {"all": 1}, "rate": 200}))
        client = subprocess.Popen([sys.executable, pathlib.Path(__file__).with_name("traffic.py"), server(answer), rows, control, stats], stderr=subprocess.PIPE)
        counted = lambda: stats.exists() and json.loads(stats.read_text())
        until("answers that are counted, or its end", lambda: client.poll() is not None or (counted() or {"sent": 0})["sent"])
        partial = control.with_suffix(".partial")
        partial.write_text(json.dumps({"mix": {"all": 1}, "rate": 200, "stop": True}))
        partial.rename(control)
        until("the client's end", lambda: client.poll() is not None)
        return client.returncode, counted()


def main():
    code, counts = played(RIGHT)
    if code != 0 or not counts["sent"] or counts["failed"]:
        sys.exit(f"FAILED: right answers end with {code}, {counts}")
    code, counts = played(UNFORESEEN)
    if code == 0:
        sys.exit(f"FAILED: a client whose threads broke ends with 0, {counts}")
    print("the client of the demo: 2 passed, 0 failed")


if __name__ == "__main__":
    main()
