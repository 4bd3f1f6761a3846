"""Progress events over a socket, while a model thinks or a skill runs. `tests/engine/test_turn.py` has their times."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.engine.turn import Subscriber
from tests.support.calls import is_whole, read_rest
from tests.support.calls import query_with_id as query
from tests.support.endpoint import Endpoint, Stream, skill_calls
from tests.support.palaver_server import Served, server_with_assistant
from tests.support.skill_host import SkillHost, content

INTERVAL = 0.02
CLOCK_RESOLUTION = 0.002

MODEL, SKILL = pb.PROGRESS_PHASE_MODEL, pb.PROGRESS_PHASE_SKILL


@pytest.fixture
async def served(tmp_path: Path, endpoint: Endpoint) -> AsyncIterator[Served]:
    async with server_with_assistant(tmp_path, endpoint.url, progress_interval=INTERVAL) as running:
        yield running


async def up_to(call: Any, kind: str, count: int = 1) -> list[pb.PostUserQueryResponse]:
    """Reads a stream until this number of events of a kind have arrived."""
    found: list[pb.PostUserQueryResponse] = []
    while sum(event.HasField(kind) for event in found) < count:
        found.append(await call.read())
    return found


async def up_to_progress(call: Any, count: int = 1) -> list[pb.PostUserQueryResponse]:
    return await up_to(call, "progress", count)


def kinds(events: list[pb.PostUserQueryResponse]) -> list[str | None]:
    return [event.WhichOneof("event") for event in events]


def without_progress(events: list[pb.PostUserQueryResponse]) -> list[str | None]:
    return [kind for kind in kinds(events) if kind != "progress"]


async def test_a_caller_gets_progress_while_the_model_thinks(served: Served, endpoint: Endpoint):
    thinking, pausing = asyncio.Event(), asyncio.Event()
    endpoint.script(Stream(thinking, "Hel", pausing, "lo"))
    call = served.stub.PostUserQuery(query())
    events = await up_to_progress(call, 3)
    assert kinds(events) == ["started", "progress", "progress", "progress"]
    thinking.set()
    events += await up_to(call, "text_delta")
    events += await up_to_progress(call)
    pausing.set()
    events += await read_rest(call)
    assert without_progress(events) == ["started", "text_delta", "text_delta", "completed"]
    assert is_whole(events)
    elapsed = [event.progress.elapsed.ToMilliseconds() for event in events if event.HasField("progress")]
    assert elapsed[0] >= (INTERVAL - CLOCK_RESOLUTION) * 1000
    assert elapsed == sorted(elapsed)
    assert {event.progress.phase for event in events if event.HasField("progress")} == {MODEL}


async def test_the_phase_is_that_of_the_tool_loop(tmp_path: Path, endpoint: Endpoint):
    answered, thinking = asyncio.Event(), asyncio.Event()

    async def slow(_request: Any) -> Any:
        await answered.wait()
        return content("noon")

    endpoint.script(skill_calls(("clock", '{"task": "look"}')), Stream(thinking, "It is noon."))
    async with (
        SkillHost(clock=slow) as host,
        server_with_assistant(tmp_path, endpoint.url, skill_hosts=(host.target,), progress_interval=INTERVAL) as served,
    ):
        call = served.stub.PostUserQuery(query())
        events: list[pb.PostUserQueryResponse] = []
        while not (events and events[-1].progress.phase == SKILL):
            events += await up_to_progress(call)
        answered.set()
        while events[-1].progress.phase != MODEL:
            events += await up_to_progress(call)
        thinking.set()
        events += await read_rest(call)
    marks = [
        pb.ProgressPhase.Name(event.progress.phase) if event.HasField("progress") else event.WhichOneof("event")
        for event in events
    ]
    call_at, result_at = marks.index("skill_call"), marks.index("skill_result")
    assert "PROGRESS_PHASE_SKILL" not in marks[:call_at]
    assert set(marks[call_at + 1 : result_at]) == {"PROGRESS_PHASE_SKILL"}
    assert "PROGRESS_PHASE_MODEL" in marks[result_at:]
    assert is_whole(events)


async def test_every_caller_of_a_turn_gets_progress(served: Served, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream(gate, "Hello"))
    first = served.stub.PostUserQuery(query())
    await up_to_progress(first)
    second = served.stub.PostUserQuery(query())
    joined = await up_to_progress(second, 2)
    await up_to_progress(first, 2)
    gate.set()
    joined += await read_rest(second)
    await read_rest(first)
    assert len(endpoint.calls) == 1
    assert without_progress(joined) == ["started", "text_delta", "completed"]
    assert is_whole(joined)


async def test_a_turn_that_waits_for_its_assistant_reports_no_progress(served: Served, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream(gate, "Hello"))
    first = served.stub.PostUserQuery(query())
    await up_to_progress(first)
    second = served.stub.PostUserQuery(query(request_id="another"))
    await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))  # the server has received the query before this
    await up_to_progress(first, 5)
    gate.set()
    assert kinds(await read_rest(second))[0] == "started"


async def test_a_replay_reports_no_progress(tmp_path: Path, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream(gate, "Hello"))
    # So short that a replay is silent for an interval while the store is read.
    async with server_with_assistant(tmp_path, endpoint.url, progress_interval=1e-4) as served:
        call = served.stub.PostUserQuery(query())
        await up_to_progress(call)
        gate.set()
        await read_rest(call)
        replay = await read_rest(served.stub.PostUserQuery(query()))
        assert kinds(replay) == ["started", "text_delta", "completed"]


async def test_progress_does_not_disturb_a_unary_call(served: Served, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream("Hel", gate, "lo"))
    call = served.stub.PostUserQueryUnary(query())
    await endpoint.call()
    await up_to_progress(served.stub.PostUserQuery(query()), 2)
    gate.set()
    assert (await call).completed.messages[-1].content == "Hello"


async def test_nothing_remains_of_callers_that_left(tmp_path: Path, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream("Hello", gate))
    async with server_with_assistant(tmp_path, endpoint.url, progress_interval=INTERVAL) as served:
        left = served.stub.PostUserQuery(query())
        stayed = served.stub.PostUserQuery(query())
        await up_to_progress(left)
        await up_to_progress(stayed)
        left.cancel()
        gate.set()
        await read_rest(stayed)
    gc.collect()
    assert [each for each in gc.get_objects() if isinstance(each, Subscriber)] == []
