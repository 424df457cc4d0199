"""gRPC, with typed contents and with raw contents. The stubs are those that `tritonclient` publishes, not the tested server's."""

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from .rest import SECONDS, Refused, Reply
from .tensors import NUMPY, Got, count, from_bytes, need, texts, to_bytes

CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
KINDS = {
    grpc.StatusCode.INVALID_ARGUMENT: "invalid",
    grpc.StatusCode.NOT_FOUND: "not_found",
    grpc.StatusCode.UNIMPLEMENTED: "unimplemented",
    grpc.StatusCode.UNAVAILABLE: "unavailable",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "exhausted",
    grpc.StatusCode.INTERNAL: "internal",
    grpc.StatusCode.UNKNOWN: "internal",
}


class Grpc:
    def __init__(self, address):
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(address, options=unlimited)
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def call(self, name, request):
        try:
            return getattr(self.stub, name)(request, timeout=SECONDS)
        except grpc.RpcError as error:
            need(error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED, f"{name}: no answer within {SECONDS} s")
            raise Refused(KINDS.get(error.code(), "other"), error.code().name, error.details() or "") from None


def set_parameters(target, parameters):
    for key, value in (parameters or {}).items():
        kind = "bool_param" if isinstance(value, bool) else "int64_param" if isinstance(value, int) else "string_param"
        setattr(target[key], kind, value)


def infer_request(model, inputs, outputs=None, id=None, version=None, parameters=None, raw=True):
    request = pb.ModelInferRequest(model_name=model, model_version=version or "", id=id or "")
    set_parameters(request.parameters, parameters)
    for given in inputs:
        tensor = request.inputs.add(name=given.name, datatype=given.datatype, shape=given.shape)
        set_parameters(tensor.parameters, given.parameters)
        if raw:
            request.raw_input_contents.append(to_bytes(given.array))
        else:
            getattr(tensor.contents, CONTENTS[given.true_datatype]).extend(given.array.reshape(-1).tolist())
    for wanted in outputs or []:
        wanted = wanted if isinstance(wanted, dict) else {"name": wanted}
        set_parameters(request.outputs.add(name=wanted["name"]).parameters, wanted.get("parameters"))
    return request


def read_reply(response):
    outputs = {}
    raw = list(response.raw_output_contents)
    if raw:
        need(len(raw) == len(response.outputs), f"{len(response.outputs)} outputs, {len(raw)} raw_output_contents")
    for place, output in enumerate(response.outputs):
        where, shape = f"output {output.name!r}", list(output.shape)
        need(all(d >= 0 for d in shape), f"{where}: shape is {shape}")
        need(output.datatype in NUMPY, f"{where}: datatype {output.datatype!r} is none of the protocol's")
        need(output.name not in outputs, f"{where} is given twice")
        if raw:
            need(not output.contents.ListFields(), f"{where} has contents as well as raw_output_contents")
            array = from_bytes(raw[place], output.datatype, shape, where)
        else:
            array = _contents(output, shape, where)
        outputs[output.name] = Got(output.name, output.datatype, shape, array, dict(output.parameters))
    return Reply(response.model_name, response.model_version or None, response.id or None, outputs, {})


def _contents(output, shape, where):
    need(output.datatype in CONTENTS, f"{where}: {output.datatype} must be raw_output_contents")
    wanted = CONTENTS[output.datatype]
    present = [descriptor.name for descriptor, _ in output.contents.ListFields()]
    need(set(present) <= {wanted}, f"{where}: {output.datatype} belongs into {wanted}, found {present}")
    values = list(getattr(output.contents, wanted))
    need(len(values) == count(shape), f"{where}: shape {shape} has {count(shape)} elements, the contents {len(values)}")
    if output.datatype == "BYTES":
        return texts(*values).reshape(shape)
    if "INT" in output.datatype:
        limits = np.iinfo(NUMPY[output.datatype])
        need(all(limits.min <= v <= limits.max for v in values), f"{where}: an element is outside {output.datatype}")
    return np.array(values, NUMPY[output.datatype]).reshape(shape)
