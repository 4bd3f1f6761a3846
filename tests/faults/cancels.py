"""Cancels many calls at every stage of a turn: each model call must end at once, and nothing may be stored.

    python -m tests.faults.cancels --calls 10000

The server runs in a process of its own. The callers and the endpoint share this process and its clock: the latency is
the time from `call.cancel()` until the endpoint sees that the connection of the model call is closed.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import grpc
import psutil

from palaver.v1 import assistant_service_pb2 as pb
from tests.faults.command import main
from tests.faults.identity import NAME, identity
from tests.faults.storage import name, variables
from tests.support.azurite import Account
from tests.support.endpoint import HEAD, Call, Endpoint, Stream
from tests.support.server_process import ServerProcess, server_process

CALLERS = 20
"""With SQLite, they keep a third of two cores busy. Many more would measure the wait for a core, not the server."""

ASSISTANTS_PER_CALLER = 10
LONGEST_HOLD = 0.3
"""The most seconds between a stage and the cancel, so that cancels arrive at random moments."""

LONGEST_HANDOVER = 0.01
"""Seconds that are more than enough to pass an assistant on from a cancelled turn to the next one."""

MAX_P99 = 0.2
PATIENCE = 10.0
"""Seconds after which a wait has failed."""


class Stage(Enum):
    """The stage of a turn at which its caller cancels it."""

    NO_HEAD = "before the response head"
    NO_TOKEN = "before the first token"
    TEXT = "after the first text"
    WAITING = "queued behind another turn"


CALLS_PER_ROUND = len(Stage)


@dataclass(eq=False)
class Cancelled:
    """A call that its caller cancels, and what the endpoint saw of it."""

    stage: Stage
    cancelled_at: float = 0.0
    closed_at: float = 0.0
    model_calls: int = 0
    held: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the model call has reached the stage."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server has closed the connection of the model call."""

    @property
    def is_open(self) -> bool:
        return self.model_calls > 0 and not self.closed.is_set()


class HoldingEndpoint(Endpoint):
    """Answers a call up to its stage, and then waits until the server hangs up. Answers other calls whole."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled: dict[str, Cancelled] = {}
        """By user message."""
        self.default: Any = self  # the endpoint plays its answers itself

    async def play(self, call: Call) -> None:
        cancelled = self.cancelled.get(call.body["messages"][-1]["content"])
        if cancelled is None:
            await Stream("Hello").play(call)
            return
        cancelled.model_calls += 1
        try:
            if cancelled.stage in (Stage.NO_TOKEN, Stage.TEXT):
                call.writer.write(HEAD)
                await call.send(call.chunk({"role": "assistant", "content": ""}))
            if cancelled.stage is Stage.TEXT:
                await call.send(call.chunk({"content": "Hello"}))
            cancelled.held.set()
            await asyncio.Event().wait()
        finally:
            cancelled.closed_at = time.perf_counter()
            cancelled.closed.set()


@dataclass(frozen=True)
class Latency:
    """The calls of a stage, and the seconds from the cancel until the model call, if there was one, was closed."""

    calls: int
    closed: int
    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, calls: Sequence[Cancelled]) -> Latency:
        seconds = sorted(call.closed_at - call.cancelled_at for call in calls if call.closed.is_set())
        return cls(len(calls), len(seconds), *(_quantile(seconds, share) for share in (0.5, 0.99, 1)))

    def __str__(self) -> str:
        times = " ".join(f"{1000 * seconds:>9.1f}" for seconds in (self.p50, self.p99, self.longest))
        return f"{self.calls:>8,} {self.closed:>8,} {times}"


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else 0.0


@dataclass(frozen=True)
class CancelReport:
    """The outcome of the cancelled calls."""

    store: str
    assistants: int
    stages: dict[Stage, Latency]
    total: Latency
    left_open: int
    """Model calls that were still open at the end."""
    repeated: int
    """Calls for which the model was called more than once."""
    called_while_waiting: int
    """Calls for which the model was called, although they were cancelled while they waited for their assistant."""
    stored: int
    """Messages that were stored, although every call was cancelled."""
    failed: int
    """Rounds that were abandoned because a call ended before its caller could cancel it."""
    unresponsive: int
    """Assistants for which the next turn failed."""
    seconds: float
    server_cpu: float
    """The number of cores that the server kept busy."""
    own_cpu: float
    """The number of cores that the callers and the endpoint kept busy."""

    @property
    def findings(self) -> list[str]:
        """The counts that must be 0, a line for each."""
        faults = {
            "model calls left open": self.left_open,
            "calls that reached the model twice": self.repeated,
            "model calls for queued turns": self.called_while_waiting,
            "messages stored": self.stored,
            "rounds abandoned": self.failed,
            "assistants for which the next turn failed": self.unresponsive,
        }
        return [f"{what}: {count}" for what, count in faults.items() if count]

    @property
    def is_met(self) -> bool:
        """True if nothing was left behind, and the model calls were closed in time."""
        return not self.findings and self.total.p99 < MAX_P99

    def __str__(self) -> str:
        never_reached = self.total.calls - self.total.closed - self.left_open
        load = f"{self.server_cpu:.2f} by the server, {self.own_cpu:.2f} by the callers and the endpoint"
        lines = [
            f"cancels, {self.store}: {self.total.calls:,} calls, {self.assistants} assistants, {CALLERS} callers",
            f"{self.seconds:.0f} s; cores kept busy, of {os.cpu_count()}: {load}",
            f"{'cancelled at':<28} {'calls':>8} {'closed':>8} {'p50 ms':>9} {'p99 ms':>9} {'longest':>9}",
            *(f"{stage.value:<28} {latency}" for stage, latency in self.stages.items()),
            f"{'all':<28} {self.total}",
            f"never reached the model: {never_reached:,}; left open: {self.left_open}; stored: {self.stored}",
        ]
        return "\n".join(lines)


class Caller:
    """A caller that cancels its calls, stage by stage, for one of its assistants after the other."""

    def __init__(self, name: str, server: ServerProcess, endpoint: HoldingEndpoint, choices: random.Random) -> None:
        self.assistants = [f"{name} {number}" for number in range(ASSISTANTS_PER_CALLER)]
        self._server = server
        self._endpoint = endpoint
        self._choices = choices
        self.waiting: list[Cancelled] = []
        """Calls that were certainly waiting for their assistant when they were cancelled."""

    async def cancel_a_round(self, number: int) -> None:
        """Posts and cancels one call for each stage."""
        assistant = self.assistants[number % len(self.assistants)]
        for stage in (Stage.NO_HEAD, Stage.NO_TOKEN):
            call, cancelled = self._post(assistant, stage, number)
            await _read(call, "started")
            await asyncio.wait_for(cancelled.held.wait(), PATIENCE)
            await self._round_trip(assistant)  # then the server has read what the endpoint sent
            await self._hold()
            await _cancel(call, cancelled)
            await _closed(cancelled)
        await self._cancel_one_behind_another(assistant, number)

    async def _cancel_one_behind_another(self, assistant: str, number: int) -> None:
        first, running = self._post(assistant, Stage.TEXT, number)
        await _read(first, "started")
        await _read(first, "text_delta")
        second, waiting = self._post(assistant, Stage.WAITING, number)
        await self._round_trip(assistant)  # then the second one waits
        await self._hold()
        if number % 2:
            # The second turn is cancelled while it takes over the assistant, or just afterwards.
            await _cancel(first, running)
            await asyncio.sleep(self._choices.uniform(0, LONGEST_HANDOVER))  # the moment of the fault
            await _cancel(second, waiting)
        else:
            self.waiting.append(waiting)
            await _cancel(second, waiting)
            await self._round_trip(assistant)
            await _cancel(first, running)
        await _closed(running)

    def _post(self, assistant: str, stage: Stage, number: int) -> tuple[Any, Cancelled]:
        text = f"{stage.name}-{number}"
        cancelled = self._endpoint.cancelled[text] = Cancelled(stage)
        # Only a turn with a request id is first looked up in the store.
        request_id = text if number % 4 < 2 else ""
        request = pb.PostUserQueryRequest(id=assistant, user_message=text, request_id=request_id)
        return self._server.stub.PostUserQuery(request, timeout=2 * PATIENCE), cancelled

    async def _round_trip(self, assistant: str) -> None:
        await self._server.stub.GetAssistant(pb.GetAssistantRequest(id=assistant))

    async def _hold(self) -> None:
        await asyncio.sleep(self._choices.uniform(0, LONGEST_HOLD))  # the moment of the fault, not a synchronisation


async def _read(call: Any, expected: str) -> None:
    event = await call.read()
    assert event.WhichOneof("event") == expected


async def _cancel(call: Any, cancelled: Cancelled) -> None:
    cancelled.cancelled_at = time.perf_counter()
    call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED


async def _closed(cancelled: Cancelled) -> None:
    """Waits until the model call is closed. Those that stay open are counted at the end."""
    await asyncio.wait([asyncio.ensure_future(cancelled.closed.wait())], timeout=PATIENCE)


async def _next_turn(server: ServerProcess, assistant: str) -> tuple[int, bool]:
    """Returns the number of messages that an assistant had, and whether its next turn succeeded."""
    state = await server.stub.GetAssistant(pb.GetAssistantRequest(id=assistant))
    request = pb.PostUserQueryRequest(id=assistant, user_message="And now?")
    try:
        response = await server.stub.PostUserQueryUnary(request, timeout=PATIENCE)
    except grpc.aio.AioRpcError as error:
        print(f"the next turn of {assistant} failed: {error.code().name}: {error.details()}", file=sys.stderr)
        return state.assistant.total_messages, False
    answered = [message.content for message in response.completed.messages] == ["And now?", "Hello"]
    return response.completed.assistant.total_messages - 2, answered


async def run(calls: int, seed: int, account: Account | None = None) -> CancelReport:
    """Cancels a number of calls, rounded up to whole rounds."""
    choices, own = random.Random(seed), psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        callers_file = identity(Path(folder))
        settings = {"PALAVER_CALLERS": str(callers_file.path), **variables(account)}
        metadata = callers_file.as_caller(NAME)
        async with (
            HoldingEndpoint() as endpoint,
            server_process(Path(folder), endpoint.url, metadata=metadata, **settings) as server,
        ):
            callers = [Caller(f"assistant {number}", server, endpoint, choices) for number in range(CALLERS)]
            assistants = [assistant for caller in callers for assistant in caller.assistants]
            for assistant in assistants:
                await server.stub.CreateAssistant(pb.CreateAssistantRequest(id=assistant, instructions=""))
            failures = 0
            rounds = iter(range(math.ceil(calls / CALLS_PER_ROUND)))

            async def cancel_rounds(caller: Caller) -> None:
                nonlocal failures
                for number in rounds:
                    try:
                        await caller.cancel_a_round(number)
                    except (grpc.aio.AioRpcError, asyncio.TimeoutError) as error:
                        failures += 1
                        print(f"round {number} was abandoned: {error!r}", file=sys.stderr)
                    endpoint.calls.clear()

            process = psutil.Process(server.process.pid)
            began, server_began, own_began = time.perf_counter(), _cpu(process), _cpu(own)
            await asyncio.gather(*map(cancel_rounds, callers))
            seconds = time.perf_counter() - began
            server_cpu, own_cpu = (_cpu(process) - server_began) / seconds, (_cpu(own) - own_began) / seconds
            next_turns = await asyncio.gather(*(_next_turn(server, assistant) for assistant in assistants))
            # A next turn runs only when the turns before it have ended, so no model call can begin any more.
            all_calls = [call for call in endpoint.cancelled.values() if call.cancelled_at]
            await asyncio.gather(*(_closed(call) for call in all_calls if call.is_open))
            return CancelReport(
                store=name(account),
                assistants=len(assistants),
                stages={stage: Latency.of([call for call in all_calls if call.stage is stage]) for stage in Stage},
                total=Latency.of(all_calls),
                left_open=sum(call.is_open for call in all_calls),
                repeated=sum(call.model_calls > 1 for call in all_calls),
                called_while_waiting=sum(call.model_calls for caller in callers for call in caller.waiting),
                stored=sum(stored for stored, _ in next_turns),
                failed=failures,
                unresponsive=sum(not answered for _, answered in next_turns),
                seconds=seconds,
                server_cpu=server_cpu,
                own_cpu=own_cpu,
            )


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main(__doc__, run, calls=10_000)
