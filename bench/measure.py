"""The measurements. Each alternates between what it compares, so that noise of the machine affects all alike."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench import processes
from bench.load import MAX_HISTORY, callers
from bench.pace import Pace
from bench.processes import Measured
from palaver_server.domain.conversation import IfExists, Role
from palaver_server.domain.limits import MAX_TURN_MESSAGES
from palaver_server.stores.sqlite import SqliteStore
from tests.support.conversations import draft, exchange, finished, key

HISTORY = {"after 20 messages": 20, "after 2,000 messages": 2_000, "after 20,000 messages": 20_000}


@dataclass(frozen=True)
class Scenario:
    """A number of streams at a pace."""

    name: str
    streams: int
    pace: Pace

    def __str__(self) -> str:
        pace = f"{self.pace.per_second} tokens/s, " if self.pace.per_second else ""
        return f"{self.name}, {pace}{self.pace.pieces} tokens each"


@dataclass(frozen=True)
class Streamed:
    """The cost of one run of a scenario."""

    cpu: float
    """Microseconds of server CPU per token."""
    rate: float
    """The tokens that arrived per second and stream. Less than the pace if the machine can't keep up."""


async def cpu_per_token(
    servers: Sequence[Measured], scenarios: Sequence[Scenario], rounds: int
) -> dict[Scenario, dict[str, list[Streamed]]]:
    """Returns the cost of a token by scenario and by server, once for each round."""
    results: dict[Scenario, dict[str, list[Streamed]]] = {s: {m.name: [] for m in servers} for s in scenarios}
    async with AsyncExitStack() as stack:
        most = max(scenario.streams for scenario in scenarios)
        connected = [(server, await stack.enter_async_context(callers(server, most))) for server in servers]
        for _, caller in connected:
            await caller.streams(most, Pace(0, 20))  # opens the connections and warms everything up
        for number in range(rounds):
            for scenario in scenarios:
                # In turn, because whoever comes second finds another machine than whoever comes first.
                for server, caller in connected[::-1] if number % 2 else connected:
                    before, begun = server.cpu(), time.perf_counter()
                    await caller.streams(scenario.streams, scenario.pace)
                    rate = scenario.pace.pieces / (time.perf_counter() - begun)
                    tokens = scenario.streams * scenario.pace.pieces
                    results[scenario][server.name].append(Streamed((server.cpu() - before) / tokens * 1e6, rate))
    return results


async def first_piece(upstream: Measured, servers: Sequence[Measured], calls: int) -> dict[str, list[float]]:
    """Returns the milliseconds to the first piece, directly from the endpoint and through each server."""
    pace = Pace(0, 1)
    body = {"model": str(pace), "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    results: dict[str, list[float]] = {"direct": [], **{server.name: [] for server in servers}}
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        connected = [(server, await stack.enter_async_context(callers(server))) for server in servers]
        for _, caller in connected:
            await caller.create("first-piece")
            await caller.read("first-piece", pace)
        for _ in range(calls):
            begun = time.perf_counter()
            async with session.post(f"http://{upstream.target}/v1/chat/completions", json=body) as response:
                await response.content.readany()
                results["direct"].append((time.perf_counter() - begun) * 1e3)
                await response.read()
            for server, caller in connected:
                results[server.name].append(await caller.time_to_first_piece("first-piece", pace) * 1e3)
    return results


async def memory_per_stream(server: Measured, streams: int) -> float:
    """Returns the bytes that an open stream adds, including its connection to the endpoint.

    Every server can keep up with the pace, so that no backlog is measured.
    """
    async with callers(server, streams) as caller:
        # The first stream loads everything that is loaded once. More streams would leave memory that is used again.
        await caller.streams(1, Pace(0, 1))
        idle = peak = server.memory()
        running = asyncio.ensure_future(caller.streams(streams, Pace(5, 25)))
        while not running.done():
            await asyncio.wait([running], timeout=0.2)
            peak = max(peak, server.memory())
        await running
        return (peak - idle) / streams


async def fill(folder: Path) -> None:
    """Stores the conversations that `turn_cost` continues."""
    store = SqliteStore(folder / "palaver.db")
    for name, size in HISTORY.items():
        await store.create_assistant(key(name), "", IfExists.FAIL)
        for first in range(0, size, MAX_TURN_MESSAGES):
            window = await store.read_window(key(name), 0)
            drafts = [draft(Role.USER, "word " * 20)] * min(MAX_TURN_MESSAGES, size - first)
            await store.commit_turn(key(name), window.version, finished(*drafts))
    await store.close()


class CountingStore(SqliteStore):
    """Counts the instructions of SQLite's virtual machine, which measure the cost of a store call without noise."""

    steps = 0

    def _count(self) -> None:
        self.steps += 1

    async def open(self) -> None:
        for lane in (self._reads, self._writes):
            await lane.run(lambda connection: connection.set_progress_handler(self._count, 1))


async def store_steps(folder: Path) -> dict[str, int]:
    """Returns the steps of SQLite to read and to write a turn, by the length of the conversation."""
    store = CountingStore(folder / "palaver.db")
    await store.open()
    turn = finished(*exchange("Hello", "word"))
    results = {}
    for name in HISTORY:
        before = store.steps
        window = await store.read_window(key(name), MAX_HISTORY)
        await store.commit_turn(key(name), window.version, turn)
        results[name] = store.steps - before
    await store.close()
    return results


async def turn_cost(server: Measured, turns: int, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Returns the milliseconds of server CPU and of wall time per turn, by the length of the conversation."""
    results: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in HISTORY}
    async with callers(server) as caller:
        for name in HISTORY:
            await caller.read(name, Pace(0, 1))
        for _ in range(rounds):
            for name, (cpu, wall) in results.items():
                before, begun = server.cpu(), time.perf_counter()
                for _ in range(turns):
                    await caller.read(name, Pace(0, 1))
                cpu.append((server.cpu() - before) / turns * 1e3)
                wall.append((time.perf_counter() - begun) / turns * 1e3)
    return results


async def memory(folder: Path, streams: int) -> dict[str, float]:
    """Measures the memory of an open stream in fresh processes."""
    with processes.endpoint() as upstream, processes.echo() as echo, processes.palaver(upstream, folder) as server:
        return {measured.name: await memory_per_stream(measured, streams) for measured in (echo, server)}


def median_ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """Returns the median of the ratios, round by round."""
    return statistics.median(value / other for value, other in zip(values, base, strict=True))
