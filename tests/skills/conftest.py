"""Skill hosts on real sockets, called with the generated stub."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from palaver.skills import SkillHost
from palaver.v1.skill_host_service_pb2 import InvokeSkillResponse
from tests.support.skill_caller import Caller, error

Serve = Callable[..., Awaitable[Caller]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a host with the given skills, which runs until the end of the test."""
    async with AsyncExitStack() as stack:

        async def start(*skills: Any, **options: Any) -> Caller:
            host = await stack.enter_async_context(SkillHost(*skills, listen="127.0.0.1:0", **options))
            return Caller(await stack.enter_async_context(grpc.aio.insecure_channel(host.target)))

        yield start


@pytest.fixture
def failed() -> InvokeSkillResponse:
    return error("the skill failed")
