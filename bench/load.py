"""The callers of the benchmark. They don't parse the responses, because they share the machine with the servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from bench.pace import Pace
from bench.processes import Measured
from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub

CONNECTIONS = 4
MAX_HISTORY = 20
"""The messages that a turn sends to the model besides the new one, however many are stored."""


class Callers:
    """Callers of one server, over a few connections."""

    def __init__(self, channels: list[grpc.aio.Channel]) -> None:
        self._channels = channels
        self.stub = AssistantServiceStub(channels[0])

    async def create(self, name: str) -> None:
        """Makes sure that an assistant exists."""
        request = pb.CreateAssistantRequest(id=name, instructions="", if_exists=pb.IF_EXISTS_KEEP)
        await self.stub.CreateAssistant(request)

    def post(self, name: str, pace: Pace, channel: int = 0) -> grpc.aio.UnaryStreamCall:
        """Posts a query; the messages of the call are bytes."""
        post = self._channels[channel % CONNECTIONS].unary_stream("/palaver.v1.AssistantService/PostUserQuery")
        history = pb.History(max_messages=MAX_HISTORY)
        request = pb.PostUserQueryRequest(id=name, user_message="Hello", chat_model=str(pace), history=history)
        return post(request.SerializeToString())

    async def read(self, name: str, pace: Pace, channel: int = 0) -> None:
        """Posts a query and reads its reply to the end."""
        call = self.post(name, pace, channel)
        while await call.read() is not grpc.aio.EOF:
            pass

    async def streams(self, number: int, pace: Pace) -> None:
        """Reads a number of replies concurrently, each of its own assistant, and all to the end."""
        await asyncio.gather(*(self.read(f"stream-{index}", pace, index) for index in range(number)))

    async def time_to_first_piece(self, name: str, pace: Pace) -> float:
        """Posts a query and returns the seconds until its first piece."""
        begun = time.perf_counter()
        call = self.post(name, pace)
        await call.read()  # started
        await call.read()
        elapsed = time.perf_counter() - begun
        while await call.read() is not grpc.aio.EOF:
            pass
        return elapsed


@asynccontextmanager
async def callers(server: Measured, assistants: int = 0) -> AsyncIterator[Callers]:
    """Connects to a server and creates assistants for the streams."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    channels = [grpc.aio.insecure_channel(server.target, options) for _ in range(CONNECTIONS)]
    connected = Callers(channels)
    await asyncio.gather(*(connected.create(f"stream-{index}") for index in range(assistants)))
    yield connected
    for channel in channels:
        await channel.close()
