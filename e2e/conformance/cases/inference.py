"""What an inference answers: names, versions, chosen outputs, shapes, and nobody else's rows."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from oip.rest import Refused
from oip.tensors import Given, need, texts

from .registry import ALL, absent, case, equal, invalid, not_found, output

REQUEST, RESPONSE = "Inference Request", "Inference Response"
AT_ONCE = 48


def floats(*shape, start=0):
    return (np.arange(np.prod(shape, dtype=int), dtype=np.float32) + np.float32(start)).reshape(shape)


def pair(rows=2, start=0.0):
    return [Given("a", floats(rows, 4, start=start)), Given("b", floats(rows, 4, start=100))]


def check_pair(reply, given):
    a, b = given[0].array, given[1].array
    output(reply, "sum", a + b)
    output(reply, "difference", a - b)


@case(f"{RESPONSE}/outputs: all that the model has, when none is asked for", ALL, ["add_sub"])
def answers_all_outputs(view):
    given = pair()
    reply = view.infer("add_sub", given)
    equal(sorted(reply.outputs), ["difference", "sum"], "outputs")
    check_pair(reply, given)


@case(f"{RESPONSE}/model_name", ALL, ["add_sub"])
def names_the_model(view):
    equal(view.infer("add_sub", pair()).model_name, "add_sub", "model_name")


@case(f"{REQUEST}/id: returned in the response", ALL, ["add_sub"])
def returns_the_id(view):
    equal(view.infer("add_sub", pair(), id="42").id, "42", "id")


@case(f"{REQUEST}/id: any string", ALL, ["add_sub"])
def returns_an_unusual_id(view):
    odd = "caf\u00e9 \"quoted\" \\ \U0001f600 " + "x" * 200
    equal(view.infer("add_sub", pair(), id=odd).id, odd, "id")


@case(f"{RESPONSE}/model_version: that which answered", ALL, ["versioned"], each=("1", "2"), versions=True)
def a_version_answers_for_itself(view):
    x = floats(3)
    reply = view.infer("versioned", [Given("x", x)], version=view.each)
    equal(reply.model_version, view.each, "model_version")
    output(reply, "y", x + np.float32(int(view.each)))


@case(f"{RESPONSE}/model_version: without one, by the server's policy, and told", ALL, ["versioned"], versions=True)
def a_version_is_chosen(view):
    x = floats(3)
    reply = view.infer("versioned", [Given("x", x)])
    need(reply.model_version in ("1", "2"), f"model_version is {reply.model_version!r}")
    output(reply, "y", x + np.float32(int(reply.model_version)))


@case("Inference: an unknown model is an error", ALL)
def unknown_model(view):
    absent(lambda: view.infer("no_such_model", pair()), "an inference of an unknown model")


@case("Inference: an unknown model is 404 or NOT_FOUND", ALL, level="recommended")
def unknown_model_code(view):
    not_found(lambda: view.infer("no_such_model", pair()), "an inference of an unknown model")


@case("Inference: an unknown version is an error", ALL, ["add_sub"])
def unknown_version(view):
    absent(lambda: view.infer("add_sub", pair(), version="977"), "an inference of an unknown version")


@case(f"{REQUEST}/outputs: those that are asked for and no others", ALL, ["add_sub"], each=("sum", "difference"))
def answers_a_chosen_output(view):
    given = pair()
    reply = view.infer("add_sub", given, outputs=[view.each])
    equal(list(reply.outputs), [view.each], "outputs")
    sign = 1 if view.each == "sum" else -1
    output(reply, view.each, given[0].array + sign * given[1].array)


@case(f"{REQUEST}/outputs: asked for in another order than the model's", ALL, ["add_sub"])
def chosen_outputs_keep_their_names(view):
    given = pair()
    reply = view.infer("add_sub", given, outputs=["difference", "sum"])
    equal(sorted(reply.outputs), ["difference", "sum"], "outputs")
    check_pair(reply, given)


@case(f"{REQUEST}/outputs: an unknown name is an error", ALL, ["add_sub"])
def unknown_output(view):
    invalid(lambda: view.infer("add_sub", pair(), outputs=["no_such_output"]), "a request for an unknown output")


@case(f"{REQUEST}/inputs: matched by name, not by place", ALL, ["add_sub"])
def inputs_go_by_name(view):
    given = pair()
    check_pair(view.infer("add_sub", given[::-1]), given)


@case(f"{REQUEST}/inputs: of several datatypes, in any order", ALL, ["mixed"])
def mixed_inputs_go_by_name(view):
    arrays = {
        "text": texts("t"), "double": np.array([2.5]), "real": np.array([1.5], np.float32), "big": np.array([7], np.int64),
        "small": np.array([3], np.uint8), "flag": np.array([True]),
    }
    reply = view.infer("mixed", [Given(n, a) for n, a in arrays.items()])
    for name, array in arrays.items():
        output(reply, f"{name}_out", array)


@case(f"{REQUEST}/inputs: many, and many outputs", ALL, ["many"])
def many_tensors(view):
    x = floats(3, 2)
    reply = view.infer("many", [Given(f"i{k}", x + np.float32(10 * k)) for k in range(16)])
    for k in range(16):
        output(reply, f"o{k}", x + np.float32(11 * k))


@case(f"{REQUEST}/inputs: one with a default may be left out", ALL, ["optional"], level="recommended")
def optional_input_left_out(view):
    x = floats(2, 2)
    output(view.infer("optional", [Given("x", x)]), "y", x + 1)


@case(f"{REQUEST}/inputs: one with a default is used when given, or refused", ALL, ["optional"], level="recommended")
def optional_input_given(view):
    x, bias = floats(2, 2), np.array([[5, 7]], np.float32)
    try:
        reply = view.infer("optional", [Given("x", x), Given("bias", bias)])
    except Refused as refused:
        need(refused.kind == "invalid", f"refused as {refused}")
        return
    output(reply, "y", x + bias)


@case(f"{REQUEST}/shape: variable dimensions", ALL, ["transpose"], each=("1x1x1", "2x3x4", "5x1x7"))
def dynamic_shapes(view):
    x = np.arange(np.prod(shape := [int(d) for d in view.each.split("x")]), dtype=np.int32).reshape(shape)
    output(view.infer("transpose", [Given("x", x)]), "y", np.ascontiguousarray(x.transpose(2, 1, 0)))


@case(f"{REQUEST}/shape: of no elements", ALL, ["identity_fp32"], each=("0x4", "3x0"))
def empty_tensors(view):
    output(view.infer("identity_fp32", [Given("x", floats(*(int(d) for d in view.each.split("x"))))]), "y",
           floats(*(int(d) for d in view.each.split("x"))))


@case(f"{REQUEST}/shape: a scalar is [] with one element", ALL, ["scalar"])
def scalars(view):
    output(view.infer("scalar", [Given("x", np.array(2.5, np.float32))]), "y", np.array(3.5, np.float32))


@case(f"{RESPONSE}/shape: what the data decide", ALL, ["nonzero"], each=("some", "none"))
def data_dependent_shapes(view):
    x = np.array([0, 3, 0, 5] if view.each == "some" else [0, 0], np.float32)
    output(view.infer("nonzero", [Given("x", x)]), "y", np.array([np.flatnonzero(x)], np.int64))


@case(f"{REQUEST}/shape: fixed dimensions", ALL, ["fixed"])
def fixed_shapes(view):
    x = floats(2, 3)
    output(view.infer("fixed", [Given("x", x)]), "y", x * 2)


@case("Inference Request Input: shape and data are the full batch", ALL, ["add_sub"])
def large_batches(view):
    given = pair(rows=700)
    check_pair(view.infer("add_sub", given), given)


@case("Inference: a megabyte", ("binary", "grpc-raw"), ["identity_fp32"])
def large_tensors(view):
    x = floats(256, 1024)
    output(view.infer("identity_fp32", [Given("x", x)]), "y", x)


@case(f"{REQUEST}/parameters: unknown ones are no error", ALL, ["add_sub"], each=("request", "input", "output"), level="recommended")
def unknown_parameters(view):
    given, extra = pair(), {"x_nobody_knows": "1"}
    request = extra if view.each == "request" else None
    if view.each == "input":
        given[0].parameters = extra
    outputs = [{"name": "sum", "parameters": extra}] if view.each == "output" else None
    reply = view.infer("add_sub", given, outputs=outputs, parameters=request)
    output(reply, "sum", given[0].array + given[1].array)


def at_once(call, count=AT_ONCE):
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(call, range(count)))


@case("Inference: requests at the same time get their own rows", ALL, ["add_sub"])
def concurrent_requests(view):
    def one(k):
        given = pair(rows=1 + k % 3, start=1000 * k)
        reply = view.infer("add_sub", given, id=str(k))
        equal(reply.id, str(k), "id")
        check_pair(reply, given)

    at_once(one)


@case("Inference: requests at the same time, rows that may not be joined", ALL, ["column_sum"])
def concurrent_requests_over_the_batch(view):
    def one(k):
        x = floats(1 + k % 3, 3, start=k)
        output(view.infer("column_sum", [Given("x", x)]), "y", x.sum(0))

    at_once(one)


@case("Inference: requests at the same time, rows that answer for each other", ALL, ["centered"])
def concurrent_requests_of_whole_batches(view):
    def one(k):
        x = floats(1 + k % 3, 3, start=64 * k)
        output(view.infer("centered", [Given("x", x)]), "y", x - x.mean(0, keepdims=True))

    at_once(one)


@case("Inference: requests at the same time, first axis moved", ALL, ["transpose"])
def concurrent_requests_transposed(view):
    def one(k):
        x = (np.arange(6 * (1 + k % 2), dtype=np.int32) + 100 * k).reshape(-1, 2, 3)
        output(view.infer("transpose", [Given("x", x)]), "y", np.ascontiguousarray(x.transpose(2, 1, 0)))

    at_once(one)


@case("Inference: one failing request does not fail its neighbours", ALL, ["gather"])
def concurrent_failures(view):
    def one(k):
        if k % 4 == 3:
            try:
                view.infer("gather", [Given("index", np.array([99], np.int64))])
            except Refused:
                return
            need(False, "an index outside the table was answered")
        output(view.infer("gather", [Given("index", np.array([k % 4], np.int64))]), "y", np.array([10 * (k % 4 + 1)], np.float32))

    at_once(one)
