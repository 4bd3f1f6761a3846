"""The calls of a host: each runs in its own task, and a repeated call gets the outcome of the first one."""

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
    """The identity of a call, including the assistant, so that no assistant gets the outcome of another's call."""

    call_id: str
    assistant_id: str
    skill: str
    arguments: bytes
    """A hash, because the arguments may have megabytes."""


class Calls:
    """The running calls, and the outcomes of the latest finished ones."""

    def __init__(self, remember: int, threads: int) -> None:
        """Creates the thread pool for synchronous functions.

        Args:
            remember: How many outcomes to remember.
            threads: How many threads to run synchronous functions in.
        """
        self._remember = remember
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="skill")
        self._running: set[_Task] = set()
        self._running_by_key: dict[_Key, _Task] = {}
        self._outcomes: OrderedDict[_Key, InvokeSkillResponse] = OrderedDict()

    async def call(self, definition: Definition, arguments_json: str, invocation: Invocation) -> InvokeSkillResponse:
        """Calls the function of a skill and returns the outcome, or returns that of the call that this one repeats.

        If the caller leaves, a call that is to be remembered continues, so that a repeated call finds its outcome.
        Other calls are canceled, except for synchronous functions, because threads can't be canceled.
        """
        key = self._key(definition, arguments_json, invocation)
        if key is None:
            task = self._start(definition, arguments_json, invocation)
        elif (outcome := self._outcomes.get(key)) is not None:
            return outcome
        elif (running := self._running_by_key.get(key)) is not None:
            task = running
        else:
            task = self._running_by_key[key] = self._start(definition, arguments_json, invocation)
            task.add_done_callback(lambda ended: self._remember_outcome(key, ended))
        try:
            # Unlike `await task`, this distinguishes a canceled caller from a canceled task. gRPC must see the
            # CancelledError of the caller. If it saw one that a skill raised, it would never answer the call.
            await asyncio.wait({task})
        except asyncio.CancelledError:
            if key is None:
                task.cancel()
            raise
        return _outcome(task, definition, invocation)

    async def close(self, grace_period: float) -> None:
        """Waits for the running calls, and cancels those that do not finish within the grace period, in seconds."""
        if self._running:
            await asyncio.wait(self._running, timeout=grace_period)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _key(self, definition: Definition, arguments_json: str, invocation: Invocation) -> _Key | None:
        """Returns the identity of a call, or None if the call is not to be remembered."""
        if not self._remember or not invocation.call_id:
            return None
        arguments = hashlib.sha256(_canonical(arguments_json).encode()).digest()
        return _Key(invocation.call_id, invocation.assistant_id, definition.name, arguments)

    def _start(self, definition: Definition, arguments_json: str, invocation: Invocation) -> _Task:
        """Starts a call in its own task."""
        call = run_async if definition.is_async else self._run_in_thread
        task = asyncio.create_task(call(definition, arguments_json, invocation), name=f"skill {definition.name}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _run_in_thread(
        self, definition: Definition, arguments_json: str, invocation: Invocation
    ) -> InvokeSkillResponse:
        """Calls a synchronous function in a thread, with the context variables of the caller."""
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, context.run, run, definition, arguments_json, invocation
        )

    def _remember_outcome(self, key: _Key, task: _Task) -> None:
        """Moves a finished call to the remembered outcomes, and forgets the oldest outcome if there are too many."""
        del self._running_by_key[key]
        if task.cancelled() or task.exception() is not None:
            return
        self._outcomes[key] = task.result()
        if len(self._outcomes) > self._remember:
            self._outcomes.popitem(last=False)


def _canonical(arguments_json: str) -> str:
    """Returns arguments in a canonical form, because a repeated call may format the same arguments differently."""
    try:
        return json.dumps(json.loads(arguments_json), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments_json


def _outcome(task: _Task, definition: Definition, invocation: Invocation) -> InvokeSkillResponse:
    """Returns the outcome of a finished task. Logs a task that was canceled or could not run its function."""
    if not task.cancelled() and task.exception() is None:
        return task.result()
    error = None if task.cancelled() else task.exception()
    logger.error("the skill %s was canceled in the call %r", definition.name, invocation.call_id, exc_info=error)
    return FAILED
