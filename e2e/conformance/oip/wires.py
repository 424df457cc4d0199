"""The four ways to ask for an inference, behind one signature."""

from . import grpc as oip_grpc
from . import rest as oip_rest


class Json:
    name = "json"

    def __init__(self, target):
        self.rest = target.rest

    def infer(self, model, inputs, outputs=None, id=None, version=None, parameters=None):
        document = oip_rest.json_request(inputs, outputs, id, parameters)
        return oip_rest.read_reply(self.rest.post(oip_rest.infer_path(model, version), document))


class Binary:
    name = "binary"

    def __init__(self, target):
        self.rest = target.rest

    def infer(self, model, inputs, outputs=None, id=None, version=None, parameters=None, **how):
        body, head = oip_rest.binary_request(inputs, outputs, id, parameters, **how)
        return oip_rest.read_reply(self.send(model, body, head, version))

    def send(self, model, body, head, version=None):
        headers = {"Content-Type": "application/octet-stream", oip_rest.HEADER: str(head)}
        return self.rest.post(oip_rest.infer_path(model, version), body, headers)


class Typed:
    name = "grpc"
    raw = False

    def __init__(self, target):
        self.grpc = target.grpc

    def infer(self, model, inputs, outputs=None, id=None, version=None, parameters=None):
        request = oip_grpc.infer_request(model, inputs, outputs, id, version, parameters, self.raw)
        return oip_grpc.read_reply(self.grpc.call("ModelInfer", request))


class Raw(Typed):
    name = "grpc-raw"
    raw = True


WIRES = {wire.name: wire for wire in (Json, Binary, Typed, Raw)}
