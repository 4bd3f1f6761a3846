"""Replicas on one store behind a bad network: every acknowledged turn is stored once, whole and in order."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from palaver.v1 import assistant_pb2
from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from tests.support import table_proxy as faults
from tests.support.azurite import Account
from tests.support.endpoint import Call, Endpoint, Stream
from tests.support.server_process import server_process
from tests.support.table_proxy import TableProxy

SERVERS = 4
ASSISTANTS = [f"assistant {number}" for number in range(10)]
CALLERS = 12
TURNS = 25
RETRYABLE = (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE)


@dataclass
class Log:
    """Everything that the callers know."""

    acknowledged: dict[str, list[tuple[int, str, str]]] = field(default_factory=dict)
    """By assistant: the index of the user message, and the messages of the turn."""
    failed: set[str] = field(default_factory=set)
    """User messages of turns that failed. They may be stored or not."""
    statuses: Counter[str] = field(default_factory=Counter)


class Echo(Endpoint):
    """Answers each user message with its own text."""

    default = Stream(lambda call: call.send(call.chunk({"content": reply_to(call)})))


def reply_to(call: Call) -> str:
    return f"You said {call.body['messages'][-1]['content']}"


async def call_until_answered(stub: AssistantServiceStub, caller: int, log: Log) -> None:
    """Posts turns one after the other. A failed turn is posted again as a new one."""
    newest: dict[str, int] = {}
    for turn in range(TURNS):
        assistant = ASSISTANTS[(caller + turn) % len(ASSISTANTS)]
        for attempt in range(1000):
            text = f"turn {turn} of caller {caller}, attempt {attempt}"
            try:
                response = await stub.PostUserQueryUnary(pb.PostUserQueryRequest(id=assistant, user_message=text))
            except grpc.aio.AioRpcError as error:
                if error.code() not in RETRYABLE:
                    raise
                log.statuses[error.code().name] += 1
                log.failed.add(text)
                continue
            log.statuses["OK"] += 1
            question, answer = response.completed.messages
            assert newest.get(assistant, 1) < question.index == answer.index - 1
            newest[assistant] = answer.index
            log.acknowledged.setdefault(assistant, []).append((question.index, question.content, answer.content))
            break


async def test_no_turn_is_lost_or_doubled_by_replicas_on_one_store(tmp_path: Path, account: Account):
    log = Log()
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(Echo())
        proxy = await stack.enter_async_context(TableProxy(account))
        servers = [
            await stack.enter_async_context(
                server_process(tmp_path, endpoint.url, AzureWebJobsStorage=proxy.connection_string)
            )
            for number in range(SERVERS)
        ]
        stubs = [server.stub for server in servers]
        for assistant in ASSISTANTS:
            await stubs[0].CreateAssistant(pb.CreateAssistantRequest(id=assistant, instructions="Echo."))
        proxy.fault = faults.sometimes(seed=1, dropped=0.1, failed=0.1)
        await asyncio.gather(*(call_until_answered(stubs[caller % SERVERS], caller, log) for caller in range(CALLERS)))
        proxy.fault = faults.none
        print(dict(log.statuses), "store requests:", len(proxy.exchanges))
        assert log.statuses["OK"] == CALLERS * TURNS
        for number, assistant in enumerate(ASSISTANTS):
            await check(stubs[number % SERVERS], assistant, log)


async def check(stub: AssistantServiceStub, assistant: str, log: Log) -> None:
    response = await stub.ListMessages(pb.ListMessagesRequest(id=assistant, page_size=1000))
    state = await stub.GetAssistant(pb.GetAssistantRequest(id=assistant))
    messages = response.messages
    assert [message.index for message in messages] == list(range(1, len(messages) + 1))
    assert state.assistant.total_messages == len(messages)
    instructions, *rest = messages
    assert instructions.content == "Echo."
    turns = list(zip(rest[::2], rest[1::2], strict=True))
    for question, answer in turns:
        assert (question.role, answer.role) == (assistant_pb2.ROLE_USER, assistant_pb2.ROLE_ASSISTANT)
        assert answer.content == f"You said {question.content}"
        assert question.request_id == answer.request_id
    stored = [(question.index, question.content, answer.content) for question, answer in turns]
    assert len({content for _, content, _ in stored}) == len(stored)
    acknowledged = log.acknowledged[assistant]
    assert set(acknowledged) <= set(stored)
    assert {content for _, content, _ in stored} - {content for _, content, _ in acknowledged} <= log.failed
