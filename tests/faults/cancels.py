"""Many calls that their callers cancel at every stage of a turn: each model call ends at once, and nothing is stored.

    python -m tests.faults.cancels --calls 10000

The server is a process of its own. The callers and the endpoint share this one, and with it a clock: what is measured
is the time from `call.cancel()` to the moment at which the endpoint sees the connection of the model call closed.
"""

from __future__ import annotations

import argparse
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
from tests.faults.storage import STORES, name, storage, variables
from tests.support.azurite import Account
from tests.support.endpoint import HEAD, Call, Endpoint, Stream
from tests.support.server_process import ServerProcess, server_process

CALLERS = 20
"""With SQLite they keep a third of two cores busy. Many more would measure the wait for a core, not the server."""

ASSISTANTS_PER_CALLER = 10
LONGEST_HOLD = 0.3
"""Seconds for which a call is held at most before it is cancelled, so that cancels meet the server at any moment."""

LONGEST_HANDOVER = 0.01
"""Seconds in which an assistant goes from a cancelled turn to the next one, with time to spare."""

MAX_P99 = 0.2
PATIENCE = 10.0
"""Seconds after which what has not happened never will."""


class Stage(Enum):
    """How far a turn is when its caller cancels it."""

    NO_HEAD = "the model has not answered"
    NO_TOKEN = "a head, but no token"
    TEXT = "after the first text"
    WAITING = "behind another turn"


CALLS_OF_A_ROUND = len(Stage)


@dataclass(eq=False)
class Cancelled:
    """A call that its caller cancels, and what the endpoint has seen of it."""

    stage: Stage
    cancelled_at: float = 0.0
    closed_at: float = 0.0
    model_calls: int = 0
    held: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the model call is as far as the stage says."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server has closed the connection of the model call."""

    @property
    def is_open(self) -> bool:
        return self.model_calls > 0 and not self.closed.is_set()


class HoldingEndpoint(Endpoint):
    """Answers a call as far as its stage says, and then waits until the server hangs up; answers others whole."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled: dict[str, Cancelled] = {}
        """By user message."""
        self.default: Any = self  # what plays the answer

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
    """The calls of a stage, and the seconds from the cancel to the close of the model call, where there was one."""

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
    """What has become of the cancelled calls."""

    store: str
    assistants: int
    stages: dict[Stage, Latency]
    total: Latency
    left_open: int
    """Model calls that were still open at the end."""
    repeated: int
    """Calls for which the model was called more than once."""
    called_while_waiting: int
    """Calls for which the model was called although they were cancelled while another turn had their assistant."""
    stored: int
    """Messages that were found although each call was cancelled."""
    failed: int
    """Rounds that were given up, because a call ended before its caller could cancel it."""
    silent: int
    """Assistants that did not answer a turn afterwards."""
    seconds: float
    server_cpu: float
    """The cores that the server kept busy."""
    own_cpu: float
    """The cores that the callers and the endpoint kept busy."""

    @property
    def findings(self) -> list[str]:
        """What is left behind, a line each."""
        faults = {
            "model calls left open": self.left_open,
            "calls that reached the model twice": self.repeated,
            "model calls made behind another turn": self.called_while_waiting,
            "messages stored": self.stored,
            "rounds given up": self.failed,
            "assistants that do not answer afterwards": self.silent,
        }
        return [f"{what}: {count}" for what, count in faults.items() if count]

    @property
    def is_met(self) -> bool:
        """Whether nothing is left behind, and each model call was closed in time."""
        return not self.findings and self.total.p99 < MAX_P99

    def __str__(self) -> str:
        never_reached = self.total.calls - self.total.closed - self.left_open
        load = f"{self.server_cpu:.2f} by the server, {self.own_cpu:.2f} by the callers and the endpoint"
        lines = [
            f"cancels, {self.store}: {self.total.calls:,} calls, {self.assistants} assistants, {CALLERS} callers",
            f"{self.seconds:.0f} s; of {os.cpu_count()} cores were busy {load}",
            f"{'cancelled':<28} {'calls':>8} {'closed':>8} {'p50 ms':>9} {'p99 ms':>9} {'longest':>9}",
            *(f"{stage.value:<28} {latency}" for stage, latency in self.stages.items()),
            f"{'all':<28} {self.total}",
            f"never reached the model: {never_reached:,}; left open: {self.left_open}; stored: {self.stored}",
        ]
        return "\n".join(lines)


class Caller:
    """Cancels its calls, stage by stage, each time with another one of its assistants."""

    def __init__(self, name: str, server: ServerProcess, endpoint: HoldingEndpoint, choices: random.Random) -> None:
        self.assistants = [f"{name} {number}" for number in range(ASSISTANTS_PER_CALLER)]
        self._server = server
        self._endpoint = endpoint
        self._choices = choices
        self.must_wait: list[Cancelled] = []
        """Calls that were cancelled, for certain, while another turn had their assistant."""

    async def cancel_a_round(self, number: int) -> None:
        """Posts a call for each stage and cancels it."""
        assistant = self.assistants[number % len(self.assistants)]
        for stage in (Stage.NO_HEAD, Stage.NO_TOKEN):
            call, cancelled = self._post(assistant, stage, number)
            await _read(call, "started")
            await asyncio.wait_for(cancelled.held.wait(), PATIENCE)
            await self._round_trip(assistant)  # so that the server has read what the endpoint has sent
            await self._hold()
            await _cancel(call, cancelled)
            await _closed(cancelled)
        await self._cancel_one_behind_another(assistant, number)

    async def _cancel_one_behind_another(self, assistant: str, number: int) -> None:
        first, running = self._post(assistant, Stage.TEXT, number)
        await _read(first, "started")
        await _read(first, "text_delta")
        second, waiting = self._post(assistant, Stage.WAITING, number)
        await self._round_trip(assistant)  # so that the second one waits
        await self._hold()
        if number % 2:
            # The second one is cancelled on its way to the assistant, or just when it has it.
            await _cancel(first, running)
            await asyncio.sleep(self._choices.uniform(0, LONGEST_HANDOVER))  # the moment of the fault
            await _cancel(second, waiting)
        else:
            self.must_wait.append(waiting)
            await _cancel(second, waiting)
            await self._round_trip(assistant)
            await _cancel(first, running)
        await _closed(running)

    def _post(self, assistant: str, stage: Stage, number: int) -> tuple[Any, Cancelled]:
        text = f"{stage.name}-{number}"
        cancelled = self._endpoint.cancelled[text] = Cancelled(stage)
        # A turn with a name looks first for itself in the store, one without does not.
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
    """Waits for the close; what stays open is counted at the end."""
    await asyncio.wait([asyncio.ensure_future(cancelled.closed.wait())], timeout=PATIENCE)


async def _first_turn(server: ServerProcess, assistant: str) -> tuple[int, bool]:
    """Returns how many messages an assistant has, and whether it answers."""
    state = await server.stub.GetAssistant(pb.GetAssistantRequest(id=assistant))
    request = pb.PostUserQueryRequest(id=assistant, user_message="And now?")
    try:
        response = await server.stub.PostUserQueryUnary(request, timeout=PATIENCE)
    except grpc.aio.AioRpcError as error:
        print(f"{assistant} does not answer: {error.code().name}: {error.details()}", file=sys.stderr)
        return state.assistant.total_messages, False
    answered = [message.content for message in response.completed.messages] == ["And now?", "Hello"]
    return response.completed.assistant.total_messages - 2, answered


async def run(calls: int, seed: int, account: Account | None = None) -> CancelReport:
    """Cancels so many calls, rounded to whole rounds."""
    choices, own = random.Random(seed), psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        async with (
            HoldingEndpoint() as endpoint,
            server_process(Path(folder), endpoint.url, **variables(account)) as server,
        ):
            callers = [Caller(f"assistant {number}", server, endpoint, choices) for number in range(CALLERS)]
            assistants = [assistant for caller in callers for assistant in caller.assistants]
            for assistant in assistants:
                await server.stub.CreateAssistant(pb.CreateAssistantRequest(id=assistant, instructions=""))
            failures = 0
            rounds = iter(range(math.ceil(calls / CALLS_OF_A_ROUND)))

            async def cancel_rounds(caller: Caller) -> None:
                nonlocal failures
                for number in rounds:
                    try:
                        await caller.cancel_a_round(number)
                    except (grpc.aio.AioRpcError, asyncio.TimeoutError) as error:
                        failures += 1
                        print(f"round {number} is given up: {error!r}", file=sys.stderr)
                    endpoint.calls.clear()

            process = psutil.Process(server.process.pid)
            began, server_began, own_began = time.perf_counter(), _cpu(process), _cpu(own)
            await asyncio.gather(*map(cancel_rounds, callers))
            seconds = time.perf_counter() - began
            server_cpu, own_cpu = (_cpu(process) - server_began) / seconds, (_cpu(own) - own_began) / seconds
            firsts = await asyncio.gather(*(_first_turn(server, assistant) for assistant in assistants))
            # A turn that follows has its assistant only after what was before, so nothing can begin any more.
            all_calls = [call for call in endpoint.cancelled.values() if call.cancelled_at]
            await asyncio.gather(*(_closed(call) for call in all_calls if call.is_open))
            return CancelReport(
                store=name(account),
                assistants=len(assistants),
                stages={stage: Latency.of([call for call in all_calls if call.stage is stage]) for stage in Stage},
                total=Latency.of(all_calls),
                left_open=sum(call.is_open for call in all_calls),
                repeated=sum(call.model_calls > 1 for call in all_calls),
                called_while_waiting=sum(call.model_calls for caller in callers for call in caller.must_wait),
                stored=sum(stored for stored, _ in firsts),
                failed=failures,
                silent=sum(not answered for _, answered in firsts),
                seconds=seconds,
                server_cpu=server_cpu,
                own_cpu=own_cpu,
            )


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Reads the arguments, runs, and judges."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--store", choices=STORES, default="sqlite")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with storage(arguments.store) as account:
        report = asyncio.run(run(arguments.calls, arguments.seed, account))
    print(report, *report.findings, sep="\n")
    sys.exit(not report.is_met)


if __name__ == "__main__":
    main()
