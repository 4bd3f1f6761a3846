"""The measurements. Each interleaves what it compares, so that the noise of the machine meets all alike."""

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
from bench.load import callers
from bench.pace import Pace
from bench.processes import Measured
from palaver_server.models import Draft, FinishReason, IfExists, Role, Usage
from palaver_server.stores.sqlite import SqliteStore
from palaver_server.stores.store import FinishedTurn

HISTORY = {"after 20 messages": 20, "after 2,000 messages": 2_000, "after 20,000 messages": 20_000}


@dataclass(frozen=True)
class Scenario:
    """A number of streams at a pace."""

    name: str
    streams: int
    pace: Pace


async def cpu_per_token(
    servers: Sequence[Measured], scenarios: Sequence[Scenario], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Returns the microseconds of server CPU per token: by scenario, by server, one for each round."""
    results: dict[str, dict[str, list[float]]] = {s.name: {m.name: [] for m in servers} for s in scenarios}
    async with AsyncExitStack() as stack:
        most = max(scenario.streams for scenario in scenarios)
        connected = [(server, await stack.enter_async_context(callers(server, most))) for server in servers]
        for _, caller in connected:
            await caller.streams(most, Pace(0, 20))  # opens the connections and warms everything up
        for _ in range(rounds):
            for scenario in scenarios:
                for server, caller in connected:
                    before = server.cpu()
                    await caller.streams(scenario.streams, scenario.pace)
                    tokens = scenario.streams * scenario.pace.pieces
                    results[scenario.name][server.name].append((server.cpu() - before) / tokens * 1e6)
    return results


async def first_piece(upstream: Measured, server: Measured, calls: int) -> tuple[list[float], list[float]]:
    """Returns the seconds to the first piece, asked of the endpoint directly and through a server."""
    pace, direct, through = Pace(0, 1), [], []
    body = {"model": str(pace), "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    async with callers(server) as caller, aiohttp.ClientSession() as session:
        await caller.create("first-piece")
        for _ in range(calls):
            begun = time.perf_counter()
            async with session.post(f"http://{upstream.target}/v1/chat/completions", json=body) as response:
                await response.content.readany()
                direct.append(time.perf_counter() - begun)
                await response.read()
            through.append(await caller.time_to_first_piece("first-piece", pace))
    return direct, through


async def memory_per_stream(server: Measured, streams: int) -> float:
    """Returns the bytes that an open stream adds, of streams that are in the middle of a paced reply."""
    async with callers(server, streams) as caller:
        await caller.streams(streams, Pace(0, 1))  # opens the connections, which stay open afterwards
        idle = server.memory()
        running = asyncio.ensure_future(caller.streams(streams, Pace(40, 160)))
        peak = idle
        while not running.done():
            await asyncio.sleep(0.2)
            peak = max(peak, server.memory())
        await running
        return (peak - idle) / streams


async def fill(folder: Path) -> None:
    """Writes the conversations that `turn_cost` goes on with."""
    store = SqliteStore(folder / "palaver.db")
    for name, size in HISTORY.items():
        await store.create_assistant("ChatState", name, "", IfExists.FAIL)
        for first in range(0, size, 500):
            window = await store.read_window("ChatState", name, 0)
            drafts = tuple(Draft(Role.USER, "word " * 20) for _ in range(min(500, size - first)))
            turn = FinishedTurn(f"fill-{first}", "", drafts, FinishReason.STOP, Usage(), 0, "")
            await store.commit_turn("ChatState", name, window.version, turn)
    await store.close()


async def turn_cost(server: Measured, turns: int, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Returns milliseconds of server CPU and of waiting per turn, by how long the conversation is already."""
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
