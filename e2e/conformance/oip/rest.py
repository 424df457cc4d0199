"""REST, with JSON and with the binary tensor data extension: one connection a thread, every answer taken apart strictly."""

import http.client
import json
import threading
from dataclasses import dataclass
from urllib.parse import urlsplit

from .tensors import Given, Got, from_bytes, from_json, need, to_bytes, to_json

SECONDS = 20
HEADER = "Inference-Header-Content-Length"


@dataclass
class Answer:
    """What came back over HTTP."""

    status: int
    headers: dict
    body: bytes

    def json(self):
        return strict_json(self.body)

    def error(self):
        """The message of the protocol's error object."""
        document = self.json()
        need(isinstance(document, dict), f"error body is no object: {self.body[:120]!r}")
        need(isinstance(document.get("error"), str), f"error object has no string \"error\": {self.body[:120]!r}")
        need(document["error"] != "", "\"error\" is empty")
        return document["error"]


class Refused(Exception):
    """The server refused, by its protocol. `kind`: invalid, not_found, or what else the code says."""

    def __init__(self, kind, code, message):
        super().__init__(f"{code}: {message}")
        self.kind, self.code, self.message = kind, code, message


@dataclass
class Reply:
    """An inference answer in which every part has been checked against the others."""

    model_name: str
    model_version: str | None
    id: str | None
    outputs: dict
    headers: dict


def strict_json(body):
    def refuse(word):
        need(False, f"{word} is no JSON")

    try:
        return json.loads(body, parse_constant=refuse)
    except ValueError as error:
        need(False, f"no JSON: {error}: {body[:120]!r}")


class Rest:
    def __init__(self, url):
        parts = urlsplit(url if "//" in url else f"//{url}")
        self.host, self.port = parts.hostname, parts.port or 80
        self.prefix = parts.path.rstrip("/")
        self.local = threading.local()

    def call(self, method, path, body=None, headers=None):
        for attempt in range(2):
            connection, used = self._connection()
            try:
                connection.request(method, self.prefix + path, body, headers or {})
                response = connection.getresponse()
                answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self.close()
                # A server may close a connection that it kept; once is enough to know.
                if not used or attempt:
                    raise
                continue
            except BaseException:
                self.close()
                raise
            self.local.used = True
            if response.will_close:
                self.close()
            return answer

    def _connection(self):
        if getattr(self.local, "connection", None) is None:
            self.local.connection = http.client.HTTPConnection(self.host, self.port, timeout=SECONDS)
            self.local.used = False
        return self.local.connection, self.local.used

    def close(self):
        if getattr(self.local, "connection", None) is not None:
            self.local.connection.close()
            self.local.connection = None

    def get(self, path):
        return self.call("GET", path)

    def post(self, path, document=None, headers=None):
        """`document` is JSON to be, or bytes as they are."""
        body = document if isinstance(document, bytes) else json.dumps({} if document is None else document).encode()
        return self.call("POST", path, body, {"Content-Type": "application/json"} | (headers or {}))


def infer_path(model, version=None):
    return f"/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"


def json_request(inputs, outputs=None, id=None, parameters=None):
    document = {"inputs": [_json_input(given) for given in inputs]}
    return _request(document, outputs, id, parameters)


def binary_request(inputs, outputs=None, id=None, parameters=None, ask_binary=True, json_inputs=()):
    """The whole body and the length of its JSON. Inputs named in `json_inputs` stay JSON."""
    raw = [b"" if given.name in json_inputs else to_bytes(given.array) for given in inputs]
    described = []
    for given, data in zip(inputs, raw, strict=True):
        if given.name in json_inputs:
            described.append(_json_input(given))
        else:
            sized = {"binary_data_size": len(data)} | given.parameters
            described.append({"name": given.name, "shape": given.shape, "datatype": given.datatype, "parameters": sized})
    document = _request({"inputs": described}, outputs, id, parameters)
    if ask_binary:
        document["parameters"] = {"binary_data_output": True} | document.get("parameters", {})
    head = json.dumps(document).encode()
    return head + b"".join(raw), len(head)


def _json_input(given: Given):
    described = {"name": given.name, "shape": given.shape, "datatype": given.datatype, "data": to_json(given.array)}
    if given.parameters:
        described["parameters"] = given.parameters
    return described


def _request(document, outputs, id, parameters):
    if outputs is not None:
        document["outputs"] = [o if isinstance(o, dict) else {"name": o} for o in outputs]
    if id is not None:
        document["id"] = id
    if parameters is not None:
        document["parameters"] = parameters
    return document


def read_reply(answer):
    """A `Reply`, or raises `Refused`, or `Broken` where the answer contradicts itself."""
    if answer.status != 200:
        kinds = {400: "invalid", 404: "not_found", 413: "too_large", 415: "invalid", 422: "invalid", 429: "exhausted", 503: "unavailable"}
        raise Refused(kinds.get(answer.status, "internal" if answer.status >= 500 else "other"), answer.status, answer.error())
    head, rest = answer.body, b""
    given = answer.headers.get(HEADER.lower())
    if given is not None:
        need(given.isdigit() and int(given) <= len(answer.body), f"{HEADER} is {given!r}, the body has {len(answer.body)} bytes")
        head, rest = answer.body[: int(given)], answer.body[int(given) :]
    document = strict_json(head)
    need(isinstance(document, dict), "the answer is no object")
    for name, optional in (("model_name", False), ("model_version", True), ("id", True)):
        value = document.get(name)
        need(isinstance(value, str) or (optional and value is None), f"{name} is {value!r}")
    need(isinstance(document.get("outputs"), list), "the answer has no outputs")
    outputs = {}
    for described in document["outputs"]:
        output, rest = _read_output(described, rest)
        need(output.name not in outputs, f"output {output.name!r} is given twice")
        outputs[output.name] = output
    need(rest == b"", f"{len(rest)} bytes are left behind the last binary output")
    return Reply(document["model_name"], document.get("model_version"), document.get("id"), outputs, answer.headers)


def _read_output(described, rest):
    name, datatype, shape = (described.get(k) for k in ("name", "datatype", "shape"))
    where = f"output {name!r}"
    need(isinstance(name, str), f"{where}: its name is no string")
    need(isinstance(shape, list) and all(isinstance(d, int) and d >= 0 for d in shape), f"{where}: shape is {shape!r}")
    parameters = described.get("parameters") or {}
    size = parameters.get("binary_data_size")
    if size is None:
        need("data" in described, f"{where} has neither data nor binary_data_size")
        return Got(name, datatype, shape, from_json(described["data"], datatype, shape, where), parameters), rest
    need("data" not in described, f"{where} has both data and binary_data_size")
    need(isinstance(size, int) and 0 <= size <= len(rest), f"{where}: binary_data_size {size!r}, {len(rest)} bytes are left")
    return Got(name, datatype, shape, from_bytes(rest[:size], datatype, shape, where), parameters), rest[size:]
