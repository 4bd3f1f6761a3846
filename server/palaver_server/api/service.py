"""`palaver.v1.AssistantService` on top of the chat engine.

Each method parses its request, calls the engine and renders the response.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.api import requests, responses
from palaver_server.api.page_tokens import message_position, page_token
from palaver_server.domain.turns import ANONYMOUS, Caller
from palaver_server.engine.interface import Engine
from palaver_server.engine.turn import Subscriber

SERVICE = pb.DESCRIPTOR.services_by_name["AssistantService"]


@dataclass(slots=True)
class Call:
    """A call of a method, as the transport received it."""

    method: str
    """The full name: `/palaver.v1.AssistantService/GetAssistant`."""
    metadata: dict[str, str | bytes]
    """The metadata of the call. If a key was sent several times, its values are joined with commas, as in HTTP."""
    peer: str
    """The address of the other side of the connection."""
    address: str = ""
    """The peer without the port: what all connections from there have in common."""
    certificate_names: tuple[str, ...] = ()
    """The names in the client certificate, which the connection has verified."""
    time_remaining: float | None = None
    """The seconds until the caller's deadline, or None if there is none."""
    caller: Caller = ANONYMOUS
    """The caller. An interceptor that authenticates replaces it."""


class AssistantApi:
    """The methods of the service. They raise the errors of the domain, which `statuses` maps to codes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def create_assistant(self, request: pb.CreateAssistantRequest, call: Call) -> pb.CreateAssistantResponse:
        """Serves `CreateAssistant`."""
        assistant, created = await self._engine.create_assistant(call.caller, *requests.create_assistant(request))
        return pb.CreateAssistantResponse(assistant=responses.assistant(assistant), created=created)

    async def get_assistant(self, request: pb.GetAssistantRequest, call: Call) -> pb.GetAssistantResponse:
        """Serves `GetAssistant`."""
        assistant = await self._engine.get_assistant(call.caller, requests.assistant_key(request))
        return pb.GetAssistantResponse(assistant=responses.assistant(assistant))

    async def list_messages(self, request: pb.ListMessagesRequest, call: Call) -> pb.ListMessagesResponse:
        """Serves `ListMessages`."""
        page = await self._engine.list_messages(call.caller, *requests.list_messages(request))
        return pb.ListMessagesResponse(
            messages=map(responses.message, page.messages),
            next_page_token=page_token(request, message_position(page.messages[-1].index)) if page.has_more else "",
        )

    async def delete_assistant(self, request: pb.DeleteAssistantRequest, call: Call) -> pb.DeleteAssistantResponse:
        """Serves `DeleteAssistant`."""
        await self._engine.delete_assistant(call.caller, requests.assistant_key(request))
        return pb.DeleteAssistantResponse()

    async def post_user_query(
        self, request: pb.PostUserQueryRequest, call: Call
    ) -> AsyncGenerator[pb.PostUserQueryResponse, None]:
        """Serves `PostUserQuery`. Closing the generator means that the caller has left."""
        turn = self._post(request, call)
        try:
            sequence = 0
            turn.report_progress()
            async for event in turn:
                sequence += 1
                yield responses.event(sequence, event)
        finally:
            turn.leave()

    async def post_user_query_unary(
        self, request: pb.PostUserQueryRequest, call: Call
    ) -> pb.PostUserQueryUnaryResponse:
        """Serves `PostUserQueryUnary`."""
        turn = self._post(request, call)
        try:
            return pb.PostUserQueryUnaryResponse(completed=responses.completed(await turn.completed()))
        finally:
            turn.leave()

    def _post(self, request: pb.PostUserQueryRequest, call: Call) -> Subscriber:
        return self._engine.post(call.caller, requests.user_query(request, call.address), call.time_remaining)

    async def cancel_turn(self, request: pb.CancelTurnRequest, call: Call) -> pb.CancelTurnResponse:
        """Serves `CancelTurn`."""
        await self._engine.cancel(call.caller, requests.cancel_turn(request))
        return pb.CancelTurnResponse()
