"""Checks of the schemas of skills and of arguments against them, in a process and with a time limit."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import msgspec
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from palaver_server.domain.limits import MAX_HOST_SCHEMA_CHARACTERS

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "palaver_server.skills.schema_process")

TIMEOUT = 2.0
"""Seconds that a check may take. Checks of ordinary schemas take less than a millisecond."""

START_TIMEOUT = 30.0
"""Seconds that the process may take to start, which is far more than it needs."""

MAX_ANSWER_BYTES = 65_536

FAILURES = (OSError, anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError)
"""The exceptions that a process raises that can't be started, takes too long (a `TimeoutError`), or dies."""

UNCHECKED = "The arguments can't be checked against the schema of the skill."


class SchemaChecker:
    """Checks that never block the event loop and always end, whatever the schema and the arguments.

    Each source of skills has a checker of its own, so that costly schemas of one don't hold up the others. The checks
    of a checker run one after the other, in a process that starts when it is first needed.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._process: Process | None = None

    async def schema_error(self, schema_json: str) -> str:
        """Returns an error message if a schema can't be used to check arguments, or an empty string."""
        if len(schema_json) > MAX_HOST_SCHEMA_CHARACTERS:
            return f"it has more than {MAX_HOST_SCHEMA_CHARACTERS:,} characters"
        error = await self._ask(schema_json)
        return "it takes too much time or memory" if error is None else error

    async def arguments_error(self, schema_json: str, arguments_json: str) -> str:
        """Returns an error message for the model if the arguments don't match the schema, or an empty string."""
        error = await self._ask(schema_json, arguments_json)
        if error is None:
            return UNCHECKED
        return f"The arguments do not match the schema: {error}" if error else ""

    async def _ask(self, *question: str) -> str | None:
        """Returns the answer of a process, or None if it knows none, takes too long or dies."""
        async with self._turn:
            try:
                self._process = self._process or await _start()
                with anyio.fail_after(TIMEOUT):
                    return await _answer(self._process, question)
            except FAILURES as error:
                logger.warning("a check against the schema of a skill was ended: %s", type(error).__name__)
                await self.close()
                return None
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        """Ends the process. It starts again if it is needed."""
        process, self._process = self._process, None
        if process is not None:
            await _end(process)


@asynccontextmanager
async def schema_checker() -> AsyncIterator[SchemaChecker]:
    """Yields a checker, whose process ends with the block."""
    checker = SchemaChecker()
    try:
        yield checker
    finally:
        await checker.close()


async def _start() -> Process:
    # In a session of its own, because Ctrl-C in a terminal is meant for the server alone.
    process = await anyio.open_process(COMMAND, stderr=None, start_new_session=True)
    try:
        with anyio.fail_after(START_TIMEOUT):
            await _line(process)
    except BaseException:
        await _end(process)
        raise
    return process


async def _answer(process: Process, question: tuple[str, ...]) -> str | None:
    assert process.stdin is not None  # noqa: S101 - it was asked for
    await process.stdin.send(msgspec.json.encode(question) + b"\n")
    return msgspec.json.decode(await _line(process), type=str | None)


async def _line(process: Process) -> bytes:
    assert process.stdout is not None  # noqa: S101 - it was asked for
    return await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", MAX_ANSWER_BYTES)


async def _end(process: Process) -> None:
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            process.kill()
        await process.aclose()
