"""Attacks on worker processes: kill -9."""

from __future__ import annotations

import asyncio
import itertools

import grpc
import psutil

from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.domain.limits import MAX_PAGE_SIZE
from tests.attack.attack import Attack
from tests.attack.target import Target, query
from tests.support.calls import create_assistant, messages_of
from tests.support.server_process import ServerProcess, server_process

WORKERS = 2
TURNS = 10
"""The turns that are acknowledged before a worker is killed."""

END_TIMEOUT = 15.0
"""Seconds after the death of a worker until all of its siblings and the supervisor must have ended."""


async def killed_workers(target: Target) -> None:
    """Kills a worker of another server while a caller posts. All processes must end, and the turns must be kept."""
    stored: list[str] = []
    folder = target.folder / "workers"
    variables = {"PALAVER_WORKERS": str(WORKERS), "PALAVER_GRACE_PERIOD": "1"}
    with (target.folder / "workers' log").open("wb") as log:
        for number in range(target.count(5)):
            async with server_process(folder, target.endpoint.url, stderr=log, **variables) as server:
                await create_assistant(server, "a", if_exists=pb.IF_EXISTS_KEEP)
                await _kill_one(target, server, number, stored)
        async with server_process(folder, target.endpoint.url, stderr=log, **variables) as server:
            messages = await messages_of(server, page_size=MAX_PAGE_SIZE)
            kept = [message.content for message in messages if message.content.startswith("turn")]
    if lost := set(stored) - set(kept):
        target.found(f"{len(lost)} of {len(stored)} acknowledged turns were lost")
    if len(set(kept)) < len(kept):
        target.found("turns were stored twice")
    target.notes.append(f"{len(stored)} turns")


async def _kill_one(target: Target, server: ServerProcess, number: int, stored: list[str]) -> None:
    supervisor = psutil.Process(server.process.pid)
    workers = [child for child in supervisor.children() if "spawn_main" in " ".join(child.cmdline())]

    enough = asyncio.Event()

    async def post() -> None:
        for turn in itertools.count():
            text = f"turn {number}.{turn}"
            try:
                await server.stub.PostUserQueryUnary(query("a", text))
            except grpc.aio.AioRpcError:
                return
            stored.append(text)
            if turn == TURNS:
                enough.set()

    posting = asyncio.ensure_future(post())
    await enough.wait()
    workers[number % len(workers)].kill()
    try:
        await asyncio.wait_for(server.process.wait(), END_TIMEOUT)
    except asyncio.TimeoutError:
        target.found(f"the server still runs {END_TIMEOUT:g} s after the death of a worker")
    if server.process.returncode == 0:
        target.found("the server ended with status 0 after the death of a worker")
    if alive := [worker.pid for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]:
        target.found(f"{len(alive)} of {len(workers)} workers outlived the server")
        for worker in workers:
            if worker.is_running():
                worker.kill()
    await posting


ATTACKS = (Attack("workers: kill -9", killed_workers, time_limit=120),)
