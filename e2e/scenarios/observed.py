"""What servers keep and write down: answers for equal inputs, which are counted; requests with their answers as Parquet files in the namespace's
store and as events for a sink over HTTP; a span for the collector of a request whose caller traces it, and lines of the access log. A log whose
bucket does not exist is told by the service's status, and requests go on."""

import http.client
import io
import json
import re
import secrets

import numpy as np
import pyarrow.parquet

from kube import Failed, at_once, condition, kubectl, say, wait
from script_pod import ScriptPod
from served import NS, ROW, address_that_answers, approved, body, server_selector, status_of
from store import Store

KEEPING, LOSING, TELLING = "observed", "observed-losing", "observed-telling"
FOLDER = "inference-log"
EVENTS_PORT, SPANS_PORT = 8000, 4317
ROWS = [[float(delay), *ROW[1:]] for delay in range(1, 6)]
# Of one tensor: as many as ten rows have.
MOST_ELEMENTS = 10 * len(ROW)

# Prints each event that is posted to its port, and the bytes of all that is sent to the port behind it. A client of HTTP/2 sends its first requests
# before it has heard anything, and ids are in them as they are.
SINKS = """
import http.server, socketserver, sys, threading
lock = threading.Lock()
def tell(what, text):
    with lock:
        print(what, text)
class Events(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        tell("event", self.rfile.read(int(self.headers["content-length"])).decode())
        self.send_response(202)
        self.end_headers()
class Spans(socketserver.BaseRequestHandler):
    def handle(self):
        received = b""
        while part := self.request.recv(65536):
            received += part
            tell("spans", received.hex())
ports = [int(port) for port in sys.argv[1:]]
spans = socketserver.ThreadingTCPServer(("0.0.0.0", ports[1]), Spans)
threading.Thread(target=spans.serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer(("0.0.0.0", ports[0]), Events).serve_forever()
"""


def service(name, version, **server):
    resources = {"requests": {"cpu": "50m", "memory": "64Mi"}}
    return json.dumps({"apiVersion": "millrace.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": name}, "spec": {
        "model": {"modelVersion": version}, "server": {"resources": resources, **server}}})


def asked(address, name, text, headers=None):
    """Status and answer of one request, in JSON."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("POST", f"/v2/models/{name}/infer", text, headers or {})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"a request to {name} was not answered: {error!r}") from error
    finally:
        connection.close()


def answered(address, name, request_id, row, **headers):
    """The outputs of one request, by their names; fails where there are none."""
    status, answer = asked(address, name, json.dumps({"id": request_id, **json.loads(body(row))}), headers)
    if status != 200:
        raise Failed(f"request {request_id} to {name} got {status}: {answer}")
    return {output["name"]: output["data"] for output in answer["outputs"]}


def serving(name):
    """Its address, once it serves."""
    wait(f"{name} serves", lambda: condition(NS.get("inferenceservice", name), "Ready")[0] == "True", 120, lambda: status_of(name).get("nextStep"))
    return address_that_answers(name)


def pod_of(name):
    """Its only server. One of an earlier run may be on its way out."""
    pods = [pod["metadata"] for pod in NS.list("pods", server_selector(name))]
    return next(pod["name"] for pod in pods if "deletionTimestamp" not in pod)


def counted(name, metric, label):
    """What the only server of a service has counted in the samples of a metric that have this label."""
    page = kubectl("get", "--raw", f"/api/v1/namespaces/{NS.name}/pods/{pod_of(name)}:9090/proxy/metrics")
    lines = [line for line in page.splitlines() if line.startswith(f"{metric}{{") and label in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def says(name, status, reason, meanwhile=lambda: None):
    """Waits until the condition says so; its message. The operator asks the servers every half minute."""
    said = lambda: condition(NS.get("inferenceservice", name), "PayloadLogReady")

    def look():
        meanwhile()
        return (now := said())[:2] == (status, reason) and now
    message = wait(f"PayloadLogReady of {name} is {status} for {reason}", look, 60, lambda: " ".join(said()))[2]
    say(f"  {name}: {message}")
    return message


def are_the_same(what, recorded, outputs):
    """The numbers of a record, and those that the client was answered: 32-bit floats in both, written otherwise."""
    if recorded.keys() != outputs.keys() or not all(np.allclose(recorded[name], outputs[name], rtol=1e-6) for name in outputs):
        raise Failed(f"{what} was answered {outputs}, and recorded with {recorded}")


def asks_twice(address):
    """Each row, and each again; what was answered, by the requests' ids. The second time the cache has it."""
    hits = lambda: counted(KEEPING, "millrace_server_cache_lookups_total", 'result="hit"')
    before = hits()
    ids = {f"{turn}-{number}": row for turn in ("once", "again") for number, row in enumerate(ROWS)}
    sent = {request_id: (row, answered(address, KEEPING, request_id, row)) for request_id, row in ids.items()}
    found = hits() - before
    say(f"  {found:.0f} of {len(sent)} requests were answered from the cache")
    if found != len(ROWS) or any(sent[f"once-{number}"] != sent[f"again-{number}"] for number in range(len(ROWS))):
        raise Failed(f"{len(ROWS)} requests were to be answered from the cache, {found:.0f} were: {sent}")
    return sent


def logged(store):
    """The rows of all files of the log."""
    columns = ["id", "model", "version", "digest", "inputs", "outputs"]
    files = [store.get(f"s3://{store.bucket}/{key}") for key in store.keys(f"{FOLDER}/")]
    return [row for file in files for row in pyarrow.parquet.read_table(io.BytesIO(file), columns=columns).to_pylist()]


def is_in_the_store(store, sent, version):
    ids = lambda: [row["id"] for row in logged(store)]
    wait(f"files in the store hold {len(sent)} requests", lambda: sent.keys() <= set(ids()), 30, lambda: f"there are {len(ids())}")
    spec, rows = version["spec"], [row for row in logged(store) if row["id"] in sent]
    source = {"model": KEEPING, "version": str(spec["version"]), "digest": spec["artifact"]["digest"]}
    for row in rows:
        inputs, outputs = sent[row["id"]]
        if row["inputs"] != {"X": {"shape": [1, len(inputs)], "data": inputs}} or not source.items() <= row.items():
            raise Failed(f"{row['id']} was sent {inputs} to {source}, the log has {row}")
        are_the_same(row["id"], {name: output["data"] for name, output in row["outputs"].items()}, outputs)
    keys = store.keys(f"{FOLDER}/")
    wrong = [key for key in keys if not re.fullmatch(rf"{FOLDER}/{KEEPING}/{spec['version']}/date=\d{{4}}-\d\d-\d\d/[^/]+\.parquet", key)]
    if wrong or len(rows) != len(sent):
        raise Failed(f"{len(sent)} requests were to be in the log once, {len(rows)} are; files elsewhere: {wrong}")
    say(f"  {len(rows)} requests with their answers are in {len(keys)} files, the newest {keys[-1]}")


def is_traced(address, sinks):
    """Of two requests that bring a trace the one is recorded whose caller records it; lines name both."""
    traces = {flag: secrets.token_hex(16) for flag in ("00", "01")}
    for flag, trace in traces.items():
        answered(address, KEEPING, f"traced-{flag}", ROW, traceparent=f"00-{trace}-{secrets.token_hex(8)}-{flag}")
    wait("the collector has a span of the request that is traced", lambda: traces["01"] in sinks.said(), 30)
    if traces["00"] in sinks.said():
        raise Failed(f"the collector has a span of trace {traces['00']}, whose caller does not record it")
    lines = lambda: [json.loads(line) for line in kubectl("logs", pod_of(KEEPING), namespace=NS.name).splitlines() if line.startswith("{")]
    found = lambda: {line["trace_id"]: (line["id"], line["status"]) for line in lines() if line.get("trace_id") in traces.values()}
    wanted = {trace: (f"traced-{flag}", 200) for flag, trace in traces.items()}
    wait("the access log has a line of each", lambda: found() == wanted, 30, lambda: str(found()))


def keeps_and_writes(store, sinks, version):
    address = serving(KEEPING)
    sent = asks_twice(address)
    is_in_the_store(store, sent, version)
    is_traced(address, sinks)
    rows = MOST_ELEMENTS // len(ROW) + 1
    tensor = {"name": "X", "shape": [rows, len(ROW)], "datatype": "FP32", "data": ROW * rows}
    status, answer = asked(address, KEEPING, json.dumps({"inputs": [tensor]}))
    if status != 400:
        raise Failed(f"a tensor of more than {MOST_ELEMENTS} elements got {status}: {answer}")
    say(f"  limits: {answer['error']}")
    says(KEEPING, "True", "RecordsWritten")


def loses(uri):
    """Requests go on all the while, and the service is ready."""
    address, asked_for = serving(LOSING), 0

    def meanwhile():
        nonlocal asked_for
        asked_for += 1
        answered(address, LOSING, f"lost-{asked_for}", ROW)
    message = says(LOSING, "False", "RecordsLost", meanwhile)
    lost = counted(LOSING, "millrace_server_payload_log_records_total", 'outcome="dropped_sink"')
    say(f"  {asked_for} requests were answered, {lost:.0f} records were lost")
    ready = condition(NS.get("inferenceservice", LOSING), "Ready")
    if uri not in message or not lost or ready[0] != "True":
        raise Failed(f"{lost:.0f} records were lost, the service is {ready}, and the message does not name {uri}: {message}")


def tells(sinks):
    address = serving(TELLING)
    sent = {f"told-{number}": (row, answered(address, TELLING, f"told-{number}", row)) for number, row in enumerate(ROWS)}
    lines = lambda: [line.partition(" ")[2] for line in sinks.said().splitlines() if line.startswith("event ")]
    events = lambda: {event["id"]: event for event in map(json.loads, lines())}
    found = wait(f"the sink has events of {len(sent)} requests", lambda: sent.keys() <= (now := events()).keys() and now, 30, lambda: f"it has {len(events())}")
    for name, (row, outputs) in sent.items():
        event, data = found[name], found[name]["data"]
        kind = (event["specversion"], event["type"], event["source"])
        inputs = [(tensor["name"], tensor["shape"], tensor["data"]) for tensor in data["request"]["inputs"]]
        if kind != ("1.0", "dev.millrace.inference.v1", f"/v2/models/{TELLING}") or inputs != [("X", [1, len(row)], row)]:
            raise Failed(f"{name} was sent {row}, its event is {event}")
        are_the_same(name, {output["name"]: output["data"] for output in data["response"]["outputs"]}, outputs)
    says(TELLING, "True", "RecordsWritten")


def main():
    version, store = approved()[0], Store(NS)
    store.clear(f"{FOLDER}/")
    sinks = ScriptPod("observed-sinks", SINKS, EVENTS_PORT, str(SPANS_PORT))
    nowhere = f"s3://{store.bucket}-nowhere/{FOLDER}"
    try:
        sink, name = sinks.start(), version["metadata"]["name"]
        files = lambda uri: {"parquet": {"uri": uri, "maxSeconds": 1}}
        NS.apply(service(KEEPING, name, responseCache={"maxEntries": 1000, "maxBytes": 1048576}, payloadLog=files(f"s3://{store.bucket}/{FOLDER}"),
                         traces={"endpoint": f"http://{sink}:{SPANS_PORT}", "ratio": 0}, accessLog={}, limits={"tensorElements": MOST_ELEMENTS}))
        NS.apply(service(LOSING, name, payloadLog=files(nowhere)))
        NS.apply(service(TELLING, name, payloadLog={"cloudEvents": {"url": f"http://{sink}:{EVENTS_PORT}/events", "mode": "Structured"}}))
        at_once(lambda: keeps_and_writes(store, sinks, version), lambda: loses(nowhere), lambda: tells(sinks))
    finally:
        kubectl("delete", "inferenceservice", KEEPING, LOSING, TELLING, "--wait=false", "--ignore-not-found", namespace=NS.name, check=False)
        sinks.stop()


if __name__ == "__main__":
    main()
