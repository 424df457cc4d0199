"""A proxy in front of a right server that makes it a wrong one: every hook of a Fault may change a request or an answer on its way.

REST by http.server, gRPC by generic handlers. What is about the bytes of HTTP itself (topic `transport`) is not seen through it.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from oip.grpc import pb
from oip.rest import Answer, Rest

SERVICE = "/inference.GRPCInferenceService/"
MESSAGES = {
    "ModelInfer": (pb.ModelInferRequest, pb.ModelInferResponse),
    "ModelReady": (pb.ModelReadyRequest, pb.ModelReadyResponse),
    "ServerReady": (pb.ServerReadyRequest, pb.ServerReadyResponse),
    "ServerLive": (pb.ServerLiveRequest, pb.ServerLiveResponse),
    "ModelMetadata": (pb.ModelMetadataRequest, pb.ModelMetadataResponse),
    "ServerMetadata": (pb.ServerMetadataRequest, pb.ServerMetadataResponse),
    "ModelStatistics": (pb.ModelStatisticsRequest, pb.ModelStatisticsResponse),
    "RepositoryIndex": (pb.RepositoryIndexRequest, pb.RepositoryIndexResponse),
    "RepositoryModelLoad": (pb.RepositoryModelLoadRequest, pb.RepositoryModelLoadResponse),
    "RepositoryModelUnload": (pb.RepositoryModelUnloadRequest, pb.RepositoryModelUnloadResponse),
}


@dataclass
class Asked:
    """A REST request on its way."""

    method: str
    path: str
    headers: dict
    body: bytes


class Fault:
    """A server without a fault. Faults override what they break."""

    name = "none"

    def asked(self, asked):
        """May change the request; an Answer in its place is given without asking the server."""
        return asked

    def answered(self, asked, answer):
        return answer

    def rpc_asked(self, method, request):
        """Likewise for a gRPC request."""
        return request

    def rpc_answered(self, method, request, reply):
        return reply

    def rpc_failed(self, method, request, code, details):
        """The code and details to give, or a reply in their place."""
        return code, details


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        pass  # Kept in Proxy.errors, or a client that left.


class Proxy:
    """Serves until closed; `fault` may be exchanged while it serves."""

    def __init__(self, url, grpc_address):
        self.fault = Fault()
        self.upstream = Rest(url)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body in one write: two would wait for each other's acknowledgement.
            wbufsize = -1
            disable_nagle_algorithm = True

            def forward(self):
                length = self.headers.get("Content-Length", "0")
                body = self.rfile.read(int(length) if length.isdigit() else 0)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length", "connection")}
                try:
                    answer = proxy.rest(Asked(self.command, self.path, headers, body))
                except Exception as error:
                    proxy.errors.append(f"{type(error).__name__}: {error}")
                    raise
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    if name not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)
                self.wfile.flush()

            do_GET = do_POST = do_HEAD = forward

            def log_message(self, *_):
                pass

        self.errors = []
        self.http = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.channel = grpc.insecure_channel(grpc_address)
        self.rpc = grpc.server(ThreadPoolExecutor(32), options=[("grpc.max_receive_message_length", -1)])
        self.rpc.add_generic_rpc_handlers((Handlers(self),))
        self.grpc = f"127.0.0.1:{self.rpc.add_insecure_port('127.0.0.1:0')}"
        self.rpc.start()

    def rest(self, asked):
        changed = self.fault.asked(asked)
        if isinstance(changed, Answer):
            return changed
        answer = self.upstream.call(changed.method, changed.path, changed.body, changed.headers)
        return self.fault.answered(asked, answer)

    def call(self, path, message, context):
        method = path.rsplit("/", 1)[-1]
        kinds = MESSAGES.get(method) if path.startswith(SERVICE) else None
        try:
            request = kinds[0].FromString(message) if kinds else None
        except Exception:
            kinds = request = None  # What is no message goes on as it is: to refuse it is the server's part.
        try:
            if kinds:
                message = self.fault.rpc_asked(method, kinds[0].FromString(message)).SerializeToString()
            reply = self.channel.unary_unary(path)(message, timeout=20)
        except grpc.RpcError as error:
            told = error.code(), error.details()
            if kinds:
                told = self.fault.rpc_failed(method, request, *told)
            if not isinstance(told, tuple):
                return told.SerializeToString()
            context.abort(*told)
        if not kinds:
            return reply
        return self.fault.rpc_answered(method, request, kinds[1].FromString(reply)).SerializeToString()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.rpc.stop(0)
        self.channel.close()


class Handlers(grpc.GenericRpcHandler):
    def __init__(self, proxy):
        self.proxy = proxy

    def service(self, details):
        path = details.method
        if "reflection" in path:
            return grpc.stream_stream_rpc_method_handler(lambda requests, _: self.proxy.channel.stream_stream(path)(requests))
        return grpc.unary_unary_rpc_method_handler(lambda message, context: self.proxy.call(path, message, context))
