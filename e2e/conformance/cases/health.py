"""Live, ready, model ready."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from oip.grpc import pb
from oip.rest import Refused
from oip.tensors import need

from .registry import GRPC, REST, absent, case, equal

HEALTH = "Health"


def up(view, path):
    answer = view.rest.get(path)
    equal(answer.status, 200, f"status of GET {path}")
    return answer


def down(view, path):
    answer = view.rest.get(path)
    need(400 <= answer.status < 500, f"GET {path} answers {answer.status}, 4xx is due")
    return answer


@case(f"{HEALTH}/Server Live: 200", REST)
def live(view):
    up(view, "/v2/health/live")


@case(f"{HEALTH}/Server Live Response JSON Object", REST)
def live_says_so(view):
    equal(up(view, "/v2/health/live").json().get("live"), True, "live")


@case(f"{HEALTH}/Server Ready: 200", REST)
def ready(view):
    up(view, "/v2/health/ready")


@case(f"{HEALTH}/Server Ready Response JSON Object", REST)
def ready_says_so(view):
    # The text writes "live" in this object, the OpenAPI document "ready": either is an answer.
    document = up(view, "/v2/health/ready").json()
    equal(document.get("ready", document.get("live")), True, "ready")


@case(f"{HEALTH}/Model Ready: 200", REST, ["add_sub"])
def model_ready(view):
    up(view, "/v2/models/add_sub/ready")


@case(f"{HEALTH}/Model Ready Response JSON Object", REST, ["add_sub"])
def model_ready_says_so(view):
    document = up(view, "/v2/models/add_sub/ready").json()
    equal((document.get("name"), document.get("ready")), ("add_sub", True), "name and ready")


@case(f"{HEALTH}/Model Ready: of a version", REST, ["versioned"], each=("1", "2"), versions=True)
def version_ready(view):
    up(view, f"/v2/models/versioned/versions/{view.each}/ready")


@case(f"{HEALTH}/Model Ready: 4xx when not ready", REST)
def unknown_model_is_not_ready(view):
    down(view, "/v2/models/no_such_model/ready")


@case(f"{HEALTH}/Model Ready: of an unknown version", REST, ["add_sub"])
def unknown_version_is_not_ready(view):
    down(view, "/v2/models/add_sub/versions/977/ready")


@case(f"{HEALTH}: the verb is GET", REST, each=("/v2/health/live", "/v2/health/ready"), level="recommended")
def health_is_not_posted(view):
    equal(view.rest.post(view.each).status, 405, f"status of POST {view.each}")


@case(f"{HEALTH}/ServerLive", GRPC)
def server_live(view):
    equal(view.grpc.call("ServerLive", pb.ServerLiveRequest()).live, True, "live")


@case(f"{HEALTH}/ServerReady", GRPC)
def server_ready(view):
    equal(view.grpc.call("ServerReady", pb.ServerReadyRequest()).ready, True, "ready")


@case(f"{HEALTH}/ModelReady", GRPC, ["add_sub"])
def model_ready_rpc(view):
    equal(view.grpc.call("ModelReady", pb.ModelReadyRequest(name="add_sub")).ready, True, "ready")


@case(f"{HEALTH}/ModelReady: version", GRPC, ["versioned"], each=("1", "2"), versions=True)
def version_ready_rpc(view):
    equal(view.grpc.call("ModelReady", pb.ModelReadyRequest(name="versioned", version=view.each)).ready, True, "ready")


def not_ready(view, **request):
    """False or an error: never true."""
    try:
        equal(view.grpc.call("ModelReady", pb.ModelReadyRequest(**request)).ready, False, "ready")
    except Refused as refused:
        need(refused.kind in ("not_found", "invalid", "unavailable"), f"refused as {refused}")


@case(f"{HEALTH}/ModelReady: an unknown model", GRPC)
def unknown_model_is_not_ready_rpc(view):
    not_ready(view, name="no_such_model")


@case(f"{HEALTH}/ModelReady: an unknown version", GRPC, ["add_sub"])
def unknown_version_is_not_ready_rpc(view):
    not_ready(view, name="add_sub", version="977")


@case(f"{HEALTH}/ModelReady: name is required", GRPC)
def ready_without_a_name(view):
    absent(lambda: view.grpc.call("ModelReady", pb.ModelReadyRequest()), "ModelReady of no name")


@case("gRPC health checking protocol: the server", GRPC, level="recommended")
def standard_health_is_served(view):
    stub = health_pb2_grpc.HealthStub(view.grpc.channel)
    reply = stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=10)
    equal(reply.status, health_pb2.HealthCheckResponse.SERVING, "status")


@case("gRPC health checking protocol: the service by name", GRPC, level="recommended")
def standard_health_of_the_service(view):
    stub = health_pb2_grpc.HealthStub(view.grpc.channel)
    reply = stub.Check(health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService"), timeout=10)
    equal(reply.status, health_pb2.HealthCheckResponse.SERVING, "status")


@case("gRPC health checking protocol: an unknown service is NOT_FOUND", GRPC, level="recommended")
def standard_health_of_an_unknown_service(view):
    stub = health_pb2_grpc.HealthStub(view.grpc.channel)
    try:
        reply = stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=10)
    except grpc.RpcError as error:
        equal(error.code(), grpc.StatusCode.NOT_FOUND, "code")
    else:
        need(False, f"answered {reply}")
