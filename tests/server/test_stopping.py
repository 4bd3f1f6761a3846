"""A server that stops: it reports NOT_SERVING, refuses new turns, and lets the running ones finish."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from palaver.v1 import assistant_service_pb2 as pb
from tests.support.calls import contents, create_assistant, query, read_rest
from tests.support.endpoint import Endpoint, Stream
from tests.support.health import NOT_SERVING, SERVICE, SERVING, reported, wait_until
from tests.support.palaver_server import palaver_server, server_with_assistant
from tests.support.statuses import failure_of


async def test_a_running_turn_finishes_and_new_ones_are_refused(tmp_path: Path, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream("Hel", gate, "lo"))
    async with palaver_server(tmp_path, endpoint.url) as served:
        for name in ("a", "b"):
            await create_assistant(served, name)
        running = served.stub.PostUserQuery(query("running"))
        await running.read()
        waiting = asyncio.ensure_future(failure_of(served.stub.PostUserQueryUnary(query("waiting"))))
        await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))
        stopping = asyncio.ensure_future(served.application.stop(grace=60))
        await wait_until(served, NOT_SERVING)
        for name in ("", SERVICE):
            assert await reported(served, name) == NOT_SERVING
        # A new turn and a queued one can both run on another server.
        for failure in (await failure_of(served.stub.PostUserQueryUnary(query("new", id="b"))), await waiting):
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
            assert failure.retry_delay is not None
        gate.set()
        assert (await read_rest(running))[-1].WhichOneof("event") == "completed"
        await stopping
    assert len(endpoint.calls) == 1
    async with palaver_server(tmp_path, endpoint.url) as served:
        assert await contents(served) == ["running", "Hello"]


async def test_turns_posted_while_the_server_lingers_get_shutting_down(tmp_path: Path, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream("Hel", gate, "lo"))
    async with server_with_assistant(tmp_path, endpoint.url) as served:
        running = served.stub.PostUserQuery(query("running"))
        await running.read()
        stopping = asyncio.ensure_future(served.application.stop(grace=60))
        await wait_until(served, NOT_SERVING)
        gate.set()
        await read_rest(running)
        calls = [served.stub.PostUserQueryUnary(query("next")) for _ in range(20)]
        for failure in await asyncio.gather(*map(failure_of, calls)):
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        await stopping


@pytest.mark.parametrize("grace", [0, 0.2])
async def test_a_turn_that_outlasts_the_grace_period_ends_with_shutting_down(
    tmp_path: Path, endpoint: Endpoint, grace: float
):
    endpoint.script(Stream("Hel", asyncio.Event()))
    async with server_with_assistant(tmp_path, endpoint.url) as served:
        running = served.stub.PostUserQuery(query("running"))
        assert (await running.read()).WhichOneof("event") == "started"
        assert (await running.read()).text_delta.text == "Hel"
        stopping = asyncio.ensure_future(served.application.stop(grace))
        failure = await failure_of(running.read())
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        await stopping
        await asyncio.wait_for(endpoint.calls[0].closed.wait(), 5)
    async with palaver_server(tmp_path, endpoint.url) as served:
        state = await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))
        assert state.assistant.total_messages == 0


async def test_health_of_unknown_services_is_not_found(tmp_path: Path):
    async with palaver_server(tmp_path) as served:
        for name in ("", SERVICE):
            assert await reported(served, name) == SERVING
        failure = await failure_of(reported(served, "palaver.v1.Nonsense"))
        assert failure.code is grpc.StatusCode.NOT_FOUND
