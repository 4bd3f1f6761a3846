"""A `call_id` that comes again, and callers that leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import pytest

from palaver.skills import SkillError, SkillHost, skill

from .conftest import content, error


@dataclass
class Gate:
    """A skill "pass_gate", of either kind, that counts its runs and waits until it is opened."""

    function: Callable[..., object] = field(init=False)
    runs: int = 0
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
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
                self.cancelled.set()
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


async def test_a_repeat_gets_the_remembered_outcome(serve, gate):
    gate.open()
    caller = await serve(gate.function)
    assert [await caller.invoke("pass_gate", WORD, call_id="c") for _ in range(3)] == [content("x 1")] * 3
    assert gate.runs == 1


async def test_a_repeat_waits_while_the_function_runs(serve, gate):
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
async def test_what_differs_is_no_repeat(serve, gate, other):
    @skill(name="other")
    def another(word: str) -> str:
        """Is another skill."""
        return f"other {word}"

    gate.open()
    caller = await serve(gate.function, another)
    call = {"name": "pass_gate", "arguments_json": WORD, "call_id": "c", "assistant_id": "a"}
    assert (await caller.invoke(**call)).content == "x 1"
    assert (await caller.invoke(**call | other)).content in {"x 2", "y 2", "other x"}


async def test_another_turn_with_the_same_call_is_a_repeat(serve, gate):
    gate.open()
    caller = await serve(gate.function)
    for request_id in ("r1", "r2"):
        assert await caller.invoke("pass_gate", WORD, call_id="c", request_id=request_id) == content("x 1")


@pytest.mark.parametrize(("remember", "call_id"), [(0, "c"), (10, "")])
async def test_without_memory_or_call_id_each_call_runs(serve, gate, remember, call_id):
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


async def test_a_call_goes_on_when_its_caller_leaves_and_the_repeat_gets_the_outcome(serve, gate):
    caller = await serve(gate.function)
    call = caller.invoke("pass_gate", WORD, call_id="c")
    await asyncio.gather(call.wait_for_connection(), gate.entered.wait())
    await leave(call)
    repeat = asyncio.ensure_future(caller.invoke("pass_gate", WORD, call_id="c"))
    gate.open()
    assert await repeat == content("x 1")
    assert gate.runs == 1


async def test_a_deadline_is_a_way_to_leave(serve, gate):
    async with SkillHost(gate.function, listen="127.0.0.1:0") as host:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _invoke_with_deadline(host.target)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await gate.entered.wait()
        gate.open()
        caller = await serve(gate.function)
        assert (await caller.invoke("pass_gate", WORD)).content == "x 2"


async def _invoke_with_deadline(target: str) -> None:
    from palaver.v1.skill_host_service_pb2 import InvokeSkillRequest
    from palaver.v1.skill_host_service_pb2_grpc import SkillHostServiceStub

    async with grpc.aio.insecure_channel(target) as channel:
        stub = SkillHostServiceStub(channel)
        await stub.InvokeSkill(
            InvokeSkillRequest(name="pass_gate", arguments_json=WORD), timeout=2, wait_for_ready=True
        )


async def test_a_call_that_is_not_remembered_is_cancelled_when_its_caller_leaves(serve):
    gate = AsyncGate()
    caller = await serve(gate.function, remember=0)
    call = caller.invoke("pass_gate", WORD)
    await asyncio.gather(call.wait_for_connection(), gate.entered.wait())
    await leave(call)
    await gate.cancelled.wait()


async def test_a_host_that_stops_lets_the_calls_finish(gate):
    from palaver.v1.skill_host_service_pb2 import InvokeSkillRequest
    from palaver.v1.skill_host_service_pb2_grpc import SkillHostServiceStub

    host = SkillHost(gate.function, listen="127.0.0.1:0", grace_period=60)
    await host.__aenter__()
    async with grpc.aio.insecure_channel(host.target) as channel:
        call = SkillHostServiceStub(channel).InvokeSkill(InvokeSkillRequest(name="pass_gate", arguments_json=WORD))
        await asyncio.gather(call.wait_for_connection(), gate.entered.wait())
        stopping = asyncio.create_task(host.__aexit__(None, None, None))
        while host._running is not None:
            await asyncio.sleep(0)
        gate.open()
        assert await call == content("x 1")
        await stopping


async def test_a_host_that_stops_cancels_what_takes_longer_than_the_grace_period():
    gate = AsyncGate()
    async with SkillHost(gate.function, listen="127.0.0.1:0", grace_period=0) as host:
        from palaver.v1.skill_host_service_pb2 import InvokeSkillRequest
        from palaver.v1.skill_host_service_pb2_grpc import SkillHostServiceStub

        channel = grpc.aio.insecure_channel(host.target)
        request = InvokeSkillRequest(name="pass_gate", arguments_json=WORD, call_id="c")
        call = SkillHostServiceStub(channel).InvokeSkill(request)
        await asyncio.gather(call.wait_for_connection(), gate.entered.wait())
    assert gate.cancelled.is_set()
    assert await call == error("the skill failed")
    await channel.close()
