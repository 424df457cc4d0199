"""The gRPC client: unary calls over a few lasting channels, without a retry policy. As every client of gRPC, the library sends a call elsewhere that
never left it, or that the server says it did not take, since the connection was ending: a call that meets GOAWAY half way can't be helped by a server."""

import itertools

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from rest import DEADLINE_SECONDS

CHANNELS = 4


class Refused(Exception):
    """A status that is not OK."""

    def __init__(self, error):
        super().__init__(f"{error.code().name}: {(error.details() or '')[:200]}")
        metadata = dict(error.initial_metadata() or ())
        self.revision = metadata.get("x-millrace-revision")


class Grpc:
    """Each channel is a connection of its own."""

    def __init__(self, address, host):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.default_authority", f"{host}.svc")]
        self.model = host.split(".")[0]
        self.channels = [grpc.aio.insecure_channel(address, options=options) for _ in range(CHANNELS)]
        self.stubs = itertools.cycle([service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in self.channels])

    def body(self, row):
        request = pb.ModelInferRequest(model_name=self.model)
        request.inputs.add(name="X", datatype="FP32", shape=[1, len(row)])
        request.raw_input_contents.append(np.asarray(row, np.float32).tobytes())
        return request

    async def ask(self, request):
        """The revision that answered, and the probability it gave."""
        call = next(self.stubs).ModelInfer(request, timeout=DEADLINE_SECONDS)
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            raise Refused(error) from None
        revision = dict(await call.initial_metadata() or ()).get("x-millrace-revision")
        return revision, probability(answer)

    async def close(self):
        for channel in self.channels:
            await channel.close()


def probability(answer):
    """That of the second class."""
    for place, output in enumerate(answer.outputs):
        if output.datatype in ("FP32", "FP64"):
            kind = np.float32 if output.datatype == "FP32" else np.float64
            values = np.frombuffer(answer.raw_output_contents[place], kind) if answer.raw_output_contents else (
                output.contents.fp32_contents or output.contents.fp64_contents)
            if len(values) == 2:
                return float(values[1])
    raise ValueError(f"no probabilities in {answer}")
