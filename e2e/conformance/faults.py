"""The seeded bugs: what servers have got wrong, or could. Each is one small class; BUGS lists them."""

import json
import re
import struct
import threading
from dataclasses import replace

import grpc
from oip.grpc import pb
from oip.rest import HEADER, Answer
from oip.tensors import NUMPY, count
from proxy import Fault

JSON = {"content-type": "application/json"}
BUGS = []


def bug(name):
    """Lists a fault under what it does wrong."""

    def listed(kind):
        kind.name = name
        BUGS.append(kind)
        return kind

    return listed


def parts(body, headers):
    """(JSON document or None, binary rest) of a body."""
    head = headers.get(HEADER) or headers.get(HEADER.lower())
    length = int(head) if head and head.isdigit() else len(body)
    try:
        document = json.loads(body[:length])
    except ValueError:
        return None, b""
    return (document if isinstance(document, dict) else None), body[length:]


def joined(message, document, rest=None):
    """The message with another document in front of its binary part."""
    head = json.dumps(document).encode()
    old_rest = parts(message.body, message.headers)[1]
    name = next((k for k in message.headers if k.lower() == HEADER.lower()), None)
    headers = message.headers | ({name: str(len(head))} if name else {})
    return replace(message, body=head + (old_rest if rest is None else rest), headers=headers)


def is_infer(asked):
    return asked.path.endswith("/infer")


class Documents(Fault):
    """A fault in the JSON of inference requests or answers: override `request` or `response`, which change it in place."""

    def request(self, document):
        pass

    def response(self, document):
        pass

    def asked(self, asked):
        document, _ = parts(asked.body, asked.headers) if is_infer(asked) else (None, b"")
        if document is None or type(self).request is Documents.request:
            return asked
        try:
            self.request(document)
        except (AttributeError, LookupError, TypeError, ValueError):
            return asked
        return joined(asked, document)

    def answered(self, asked, answer):
        if not is_infer(asked) or answer.status != 200 or type(self).response is Documents.response:
            return answer
        document, _ = parts(answer.body, answer.headers)
        self.response(document)
        return joined(answer, document)


def data_outputs(document):
    return [o for o in document["outputs"] if "data" in o]


@bug("every model is ready over REST, whatever its name")
class AlwaysReady(Fault):
    def answered(self, asked, answer):
        found = re.fullmatch(r"/v2/models/(.*)/ready", asked.path)
        return Answer(200, JSON, json.dumps({"name": found[1], "ready": True}).encode()) if found else answer


@bug("an unknown model is answered by another one")
class AnyModel(Fault):
    def asked(self, asked):
        return replace(asked, path=asked.path.replace("no_such_model", "add_sub"))


@bug("an unknown version is answered by the newest")
class AnyVersion(Fault):
    def asked(self, asked):
        return replace(asked, path=re.sub(r"/versions/\d+", "", asked.path))


@bug("errors of the client are answered 500")
class ServerError(Fault):
    def answered(self, asked, answer):
        return replace(answer, status=500) if answer.status == 400 else answer


@bug("errors are answered 200")
class ErrorsAreFine(Fault):
    def answered(self, asked, answer):
        return replace(answer, status=200) if 400 <= answer.status < 500 else answer


@bug("errors are plain text")
class TextErrors(Fault):
    def answered(self, asked, answer):
        if answer.status < 400:
            return answer
        return Answer(answer.status, {"content-type": "text/plain"}, b"something went wrong")


@bug("the id is not returned over REST")
class NoId(Documents):
    def response(self, document):
        document.pop("id", None)


@bug("the id of an earlier request is returned")
class OldId(Documents):
    last = None

    def response(self, document):
        document["id"], self.last = self.last, document.get("id")
        if document["id"] is None:
            del document["id"]


@bug("model_version is always the newest")
class NewestVersion(Documents):
    def response(self, document):
        if document["model_name"] == "versioned":
            document["model_version"] = "2"


@bug("shapes are flattened in answers")
class FlatShapes(Documents):
    def response(self, document):
        for output in document["outputs"]:
            output["shape"] = [count(output["shape"])]


@bug("the data of two outputs are swapped")
class SwappedOutputs(Documents):
    def response(self, document):
        outputs = data_outputs(document)
        if len(outputs) == 2:
            outputs[0]["data"], outputs[1]["data"] = outputs[1]["data"], outputs[0]["data"]


@bug("the outputs that are asked for are ignored")
class AllOutputs(Documents):
    def request(self, document):
        document.pop("outputs", None)


@bug("FP64 is answered as FP32")
class WrongDatatype(Documents):
    def response(self, document):
        for output in document["outputs"]:
            output["datatype"] = output["datatype"].replace("FP64", "FP32")


@bug("numbers are printed with six digits")
class SixDigits(Documents):
    def response(self, document):
        for output in data_outputs(document):
            if output["datatype"] in ("FP32", "FP64"):
                output["data"] = [None if v is None else float(f"{v:.6g}") for v in output["data"]]


@bug("integers pass through doubles")
class ThroughDoubles(Documents):
    def response(self, document):
        for output in data_outputs(document):
            if output["datatype"] in ("INT64", "UINT64"):
                output["data"] = [min(int(float(v)), 2**63 - 1) for v in output["data"]]


@bug("text is read as Latin-1")
class Latin1(Documents):
    def response(self, document):
        for output in data_outputs(document):
            if output["datatype"] == "BYTES":
                output["data"] = [v.encode().decode("latin-1") for v in output["data"]]


@bug("a missing input is taken as zeros")
class ZerosForMissing(Documents):
    def request(self, document):
        if [i["name"] for i in document["inputs"]] == ["a"] and "data" in document["inputs"][0]:
            document["inputs"].append(document["inputs"][0] | {"name": "b", "data": [0] * 8})


@bug("an unknown input is ignored")
class IgnoresUnknown(Documents):
    def request(self, document):
        document["inputs"] = [i for i in document["inputs"] if i["name"] != "zz" or "data" not in i]


@bug("data are padded or cut to the shape")
class PadsData(Documents):
    def request(self, document):
        for given in document["inputs"]:
            wanted = count(given["shape"])
            if isinstance(given.get("data"), list) and 0 <= wanted < 1000 and not isinstance(given["data"][0], list):
                given["data"] = (given["data"] + [0] * wanted)[:wanted]


@bug("nested data are read column by column")
class ColumnMajor(Documents):
    def request(self, document):
        for given in document["inputs"]:
            rows = given.get("data")
            if rows and isinstance(rows[0], list):
                given["data"] = [row[k] for k in range(len(rows[0])) for row in rows]


@bug("rows of requests at the same time are mixed up")
class CrossTalk(Documents):
    def __init__(self):
        self.lock, self.waiting = threading.Lock(), None

    def response(self, document):
        with self.lock:
            other, self.waiting = self.waiting, None
            if other is None:
                mine = self.waiting = {"document": document, "met": threading.Event()}
        if other is None:
            # Waits for a neighbour as a batch does; alone it goes on unharmed.
            mine["met"].wait(0.004)
            with self.lock:
                self.waiting = None if self.waiting is mine else self.waiting
            return
        theirs = other["document"]
        if theirs["model_name"] == document["model_name"]:
            theirs["outputs"], document["outputs"] = document["outputs"], theirs["outputs"]
        other["met"].set()


@bug("variable dimensions are told as 1")
class OneForVariable(Fault):
    def answered(self, asked, answer):
        if not re.fullmatch(r"/v2/models/\w+", asked.path) or answer.status != 200:
            return answer
        return replace(answer, body=answer.body.replace(b"-1", b"1"))


@bug("binary outputs lack their last bytes")
class CutBinary(Fault):
    def answered(self, asked, answer):
        return replace(answer, body=answer.body[:-4]) if HEADER.lower() in answer.headers else answer


@bug("the length of the JSON is not told in binary answers")
class NoHeader(Fault):
    def answered(self, asked, answer):
        return replace(answer, headers={k: v for k, v in answer.headers.items() if k != HEADER.lower()})


@bug("binary_data: false is ignored")
class AlwaysBinary(Documents):
    def request(self, document):
        for output in document.get("outputs", []):
            output.get("parameters", {}).pop("binary_data", None)


@bug("binary outputs stand in another order than their descriptions")
class BinaryOrder(Documents):
    def response(self, document):
        document["outputs"].reverse()


@bug("lengths of BYTES elements are big-endian")
class BigEndian(Fault):
    def answered(self, asked, answer):
        document, rest = parts(answer.body, answer.headers) if is_infer(asked) and answer.status == 200 else (None, b"")
        if not rest or [o["datatype"] for o in document["outputs"]] != ["BYTES"]:
            return answer
        turned, at = b"", 0
        while at < len(rest):
            (length,) = struct.unpack_from("<I", rest, at)
            turned += struct.pack(">I", length) + rest[at + 4 : at + 4 + length]
            at += 4 + length
        return joined(answer, document, turned)


@bug("bytes behind the last binary input are ignored")
class TrailingBytes(Fault):
    def asked(self, asked):
        document, rest = parts(asked.body, asked.headers) if is_infer(asked) else (None, b"")
        if not document or not rest or not isinstance(document.get("inputs"), list):
            return asked
        sizes = [i.get("parameters", {}).get("binary_data_size", 0) for i in document["inputs"]]
        if not all(isinstance(s, int) and s >= 0 for s in sizes):
            return asked
        return replace(asked, body=asked.body[: len(asked.body) - len(rest) + sum(sizes)])


class Replies(Fault):
    """A fault in gRPC inference: override `request` or `response`, which change the message in place."""

    def request(self, message):
        pass

    def response(self, message):
        pass

    def rpc_asked(self, method, request):
        if method == "ModelInfer":
            self.request(request)
        return request

    def rpc_answered(self, method, request, reply):
        if method == "ModelInfer":
            self.response(reply)
        return reply


@bug("gRPC: every model is ready")
class RpcAlwaysReady(Fault):
    def rpc_answered(self, method, request, reply):
        return pb.ModelReadyResponse(ready=True) if method == "ModelReady" else reply

    def rpc_failed(self, method, request, code, details):
        return pb.ModelReadyResponse(ready=True) if method == "ModelReady" else (code, details)


@bug("gRPC: the id is not returned")
class RpcNoId(Replies):
    def response(self, message):
        message.id = ""


@bug("gRPC: errors of the client are INTERNAL")
class RpcInternal(Fault):
    def rpc_failed(self, method, request, code, details):
        return (grpc.StatusCode.INTERNAL if code is grpc.StatusCode.INVALID_ARGUMENT else code), details


@bug("gRPC: an unknown model is INVALID_ARGUMENT")
class RpcNotFound(Fault):
    def rpc_failed(self, method, request, code, details):
        return (grpc.StatusCode.INVALID_ARGUMENT if code is grpc.StatusCode.NOT_FOUND else code), details


@bug("gRPC: outputs stand in another order than their descriptions")
class RpcOrder(Replies):
    def response(self, message):
        described = list(message.outputs)[::-1]
        contents = [o.contents.FromString(o.contents.SerializeToString()) for o in message.outputs]
        described = [type(o).FromString(o.SerializeToString()) for o in described]
        del message.outputs[:]
        for output, content in zip(described, contents, strict=True):
            output.contents.CopyFrom(content)
        message.outputs.extend(described)


@bug("gRPC: contents beside raw contents are ignored")
class RpcMixed(Replies):
    def request(self, message):
        if len(message.raw_input_contents) == len(message.inputs):
            for given in message.inputs:
                given.ClearField("contents")


@bug("gRPC: raw contents are padded or cut to the shape")
class RpcPads(Replies):
    def request(self, message):
        raw = list(message.raw_input_contents)
        for place, given in enumerate(message.inputs[: len(raw)]):
            if given.datatype not in ("BYTES", "") and given.datatype in NUMPY and 0 <= count(given.shape) < 10_000:
                wanted = count(given.shape) * NUMPY[given.datatype].itemsize
                raw[place] = raw[place].ljust(wanted, b"\0")[:wanted]
        message.raw_input_contents[:] = raw


@bug("gRPC: typed UINT64 are cut to 32 bits")
class RpcNarrow(Replies):
    def request(self, message):
        for given in message.inputs:
            given.contents.uint64_contents[:] = [v & 0xFFFFFFFF for v in given.contents.uint64_contents]


@bug("gRPC: outputs without elements are left out")
class RpcNoEmpty(Replies):
    def response(self, message):
        kept = [k for k, o in enumerate(message.outputs) if count(o.shape) > 0]
        outputs = [type(message.outputs[k]).FromString(message.outputs[k].SerializeToString()) for k in kept]
        raw = [message.raw_output_contents[k] for k in kept] if message.raw_output_contents else []
        del message.outputs[:]
        message.outputs.extend(outputs)
        message.raw_output_contents[:] = raw


@bug("gRPC: the outputs that are asked for are ignored")
class RpcAllOutputs(Replies):
    def request(self, message):
        del message.outputs[:]


@bug("gRPC: 16-bit floats pass through each other's format")
class RpcHalf(Replies):
    def response(self, message):
        for place, output in enumerate(message.outputs):
            if output.datatype == "FP16" and message.raw_output_contents:
                raw = message.raw_output_contents[place]
                message.raw_output_contents[place] = b"".join(bytes([raw[k] & 0xF8, raw[k + 1]]) for k in range(0, len(raw), 2))


@bug("unload answers 200 and does nothing")
class NoUnload(Fault):
    def asked(self, asked):
        return Answer(200, JSON, b"{}") if asked.path.endswith("/unload") else asked


@bug("the repository index tells READY of everything")
class AllReady(Fault):
    def answered(self, asked, answer):
        if asked.path != "/v2/repository/index" or answer.status != 200:
            return answer
        return replace(answer, body=json.dumps([e | {"state": "READY"} for e in json.loads(answer.body)]).encode())


@bug("inference_count counts requests instead of rows")
class CountsRequests(Fault):
    def answered(self, asked, answer):
        if not asked.path.endswith("/stats") or answer.status != 200:
            return answer
        document = json.loads(answer.body)
        for stats in document["model_stats"]:
            stats["inference_count"] = stats["inference_stats"]["success"]["count"]
        return replace(answer, body=json.dumps(document).encode())


@bug("the lowest classes come first")
class LowestFirst(Documents):
    def response(self, document):
        for output in data_outputs(document):
            if document["model_name"] == "scores" and output["datatype"] == "BYTES":
                output["data"].reverse()
