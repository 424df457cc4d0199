"""The model configuration extension: what Triton's clients ask a server for before they measure it."""

from oip.grpc import pb
from oip.rest import Refused

from .registry import GRPC, REST, absent, case, equal

NAME = "Model Configuration"
HERE = {"wires": REST + GRPC, "extension": "model_configuration"}


def config(view, name, version=""):
    """(name, datatypes of inputs by name, names of outputs)."""
    if view.case.wire == "rpc":
        found = view.grpc.call("ModelConfig", pb.ModelConfigRequest(name=name, version=version)).config
        inputs = {i.name: type(i).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[i.data_type].name for i in found.input}
        return found.name, inputs, [o.name for o in found.output]
    answer = view.rest.get(f"/v2/models/{name}" + (f"/versions/{version}" if version else "") + "/config")
    if answer.status != 200:
        raise Refused("not_found" if answer.status == 404 else "other", answer.status, answer.error())
    found = answer.json()
    return found["name"], {i["name"]: i["data_type"] for i in found["input"]}, [o["name"] for o in found["output"]]


@case(f"{NAME}: name, inputs, outputs", models=["add_sub"], **HERE)
def names_tensors(view):
    wanted = ("add_sub", {"a": "TYPE_FP32", "b": "TYPE_FP32"}, ["sum", "difference"])
    equal(config(view, "add_sub"), wanted, "configuration")


@case(f"{NAME}/data_type: text is a string", models=["identity_bytes"], **HERE)
def text_is_a_string(view):
    equal(config(view, "identity_bytes")[1], {"x": "TYPE_STRING"}, "inputs")


@case(f"{NAME}: of a version", models=["versioned"], versions=True, **HERE)
def of_a_version(view):
    equal(config(view, "versioned", "1")[0], "versioned", "name")


@case(f"{NAME}: of an unknown model is an error", **HERE)
def of_an_unknown_model(view):
    absent(lambda: config(view, "no_such_model"), "the configuration of an unknown model")
