"""One attempt of an attack, in a process of its own: a server, a second caller, and the attack between two reports."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
import uuid
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil

from palaver.v1 import assistant_service_pb2 as pb
from tests.attack.attack import Attack, Outcome
from tests.attack.target import KEY, PRIVATE_TEXT, SPARE_KEY, Size, Target
from tests.attack.witness import witness
from tests.support.endpoint import Endpoint
from tests.support.ports import free_port
from tests.support.server_process import COMMAND, server_process

MAX_ADDRESS_SPACE = 6 * 1024 * 1024
"""The KiB of address space that the server may have, so that a lost attack does not take the machine with it."""

BOUNDED = ("sh", "-c", f'ulimit -v {MAX_ADDRESS_SPACE} && exec "$@"', "sh", COMMAND)

WATCHED = "watched"
"""The assistant of the second caller."""

MAX_LOG_LINE = 4096
"""The bytes of the longest line that the server may log."""

IGNORED = (b"grpc._cython.cygrpc.ExecuteBatchError", b"google.protobuf.message.DecodeError")
"""The exceptions that gRPC itself logs: a caller left while a response was sent; a host's response does not parse."""

IDLE_SECONDS = 0.5
NICENESS = 10
"""The priority of attackers is lower than that of the server and of the second caller, which share the machine."""


def run(attack: Attack, size: Size) -> Outcome:
    """Makes one attempt of an attack against a new server."""
    return asyncio.run(_run(attack, size))


async def _run(attack: Attack, size: Size) -> Outcome:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = folder / "log"
        stderr = stack.enter_context(log.open("wb"))
        endpoint = await stack.enter_async_context(Endpoint())
        skill_host = f"127.0.0.1:{free_port()}"
        variables = {
            "OPENAI_API_KEY": KEY,
            "PALAVER_AI_CONNECTIONS": "Spare",
            "Spare__Endpoint": endpoint.url.removesuffix("/v1"),
            "Spare__Key": SPARE_KEY,
            "PALAVER_SKILL_HOSTS": skill_host,
            **attack.variables,
        }
        server = await stack.enter_async_context(
            server_process(folder / "data", endpoint.url, command=BOUNDED, stderr=stderr, **variables)
        )
        target = Target(server, endpoint, skill_host, folder, size)
        asyncio.get_running_loop().set_exception_handler(lambda _, context: _note_own_error(target, context))
        for name, text in ((WATCHED, ""), (uuid.uuid4().hex, PRIVATE_TEXT)):
            await server.stub.CreateAssistant(pb.CreateAssistantRequest(id=name, instructions=text))
        second = await stack.enter_async_context(witness(server, WATCHED))
        await second.report()  # the connection is being made until then
        await asyncio.sleep(IDLE_SECONDS)  # the time for which the idle server is measured
        idle = await second.report()
        _give_way()
        start = time.monotonic()
        await _attack(attack, target)
        seconds = time.monotonic() - start
        seen = await second.report()
        for failed in seen.failures:
            target.found(failed)
        if server.process.returncode is not None:
            target.found(f"the server ended with status {server.process.returncode}")
        check_log(target, log)
        growth = max(seen.memory - idle.memory, 0) / 2**20
        return Outcome(
            attack.name, attack.max_growth, seen.wait, idle.wait, seen.noise, growth, seconds, tuple(target.findings),
            ", ".join([*target.notes, *(f"{count:,} {name}" for name, count in target.answers.most_common())]),
        )  # fmt: skip


async def _attack(attack: Attack, target: Target) -> None:
    try:
        await asyncio.wait_for(attack.run(target), attack.time_limit)
    except asyncio.TimeoutError:
        target.found(f"the attack was not over after {attack.time_limit:g} s")


def _note_own_error(target: Target, context: dict[str, Any]) -> None:
    """Records an error of the endpoint or of an attack: an attack that fails by itself shows nothing."""
    error = context.get("exception")
    if error is not None and not isinstance(error, (asyncio.CancelledError, ConnectionError)):
        target.found(f"the attack itself failed: {error!r}")


def _give_way() -> None:
    """Lowers the priority of all threads of this process."""
    for thread in psutil.Process().threads():
        os.setpriority(os.PRIO_PROCESS, thread.id, NICENESS)


def check_log(target: Target, log: Path) -> None:
    """Records what the log of the server must not contain: secrets, tracebacks, endless lines."""
    errors: Counter[str] = Counter()
    in_traceback = False
    with log.open("rb") as lines:
        for line in lines:
            target.judge("the log", line)
            if len(line) > MAX_LOG_LINE:
                target.found(f"the log has a line of {len(line):,} bytes: {line[:100]!r}")
            if in_traceback and not line.startswith((b" ", *IGNORED)):  # the exception is below its traceback
                errors[line.decode(errors="replace").strip()] += 1
            in_traceback = line.startswith((b"Traceback", b" ")) if in_traceback else line.startswith(b"Traceback")
    # They explain the other findings, so they come first.
    target.findings[:0] = [f"the log has {count} tracebacks of {error}" for error, count in errors.most_common()]
