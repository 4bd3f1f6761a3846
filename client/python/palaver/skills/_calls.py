"""The calls of a host: each runs as a task of its own, and a repeated one gets what became of the first."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import json
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from palaver.skills._definition import Definition
from palaver.skills._outcome import FAILED, logger, run, run_async
from palaver.skills._types import Invocation
from palaver.v1.skill_host_service_pb2 import InvokeSkillResponse

if TYPE_CHECKING:
    _Task: TypeAlias = asyncio.Task[InvokeSkillResponse]


@dataclass(frozen=True, slots=True)
class _Key:
    """What makes two calls the same. The assistant belongs to it, so that none gets what was meant for another."""

    call_id: str
    assistant_id: str
    skill: str
    arguments: bytes
    """A hash: the arguments themselves may be megabytes."""


class Calls:
    """The calls that run, and the outcomes of the latest that ended."""

    def __init__(self, remember: int, threads: int) -> None:
        """Takes how many outcomes to remember, and in how many threads synchronous functions run."""
        self._remember = remember
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="skill")
        self._running: set[_Task] = set()
        self._waitable: dict[_Key, _Task] = {}
        self._outcomes: OrderedDict[_Key, InvokeSkillResponse] = OrderedDict()

    async def call(self, definition: Definition, arguments_json: str, invocation: Invocation) -> InvokeSkillResponse:
        """Returns the outcome of a call, for which the function runs at most once while the call is remembered.

        A call that is remembered goes on when its caller leaves, whose repeat then finds the outcome. Any other one is
        cancelled, as far as it can be: a thread can't.
        """
        key = self._key(definition, arguments_json, invocation)
        if key is None:
            task = self._start(definition, arguments_json, invocation)
        elif (outcome := self._outcomes.get(key)) is not None:
            return outcome
        elif (running := self._waitable.get(key)) is not None:
            task = running
        else:
            task = self._waitable[key] = self._start(definition, arguments_json, invocation)
            task.add_done_callback(lambda ended: self._ended(key, ended))
        try:
            # Unlike `await task` this tells the end of the caller from that of the task: gRPC wants to see the one, and
            # its caller would wait for ever if a skill that raises CancelledError by itself looked like that.
            await asyncio.wait({task})
        except asyncio.CancelledError:
            if key is None:
                task.cancel()
            raise
        return _outcome(task, definition, invocation)

    async def close(self, grace: float) -> None:
        """Waits for the calls that run, and cancels those that are not over in so many seconds."""
        if self._running:
            await asyncio.wait(self._running, timeout=grace)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _key(self, definition: Definition, arguments_json: str, invocation: Invocation) -> _Key | None:
        if not self._remember or not invocation.call_id:
            return None
        arguments = hashlib.sha256(_canonical(arguments_json).encode()).digest()
        return _Key(invocation.call_id, invocation.assistant_id, definition.name, arguments)

    def _start(self, definition: Definition, arguments_json: str, invocation: Invocation) -> _Task:
        calling = run_async if definition.is_async else self._run_in_thread
        task = asyncio.create_task(calling(definition, arguments_json, invocation), name=f"skill {definition.name}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _run_in_thread(
        self, definition: Definition, arguments_json: str, invocation: Invocation
    ) -> InvokeSkillResponse:
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, context.run, run, definition, arguments_json, invocation
        )

    def _ended(self, key: _Key, task: _Task) -> None:
        del self._waitable[key]
        if task.cancelled() or task.exception() is not None:
            return
        self._outcomes[key] = task.result()
        if len(self._outcomes) > self._remember:
            self._outcomes.popitem(last=False)


def _canonical(arguments_json: str) -> str:
    """Writes arguments in one way: a model that is asked again may write the same ones in another."""
    try:
        return json.dumps(json.loads(arguments_json), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments_json


def _outcome(task: _Task, definition: Definition, invocation: Invocation) -> InvokeSkillResponse:
    if not task.cancelled() and task.exception() is None:
        return task.result()
    error = None if task.cancelled() else task.exception()
    logger.error("the skill %s was cancelled in the call %r", definition.name, invocation.call_id, exc_info=error)
    return FAILED
