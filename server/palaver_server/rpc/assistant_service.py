"""`palaver.v1.AssistantService` over the chat engine. A method converts, calls and converts."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import grpc

from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1 import assistant_service_pb2_grpc as pb_grpc
from palaver_server.engine.chat import ChatEngine
from palaver_server.failpoints import Failpoint, reach
from palaver_server.rpc import convert
from palaver_server.rpc.pages import page_token

NAME = pb.DESCRIPTOR.services_by_name["AssistantService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


class AssistantService(pb_grpc.AssistantServiceServicer):
    """The servicer. The contract documents its methods, whose names gRPC prescribes."""

    def __init__(self, engine: ChatEngine) -> None:
        self._engine = engine

    async def CreateAssistant(self, request: pb.CreateAssistantRequest, context: Context) -> pb.CreateAssistantResponse:
        key, instructions, if_exists = convert.creation(request)
        assistant, created = await self._engine.create_assistant(key, instructions, if_exists)
        return pb.CreateAssistantResponse(assistant=convert.assistant(assistant), created=created)

    async def GetAssistant(self, request: pb.GetAssistantRequest, context: Context) -> pb.GetAssistantResponse:
        assistant = await self._engine.get_assistant(convert.assistant_key(request))
        return pb.GetAssistantResponse(assistant=convert.assistant(assistant))

    async def ListMessages(self, request: pb.ListMessagesRequest, context: Context) -> pb.ListMessagesResponse:
        key, listing = convert.listing(request)
        page = await self._engine.list_messages(key, listing)
        return pb.ListMessagesResponse(
            messages=map(convert.message, page.messages),
            next_page_token=page_token(request, page.messages[-1].index) if page.has_more else "",
        )

    async def DeleteAssistant(self, request: pb.DeleteAssistantRequest, context: Context) -> pb.DeleteAssistantResponse:
        await self._engine.delete_assistant(convert.assistant_key(request))
        return pb.DeleteAssistantResponse()

    async def PostUserQuery(
        self, request: pb.PostUserQueryRequest, context: Context
    ) -> AsyncGenerator[pb.PostUserQueryResponse, None]:
        turn = self._engine.post(convert.user_query(request), context.time_remaining())
        try:
            sequence = 0
            async for event in turn:
                sequence += 1
                yield convert.event(sequence, event)
            reach(Failpoint.TURN_COMPLETED)
        finally:
            turn.leave()

    async def PostUserQueryUnary(
        self, request: pb.PostUserQueryRequest, context: Context
    ) -> pb.PostUserQueryUnaryResponse:
        turn = self._engine.post(convert.user_query(request), context.time_remaining())
        try:
            return pb.PostUserQueryUnaryResponse(completed=convert.completed(await turn.completed()))
        finally:
            turn.leave()

    async def CancelTurn(self, request: pb.CancelTurnRequest, context: Context) -> pb.CancelTurnResponse:
        await self._engine.cancel(*convert.cancellation(request))
        return pb.CancelTurnResponse()
