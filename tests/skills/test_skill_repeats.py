"""Repeated calls, callers that leave, and hosts that stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from palaver.skills import SkillError, SkillHost, serve_async, skill
from palaver.v1.skill_host_service_pb2 import InvokeSkillRequest
from tests.support.skill_caller import Caller, content, error
from tests.support.statuses import failure_of


@dataclass
class Gate:
    """A sync or async skill "pass_gate" that counts its runs and waits until the gate is opened."""

    function: Callable[..., object] = field(init=False)
    runs: int = 0
    canceled: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)

    def open(self) -> None:
        raise NotImplementedError


class SyncGate(Gate):
    def __init__(self) -> None:
        super().__init__()
        self._opened = threading.Event()
        loop = asyncio.get_running_loop()

        @skill
        def pass_gate(word: str) -> str:
            """Waits."""
            self.runs += 1
            loop.call_soon_threadsafe(self.entered.set)
            assert self._opened.wait(60)
            return f"{word} {self.runs}"

        self.function = pass_gate

    def open(self) -> None:
        self._opened.set()


class AsyncGate(Gate):
    def __init__(self) -> None:
        super().__init__()
        self._opened = asyncio.Event()

        @skill
        async def pass_gate(word: str) -> str:
            """Waits."""
            self.runs += 1
            self.entered.set()
            try:
                await self._opened.wait()
            except asyncio.CancelledError:
                self.canceled.set()
                raise
            return f"{word} {self.runs}"

        self.function = pass_gate

    def open(self) -> None:
        self._opened.set()


@pytest.fixture(params=[SyncGate, AsyncGate])
async def gate(request):
    gate = request.param()
    yield gate
    gate.open()


WORD = '{"word": "x"}'


async def test_a_repeated_call_gets_the_remembered_outcome(serve, gate):
    gate.open()
    caller = await serve(gate.function)
    assert [await caller.invoke("pass_gate", WORD, call_id="c") for _ in range(3)] == [content("x 1")] * 3
    assert gate.runs == 1


async def test_a_repeated_call_may_format_its_arguments_differently(serve):
    runs = []

    @skill
    def join(first: str, second: str) -> str:
        """Joins two words."""
        runs.append((first, second))
        return first + second

    caller = await serve(join)
    for arguments in ('{"first": "a", "second": "é"}', '{ "second":"\\u00e9","first":"a" }'):
        assert await caller.invoke("join", arguments, call_id="c") == content("aé")
    assert len(runs) == 1


async def test_a_repeated_call_waits_while_the_function_runs(serve, gate):
    caller = await serve(gate.function)
    calls = [asyncio.ensure_future(caller.invoke("pass_gate", WORD, call_id="c")) for _ in range(20)]
    await gate.entered.wait()
    gate.open()
    assert await asyncio.gather(*calls) == [content("x 1")] * 20
    assert gate.runs == 1


@pytest.mark.parametrize(
    "other",
    [{"call_id": "d"}, {"assistant_id": "b"}, {"arguments_json": '{"word": "y"}'}, {"name": "other"}],
    ids=lambda other: next(iter(other)),
)
async def test_a_call_that_differs_is_not_a_repeat(serve, gate, other):
    @skill(name="other")
    def another(word: str) -> str:
        """Is another skill."""
        return f"other {word}"

    gate.open()
    caller = await serve(gate.function, another)
    call = {"name": "pass_gate", "arguments_json": WORD, "call_id": "c", "assistant_id": "a"}
    assert (await caller.invoke(**call)).content == "x 1"
    assert (await caller.invoke(**call | other)).content in {"x 2", "y 2", "other x"}


async def test_the_same_call_in_another_turn_is_a_repeat(serve, gate):
    gate.open()
    caller = await serve(gate.function)
    for request_id in ("r1", "r2"):
        assert await caller.invoke("pass_gate", WORD, call_id="c", request_id=request_id) == content("x 1")


@pytest.mark.parametrize(("remember", "call_id"), [(0, "c"), (10, "")])
async def test_without_memory_or_call_id_every_call_runs(serve, gate, remember, call_id):
    gate.open()
    caller = await serve(gate.function, remember=remember)
    assert [await caller.invoke("pass_gate", WORD, call_id=call_id) for _ in range(2)] == [
        content("x 1"),
        content("x 2"),
    ]


async def test_the_oldest_outcome_is_forgotten_first(serve, gate):
    gate.open()
    caller = await serve(gate.function, remember=2)
    outcomes = [(await caller.invoke("pass_gate", WORD, call_id=call_id)).content for call_id in "abcbca"]
    assert outcomes == ["x 1", "x 2", "x 3", "x 2", "x 3", "x 4"]


@pytest.mark.parametrize("exception", [SkillError("no"), RuntimeError("no")])
async def test_errors_are_remembered_too(serve, exception):
    runs = 0

    @skill
    def fail() -> None:
        """Fails."""
        nonlocal runs
        runs += 1
        raise exception

    caller = await serve(fail)
    expected = error("no" if isinstance(exception, SkillError) else "the skill failed")
    assert [await caller.invoke("fail", call_id="c") for _ in range(2)] == [expected] * 2
    assert runs == 1


async def leave(call) -> None:
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_call_continues_without_its_caller_and_a_repeat_gets_the_outcome(serve, gate):
    caller = await serve(gate.function)
    call = caller.invoke("pass_gate", WORD, call_id="c")
    await gate.entered.wait()
    await leave(call)
    repeat = asyncio.ensure_future(caller.invoke("pass_gate", WORD, call_id="c"))
    gate.open()
    assert await repeat == content("x 1")
    assert gate.runs == 1


async def test_a_call_continues_after_its_deadline(serve, gate):
    caller = await serve(gate.function)
    await caller.channel.channel_ready()
    request = InvokeSkillRequest(call_id="c", name="pass_gate", arguments_json=WORD, assistant_id="a")
    failure = await failure_of(caller.stub.InvokeSkill(request, timeout=1))
    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
    gate.open()
    assert await caller.invoke("pass_gate", WORD, call_id="c") == content("x 1")


async def test_an_async_call_that_is_not_remembered_is_canceled_when_its_caller_leaves(serve):
    gate = AsyncGate()
    caller = await serve(gate.function, remember=0)
    call = caller.invoke("pass_gate", WORD)
    await gate.entered.wait()
    await leave(call)
    await gate.canceled.wait()


@pytest.mark.parametrize("remember", [0, 10])
async def test_a_stopping_host_refuses_new_calls_and_lets_running_ones_finish(gate, remember):
    address = asyncio.get_running_loop().create_future()
    host = asyncio.create_task(
        serve_async(gate.function, listen="127.0.0.1:0", remember=remember, on_start=address.set_result)
    )
    async with grpc.aio.insecure_channel(await address) as channel:
        health = HealthStub(channel).Watch(HealthCheckRequest(service="palaver.v1.SkillHostService"))
        assert (await health.read()).status == HealthCheckResponse.SERVING
        caller = Caller(channel)
        call = caller.invoke("pass_gate", WORD)
        await gate.entered.wait()
        host.cancel()
        assert (await health.read()).status == HealthCheckResponse.NOT_SERVING
        health.cancel()
        gate.open()
        assert await call == content("x 1")
        with pytest.raises(asyncio.CancelledError):
            await host
        failure = await failure_of(caller.invoke("pass_gate", WORD))
        assert failure.code is grpc.StatusCode.UNAVAILABLE


async def test_a_stopping_host_cancels_calls_after_the_grace_period(failed):
    gate = AsyncGate()
    async with (
        SkillHost(gate.function, listen="127.0.0.1:0", grace_period=0) as host,
        grpc.aio.insecure_channel(host.target) as channel,
    ):
        call = Caller(channel).invoke("pass_gate", WORD)
        await gate.entered.wait()
        await host.__aexit__(None, None, None)
        assert gate.canceled.is_set()
        assert await call == failed
