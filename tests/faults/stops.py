"""Stops servers under load while the next one takes over: no acknowledged turn may be lost or duplicated.

    python -m tests.faults.stops --stops 100 --store azure_tables

Each stop is like that of a rolling deployment: when the next server runs, the old one gets SIGTERM at a random moment.
A caller that is refused, or loses its connection, posts the same request again to the new server.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from palaver.v1 import assistant_service_pb2 as pb
from tests.faults import skills
from tests.faults.checker import HISTORY_MESSAGES, INSTRUCTIONS, Acknowledged, Log, Posted, Storyteller, Verdict, check
from tests.faults.command import main
from tests.faults.identity import NAME, identity
from tests.faults.skills import RecordingHost
from tests.faults.storage import name, variables
from tests.support.azurite import Account
from tests.support.server_process import ServerProcess, server_process
from tests.support.statuses import failure

ASSISTANTS = [f"assistant {number}" for number in range(6)]
CALLERS = 10
"""More than there are assistants, so that some turns run and others wait at each stop."""

PAUSE_BETWEEN_WORDS = 0.01
LONGEST_WAIT = 0.3
"""The most seconds until the SIGTERM. They last a few turns, so that it arrives at any moment of a turn."""

CHANGE_OF_SERVER = 0.1
"""The share of turns after which a caller moves to the newest server anyway, as behind a load balancer."""

PATIENCE = 60.0
"""Seconds after which a wait has failed: twice the grace period of a server."""

OK = "OK"
SHUTTING_DOWN = "UNAVAILABLE SHUTTING_DOWN"
NO_CONNECTION = "UNAVAILABLE, no connection to a server that is stopping"
EXPECTED = {OK, SHUTTING_DOWN, NO_CONNECTION}


@dataclass(eq=False)
class Server:
    """One of the servers, which follow each other."""

    running: ServerProcess
    is_stopping: bool = False
    has_answered: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server has acknowledged a turn."""


@dataclass(eq=False)
class Fleet:
    """The servers, and what their callers have learned from them."""

    newest: Server
    is_over: bool = False
    log: Log = field(default_factory=Log)
    newest_message: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ASSISTANTS, 1))
    """The index of the newest message by assistant, as far as the callers know."""
    statuses: Counter[str] = field(default_factory=Counter)
    posted_again: int = 0
    replayed: int = 0
    cut_short: int = 0


@dataclass(frozen=True)
class StopReport:
    """The outcome of a run: the turns, and the servers that were stopped."""

    store: str
    stops: int
    turns: int
    """Turns that were acknowledged."""
    posted_again: int
    """Requests that were posted again because of a stop."""
    replayed: int
    """Requests among them whose turn was already stored, although its caller did not know."""
    statuses: dict[str, int]
    verdict: Verdict
    cut_short: int
    """Turns that had started and then failed."""
    paid_twice: int
    """Turns for which the model was called more than once."""
    failed_exits: int
    """Servers whose exit status was not 0."""
    longest_stop: float
    """Seconds from SIGTERM to the end of the process."""
    seconds: float

    @property
    def findings(self) -> list[str]:
        """The defects of the stored conversations and the counts that must be 0, a line for each."""
        faults = {
            "turns that failed after they had started": self.cut_short,
            "turns that were paid for twice": self.paid_twice,
            "servers that ended with an error": self.failed_exits,
            **{status: count for status, count in self.statuses.items() if status not in EXPECTED},
        }
        return [*self.verdict.findings, *(f"{what}: {count}" for what, count in faults.items() if count)]

    @property
    def is_met(self) -> bool:
        """True if every acknowledged turn is stored once and whole, and no turn failed after it had started."""
        return not self.findings

    def __str__(self) -> str:
        return (
            f"SIGTERM, {self.store:<12} {self.turns:>6,} turns {self.stops:>4} stops"
            f"   posted again {self.posted_again:,} replayed {self.replayed} findings {len(self.findings)}"
            f"   longest stop {self.longest_stop:.1f} s   {self.seconds:,.0f} s"
        )


async def post_turns(number: int, fleet: Fleet, choices: random.Random) -> None:
    """Posts turns one after the other. If one fails, the same request is posted again to the newest server."""
    server = fleet.newest
    for turn in itertools.count():
        if fleet.is_over:
            return
        assistant = ASSISTANTS[(number + turn) % len(ASSISTANTS)]
        request = pb.PostUserQueryRequest(
            id=assistant,
            user_message=f"turn {turn} of caller {number}{skills.random_wish(choices, may_ask=False)}",
            request_id=f"{number}-{turn}",
        )
        newest = fleet.newest_message[assistant]
        fleet.log.posted[request.request_id] = Posted(assistant, (request.user_message,), newest)
        deadline = time.monotonic() + PATIENCE
        while not await _post(server, request, fleet):
            assert time.monotonic() < deadline, f"no server accepts {request.user_message}"
            fleet.posted_again += 1
            server = fleet.newest
        if choices.random() < CHANGE_OF_SERVER:
            server = fleet.newest


async def _post(server: Server, request: pb.PostUserQueryRequest, fleet: Fleet) -> bool:
    """Posts a turn and returns whether it was acknowledged."""
    has_started = is_acknowledged = False
    call = server.running.stub.PostUserQuery(request, timeout=PATIENCE)
    try:
        while (response := await call.read()) is not grpc.aio.EOF:
            event = response.WhichOneof("event")
            if event == "started":
                has_started = True
                fleet.replayed += response.started.replayed
            elif event == "completed":
                is_acknowledged = True
                messages = response.completed.messages
                fleet.log.acknowledged.append(Acknowledged.of(request.request_id, messages))
                fleet.newest_message[request.id] = max(fleet.newest_message[request.id], messages[-1].index)
                server.has_answered.set()
    except grpc.aio.AioRpcError as error:
        # A turn is acknowledged once its caller has read `completed`, even if the connection breaks afterwards.
        fleet.statuses[_status(error, server)] += 1
        fleet.cut_short += has_started and not is_acknowledged
        return is_acknowledged
    fleet.statuses[OK if is_acknowledged else "OK, but without completed"] += 1
    return is_acknowledged


def _status(error: grpc.aio.AioRpcError, server: Server) -> str:
    found = failure(error)
    if found.code is grpc.StatusCode.UNAVAILABLE and not found.reason and server.is_stopping:
        return NO_CONNECTION
    return f"{found.code.name} {found.reason or found.text}"


async def run(stops: int, seed: int, account: Account | None = None) -> StopReport:
    """Stops a number of servers, which share an account or, without one, a SQLite file."""
    choices = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        async with Storyteller(PAUSE_BETWEEN_WORDS) as endpoint, RecordingHost() as host, AsyncExitStack() as stack:
            callers_file = identity(Path(folder))

            async def start() -> Server:
                settings = {
                    "PALAVER_CALLERS": str(callers_file.path),
                    "PALAVER_HISTORY_MESSAGES": str(HISTORY_MESSAGES),
                    "PALAVER_SKILL_HOSTS": host.target,
                    **variables(account),
                }
                metadata = callers_file.as_caller(NAME)
                server = server_process(Path(folder), endpoint.url, metadata=metadata, **settings)
                return Server(await stack.enter_async_context(server))

            fleet = Fleet(await start())
            for assistant in ASSISTANTS:
                request = pb.CreateAssistantRequest(id=assistant, instructions=INSTRUCTIONS)
                await fleet.newest.running.stub.CreateAssistant(request)
            began = time.monotonic()
            exits: list[tuple[int, float]] = []

            async def replace_servers() -> None:
                try:
                    for _ in range(stops):
                        old, fleet.newest = fleet.newest, await start()
                        await asyncio.wait_for(old.has_answered.wait(), PATIENCE)
                        await asyncio.sleep(choices.uniform(0, LONGEST_WAIT))  # the moment of the fault
                        exits.append(await _stop(old))
                finally:
                    fleet.is_over = True

            callers = (post_turns(number, fleet, choices) for number in range(CALLERS))
            await asyncio.gather(replace_servers(), *callers)
            model_calls = Counter(prompt[-1] for prompt in endpoint.prompts.values())
            return StopReport(
                store=name(account),
                stops=len(exits),
                turns=len(fleet.log.acknowledged),
                posted_again=fleet.posted_again,
                replayed=fleet.replayed,
                statuses=dict(fleet.statuses),
                verdict=await check(fleet.newest.running.stub, fleet.log, endpoint, host),
                cut_short=fleet.cut_short,
                paid_twice=sum(count > 1 for count in model_calls.values()),
                failed_exits=sum(status != 0 for status, _ in exits),
                longest_stop=max((seconds for _, seconds in exits), default=0.0),
                seconds=time.monotonic() - began,
            )


async def _stop(server: Server) -> tuple[int, float]:
    """Stops a server with SIGTERM. Returns its exit status and the seconds until it ended."""
    began = time.monotonic()
    server.is_stopping = True
    server.running.process.send_signal(signal.SIGTERM)
    status = await asyncio.wait_for(server.running.process.wait(), PATIENCE)
    return status, time.monotonic() - began


if __name__ == "__main__":
    main(__doc__, run, stops=100)
