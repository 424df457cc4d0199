"""gRPC: typed and raw contents, where they may stand, and the codes of errors."""

import grpc
import numpy as np
from oip.grpc import infer_request, pb, read_reply
from oip.tensors import Given, need, texts
from tritonclient.grpc import service_pb2_grpc

from .inference import check_pair, floats, pair
from .registry import ALL, GRPC, case, equal, invalid, refusal

NAME = "ModelInferRequest"


def ask(view, request):
    return read_reply(view.grpc.call("ModelInfer", request))


def refused(view, request, what):
    invalid(lambda: ask(view, request), what)
    good = pair()
    check_pair(ask(view, infer_request("add_sub", good)), good)


def changed(raw, change):
    request = infer_request("add_sub", pair(), raw=raw)
    change(request)
    return request


def shorten(request):
    request.raw_input_contents[0] = request.raw_input_contents[0][:-4]


def lengthen(request):
    request.raw_input_contents[0] += b"1234"


def odd(request):
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]


def drop(request):
    del request.raw_input_contents[1]


def add(request):
    request.raw_input_contents.append(b"")


def mix(request):
    request.inputs[0].contents.fp32_contents.extend([0.0] * 8)


def half(request):
    del request.raw_input_contents[:]
    request.raw_input_contents.append(b"\0" * 32)
    request.inputs[1].contents.fp32_contents.extend([0.0] * 8)


RAW = {
    "too short": shorten,
    "too long": lengthen,
    "no whole element": odd,
    "one too few": drop,
    "one too many": add,
    "contents as well": mix,
    "one raw, one not": half,
}


@case(f"{NAME}/raw_input_contents: refused", GRPC, ["add_sub"], each=tuple(RAW))
def raw_contents_are(view):
    refused(view, changed(True, RAW[view.each]), f"raw contents: {view.each}")


def fewer(request):
    del request.inputs[0].contents.fp32_contents[-1]


def more(request):
    request.inputs[0].contents.fp32_contents.append(1)


def other_field(request):
    del request.inputs[0].contents.fp32_contents[:]
    request.inputs[0].contents.int_contents.extend(range(8))


def two_fields(request):
    request.inputs[0].contents.int_contents.extend(range(8))


def none(request):
    request.inputs[0].ClearField("contents")


TYPED = {"too few": fewer, "too many": more, "of another type": other_field, "of two types": two_fields, "none": none}


@case(f"{NAME}/InferTensorContents: refused", GRPC, ["add_sub"], each=tuple(TYPED))
def typed_contents_are(view):
    refused(view, changed(False, TYPED[view.each]), f"contents: {view.each}")


@case(f"{NAME}/InferTensorContents: values outside the datatype", GRPC, lambda d: [f"identity_{d.lower()}"], each=("INT8", "INT16", "UINT8", "UINT16"))
def contents_out_of_range(view):
    request = pb.ModelInferRequest(model_name=f"identity_{view.each.lower()}")
    tensor = request.inputs.add(name="x", datatype=view.each, shape=[1, 1])
    contents = tensor.contents.uint_contents if view.each[0] == "U" else tensor.contents.int_contents
    contents.append(70_000)
    invalid(lambda: ask(view, request), f"70000 as {view.each}")


@case("ModelInferResponse/raw_output_contents: for all outputs or none", GRPC, ["add_sub"], each=("typed", "raw"))
def contents_of_the_answer(view):
    given = pair()
    response = view.grpc.call("ModelInfer", infer_request("add_sub", given, raw=view.each == "raw"))
    raw = len(response.raw_output_contents)
    need(raw in (0, len(response.outputs)), f"{raw} raw contents for {len(response.outputs)} outputs")
    check_pair(read_reply(response), given)


@case(f"{NAME}/raw_input_contents: in the order of the inputs", GRPC, ["add_sub"])
def raw_order(view):
    given = pair()
    check_pair(ask(view, infer_request("add_sub", given[::-1])), given)


@case(f"{NAME}/model_name: required", GRPC)
def no_model_name(view):
    refused = refusal(lambda: ask(view, infer_request("", pair())), "an inference of no model")
    need(refused.kind in ("invalid", "not_found"), f"refused as {refused}")


@case("google.rpc.Status: INVALID_ARGUMENT with a message", GRPC, ["add_sub"])
def invalid_argument(view):
    refused = refusal(lambda: ask(view, infer_request("add_sub", [Given("a", floats(2, 4))])), "a missing input")
    equal((refused.code, bool(refused.message)), ("INVALID_ARGUMENT", True), "code and message")


@case("google.rpc.Status: NOT_FOUND with a message that names the model", GRPC, level="recommended")
def not_found_names_the_model(view):
    refused = refusal(lambda: ask(view, infer_request("no_such_model", pair())), "an unknown model")
    need(refused.code == "NOT_FOUND" and "no_such_model" in refused.message, f"refused as {refused}")


@case("gRPC: an unknown method is UNIMPLEMENTED", GRPC)
def unknown_method(view):
    call = view.grpc.channel.unary_unary("/inference.GRPCInferenceService/NoSuchMethod")
    try:
        call(b"", timeout=10)
    except grpc.RpcError as error:
        equal(error.code(), grpc.StatusCode.UNIMPLEMENTED, "code")
    else:
        need(False, "an unknown method was answered")


@case("gRPC: a message that is none is refused", GRPC, ["add_sub"])
def garbage(view):
    call = view.grpc.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    try:
        call(b"\xff\xff\xff\xff", timeout=10)
    except grpc.RpcError as error:
        need(error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), f"code {error.code().name}")
    else:
        need(False, "garbage was answered")
    good = pair()
    check_pair(ask(view, infer_request("add_sub", good)), good)


@case("gRPC: unknown fields are ignored", GRPC, ["add_sub"])
def unknown_fields(view):
    given = pair()
    message = infer_request("add_sub", given).SerializeToString() + b"\xfa\x3f\x03abc"
    call = view.grpc.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer", response_deserializer=pb.ModelInferResponse.FromString)
    check_pair(read_reply(call(message, timeout=10)), given)


@case("gRPC: many calls on one connection", GRPC, ["identity_bytes"])
def many_calls(view):
    futures = []
    stub = service_pb2_grpc.GRPCInferenceServiceStub(view.grpc.channel)
    for k in range(100):
        request = infer_request("identity_bytes", [Given("x", texts(f"call {k}").reshape(1, 1))], id=str(k))
        futures.append(stub.ModelInfer.future(request, timeout=20))
    for k, future in enumerate(futures):
        reply = read_reply(future.result())
        equal((reply.id, reply.outputs["y"].array[0, 0]), (str(k), f"call {k}".encode()), "id and element")


@case("gRPC: server reflection lists the service", GRPC, level="recommended")
def reflection(view):
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    services = ProtoReflectionDescriptorDatabase(view.grpc.channel).get_services()
    need("inference.GRPCInferenceService" in services, f"services are {list(services)}")


@case("Inference: REST and gRPC give the same elements", ("grpc-raw",), ["scores"])
def same_over_all_wires(view):
    x = np.random.default_rng(3).standard_normal((7, 5)).astype(np.float32)
    found = {wire: view.on(wire).infer("scores", [Given("x", x)]).outputs["scores"].array for wire in ALL if wire != "binary"}
    for wire, array in found.items():
        need(np.array_equal(array, x), f"{wire} differs")
