"""A host on a real socket, and the generated stub to call it with."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from palaver.skills import SkillHost
from palaver.v1.skill_host_service_pb2 import InvokeSkillRequest, InvokeSkillResponse, ListSkillsRequest
from palaver.v1.skill_host_service_pb2_grpc import SkillHostServiceStub

_call_ids = map("call-{}".format, itertools.count(1))


@dataclass(frozen=True)
class Caller:
    """Calls a host as a server does."""

    host: SkillHost | None
    channel: grpc.aio.Channel

    @property
    def stub(self) -> SkillHostServiceStub:
        return SkillHostServiceStub(self.channel)

    async def skills(self) -> list[Any]:
        return list((await self.stub.ListSkills(ListSkillsRequest())).skills)

    def invoke(self, name: str, arguments_json: str = "{}", **fields: str) -> Any:
        request = {"call_id": next(_call_ids), "assistant_id": "a", "request_id": "r"} | fields
        return self.stub.InvokeSkill(InvokeSkillRequest(name=name, arguments_json=arguments_json, **request))


Serve = Callable[..., Awaitable[Caller]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Runs hosts until the end of the test."""
    async with AsyncExitStack() as stack:

        async def start(*skills: Any, **options: Any) -> Caller:
            host = await stack.enter_async_context(SkillHost(*skills, **({"listen": "127.0.0.1:0"} | options)))
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(host.target))
            return Caller(host, channel)

        yield start


def content(text: str) -> InvokeSkillResponse:
    return InvokeSkillResponse(content=text)


def error(text: str) -> InvokeSkillResponse:
    return InvokeSkillResponse(error=text)


@pytest.fixture
def failed() -> InvokeSkillResponse:
    return error("the skill failed")
