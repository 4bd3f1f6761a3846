"""The baseline: a bare grpc.aio server that generates the pieces itself, which is the minimal cost of streaming.

It sends the messages that Palaver sends, one for each piece, at the pace that the model name asks for. Its channel
options and its event loop are those of Palaver.
"""

from __future__ import annotations

import grpc
import uvloop

from bench.endpoint import WORD
from bench.pace import Pace
from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1 import assistant_service_pb2_grpc as pb_grpc
from palaver_server.transports.grpc import CHANNEL_OPTIONS


class Echo(pb_grpc.AssistantServiceServicer):
    """Answers `PostUserQuery` from memory."""

    async def CreateAssistant(self, request, context):
        return pb.CreateAssistantResponse()

    async def PostUserQuery(self, request, context):
        sequence = 1
        yield pb.PostUserQueryResponse(sequence=sequence, started=pb.TurnStarted())
        async for _ in Pace.parse(request.chat_model).ticks():
            sequence += 1
            yield pb.PostUserQueryResponse(sequence=sequence, text_delta=pb.TextDelta(text=WORD))
        yield pb.PostUserQueryResponse(sequence=sequence + 1, completed=pb.TurnCompleted())


async def main() -> None:
    """Serves until it is killed."""
    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    pb_grpc.add_AssistantServiceServicer_to_server(Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"echo listening on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
