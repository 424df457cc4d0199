"""Server and model metadata."""

from models import MIXED, ONNX_TYPES
from oip.grpc import pb
from oip.rest import Refused
from oip.tensors import need

from .registry import GRPC, REST, absent, case, equal, not_found

SERVER, MODEL = "Server Metadata", "Model Metadata"

def rest_model(view, name, version=None):
    answer = view.rest.get(f"/v2/models/{name}" + (f"/versions/{version}" if version else ""))
    if answer.status != 200:
        raise Refused("not_found" if answer.status == 404 else "other", answer.status, answer.error())
    return answer.json()


def rpc_model(view, name, version=""):
    reply = view.grpc.call("ModelMetadata", pb.ModelMetadataRequest(name=name, version=version))
    def tensors(given):
        return [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in given]

    return {
        "name": reply.name,
        "versions": list(reply.versions),
        "platform": reply.platform,
        "inputs": tensors(reply.inputs),
        "outputs": tensors(reply.outputs),
    }


def signature(document):
    return [
        [(t["name"], t["datatype"], t["shape"]) for t in document[side]]
        for side in ("inputs", "outputs")
    ]


@case(f"{SERVER} Response/name, version", REST)
def names_itself(view):
    answer = view.rest.get("/v2")
    equal(answer.status, 200, "status")
    for field in ("name", "version"):
        value = answer.json().get(field)
        need(isinstance(value, str) and value, f"{field} is {value!r}")


@case(f"{SERVER} Response/extensions", REST)
def lists_extensions(view):
    extensions = view.rest.get("/v2").json().get("extensions")
    need(isinstance(extensions, list) and all(isinstance(e, str) for e in extensions), f"extensions are {extensions!r}")


@case(f"{SERVER}: content type", REST)
def metadata_is_json(view):
    equal(view.rest.get("/v2").headers.get("content-type", "").split(";")[0], "application/json", "content type")


@case(f"{SERVER}Response/name, version", GRPC)
def names_itself_rpc(view):
    reply = view.grpc.call("ServerMetadata", pb.ServerMetadataRequest())
    need(reply.name and reply.version, f"name {reply.name!r}, version {reply.version!r}")


@case(f"{SERVER}: the same over REST and gRPC", GRPC, level="recommended")
def both_tell_the_same(view):
    reply = view.grpc.call("ServerMetadata", pb.ServerMetadataRequest())
    document = view.rest.get("/v2").json()
    told = (reply.name, reply.version, sorted(reply.extensions))
    equal(told, (document["name"], document["version"], sorted(document["extensions"])), "metadata")


def of(view, *arguments):
    return rpc_model(view, *arguments) if view.case.wire == "rpc" else rest_model(view, *arguments)


BOTH = REST + GRPC


@case(f"{MODEL} Response/name", BOTH, ["add_sub"])
def model_name(view):
    equal(of(view, "add_sub")["name"], "add_sub", "name")


@case(f"{MODEL} Response/versions", BOTH, ["versioned"], versions=True)
def model_versions(view):
    equal(sorted(of(view, "versioned").get("versions") or []), ["1", "2"], "versions")


@case(f"{MODEL} Response/platform", BOTH, ["add_sub"])
def model_platform(view):
    platform = of(view, "add_sub").get("platform")
    need(isinstance(platform, str) and platform, f"platform is {platform!r}")


@case(f"{MODEL}: platform names are <project>_<format>", BOTH, ["add_sub"], level="recommended")
def model_platform_form(view):
    need("_" in of(view, "add_sub")["platform"], f"platform is {of(view, 'add_sub')['platform']!r}")


@case(f"{MODEL} Response/inputs, outputs", BOTH, ["add_sub"])
def model_tensors(view):
    wide = ("FP32", [-1, 4])
    wanted = [[(n, *wide) for n in ("a", "b")], [(n, *wide) for n in ("sum", "difference")]]
    equal(signature(of(view, "add_sub")), wanted, "inputs and outputs")


@case(f"{MODEL}/shape: fixed dimensions", BOTH, ["fixed"])
def model_fixed_shape(view):
    equal(signature(of(view, "fixed"))[0], [("x", "FP32", [2, 3])], "inputs")


@case(f"{MODEL}/shape: variable dimensions are -1", BOTH, ["transpose"])
def model_variable_shape(view):
    equal(signature(of(view, "transpose"))[0], [("x", "INT32", [-1, -1, -1])], "inputs")


@case(f"{MODEL}/shape: a scalar has none", BOTH, ["scalar"])
def model_scalar_shape(view):
    equal(signature(of(view, "scalar")), [[("x", "FP32", [])], [("y", "FP32", [])]], "inputs and outputs")


@case(f"{MODEL}/datatype: those of the table", BOTH, ["mixed"])
def model_datatypes(view):
    equal(signature(of(view, "mixed"))[0], [(n, d, [-1]) for n, d in MIXED.items()], "inputs")


def identity_of(datatype):
    return [f"identity_{datatype.lower()}"]


@case(f"{MODEL}/datatype", BOTH, identity_of, each=tuple(ONNX_TYPES))
def model_datatype(view):
    equal(signature(of(view, *identity_of(view.each)))[0], [("x", view.each, [-1, -1])], "inputs")


@case(f"{MODEL}: many tensors, in the model's order", BOTH, ["many"])
def model_order(view):
    inputs, outputs = signature(of(view, "many"))
    equal([t[0] for t in inputs + outputs], [f"{side}{k}" for side in "io" for k in range(16)], "names")


@case(f"{MODEL}: of a version", BOTH, ["versioned"], versions=True)
def model_of_a_version(view):
    equal(of(view, "versioned", "1")["name"], "versioned", "name")


@case(f"{MODEL}: an unknown model is an error", BOTH)
def unknown_model(view):
    absent(lambda: of(view, "no_such_model"), "metadata of an unknown model")


@case(f"{MODEL}: an unknown model is 404 or NOT_FOUND", BOTH, level="recommended")
def unknown_model_code(view):
    not_found(lambda: of(view, "no_such_model"), "metadata of an unknown model")


@case(f"{MODEL}: an unknown version is an error", BOTH, ["add_sub"])
def unknown_version(view):
    absent(lambda: of(view, "add_sub", "977"), "metadata of an unknown version")


@case(f"{MODEL}: the same over REST and gRPC", GRPC, ["add_sub", "mixed"], level="recommended")
def model_same_over_both(view):
    for name in ("add_sub", "mixed"):
        equal(signature(rpc_model(view, name)), signature(rest_model(view, name)), f"signature of {name}")


@case(f"{MODEL}: sequence and map outputs are described or the model is refused at load", REST)
def model_with_a_zipmap(view):
    answer = view.rest.get("/v2/models/zipmap")
    if answer.status != 200:
        need(400 <= answer.status < 600, f"status {answer.status}")
        need(answer.error(), "no reason")
        return
    for tensor in answer.json()["outputs"]:
        need(tensor["datatype"] in ONNX_TYPES, f"output {tensor} has a datatype that is none of the protocol's")
