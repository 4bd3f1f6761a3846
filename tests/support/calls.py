"""Short ways to call a server, and to read what it streams and what it has stored."""

from __future__ import annotations

from typing import Any, Protocol

import grpc

from palaver.v1 import assistant_pb2
from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub


class Server(Protocol):
    """A server in this process or in one of its own."""

    @property
    def stub(self) -> AssistantServiceStub:
        """The stub that calls it."""


async def create_assistant(
    server: Server, name: str = "a", instructions: str | None = "", **fields: Any
) -> pb.CreateAssistantResponse:
    """Creates an assistant, by default one without instructions. With None, it gets the server's default."""
    return await server.stub.CreateAssistant(pb.CreateAssistantRequest(id=name, instructions=instructions, **fields))


def query(user_message: str = "Hello", request_id: str = "", **fields: Any) -> pb.PostUserQueryRequest:
    """Returns a user query, for the assistant `a` unless `id` names another one."""
    return pb.PostUserQueryRequest(**{"id": "a", **fields}, user_message=user_message, request_id=request_id)


def query_with_id(user_message: str = "Hello", request_id: str = "r", **fields: Any) -> pb.PostUserQueryRequest:
    """Returns a user query that can be posted again: its turn is always the same one."""
    return query(user_message, request_id, **fields)


async def read_rest(call: Any) -> list[pb.PostUserQueryResponse]:
    """Reads a stream to its end, and returns the events that were left."""
    events = []
    while (event := await call.read()) is not grpc.aio.EOF:
        events.append(event)
    return events


def is_whole(events: list[pb.PostUserQueryResponse]) -> bool:
    """Returns whether the events are numbered without gaps, from `started` to `completed`."""
    numbers = [event.sequence for event in events]
    ends = [event.WhichOneof("event") for event in (events[0], events[-1])]
    return numbers == list(range(1, len(events) + 1)) and ends == ["started", "completed"]


def text_of(events: list[pb.PostUserQueryResponse]) -> str:
    """Returns the text that was streamed."""
    return "".join(event.text_delta.text for event in events)


async def messages_of(server: Server, name: str = "a", **fields: Any) -> list[assistant_pb2.Message]:
    """Returns the stored messages of an assistant, up to the size of a page."""
    return list((await server.stub.ListMessages(pb.ListMessagesRequest(id=name, **fields))).messages)


async def contents(server: Server, name: str = "a", **fields: Any) -> list[str]:
    """Returns the texts of the stored messages."""
    return [message.content for message in await messages_of(server, name, **fields)]
