"""The readiness of a server: probes of everything that turns depend on, several of which must agree on a change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import anyio

from palaver_server.domain.conversation import DEFAULT_COLLECTION, AssistantKey
from palaver_server.domain.errors import ModelRateLimited
from palaver_server.domain.ports import ChatModel, Store
from palaver_server.domain.turns import LeaseHolder
from palaver_server.telemetry.causes import cause_of

logger = logging.getLogger(__name__)

STORE_INTERVAL = 5.0
"""Seconds between two probes of a store. In Azure they are one read each: 17,000 a day, which cost less than a cent."""

MODEL_INTERVAL = 30.0
"""Seconds between two probes of an endpoint, which may count them towards a limit of requests."""

CONFIRMATION_INTERVAL = 1.0
"""Seconds until the next probe if the last one contradicts the state."""

FAILURES = 3
"""The failures in a row after which something fails. Fewer could be the restart of a proxy or the failover of a
partition of Azure, which take about a second, and which turns get over with their own retries."""

SUCCESSES = 2
"""The successes in a row after which something works again. A single one could be chance while it is overloaded."""

STORE_MARGIN = 0.5
"""Seconds that a probe of a store may take beyond the time limit of the store, which knows better what is wrong."""

MODEL_TIMEOUT = 10.0
"""Seconds that a probe of an endpoint may take. Lists of models take less than one."""

PROBE_KEY = AssistantKey("", DEFAULT_COLLECTION, "palaver-health")
PROBE_HOLDER = LeaseHolder.of("palaver-health", "palaver-health")
"""The holder of a lease that nobody has: a server has a longer name."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """A part of the world that turns depend on."""

    name: str
    probe: Callable[[], Awaitable[object]]
    """Raises an exception if the dependency fails."""
    timeout: float
    """The seconds that a probe may take."""
    interval: float
    """The seconds between two probes."""
    is_required: bool = True
    """False if the server serves without it."""


def store_dependency(name: str, store: Store, timeout: float, *, is_required: bool) -> Dependency:
    """Returns the dependency on a storage connection, whose calls have a time limit."""
    return Dependency(
        f"the storage connection {name}",
        lambda: probe_store(store),
        timeout + STORE_MARGIN,
        STORE_INTERVAL,
        is_required,
    )


def model_dependency(name: str, model: ChatModel) -> Dependency:
    """Returns the dependency on an AI connection."""
    return Dependency(f"the AI connection {name}", lambda: _probe_model(model), MODEL_TIMEOUT, MODEL_INTERVAL)


async def probe_store(store: Store) -> None:
    """Makes a call that changes nothing; raises a `StoreError` if the store fails.

    It ends a lease that nobody has. SQLite takes its write lock for that and Azure reads a row, as for every turn.
    """
    await store.release_lease(PROBE_KEY, PROBE_HOLDER)


async def _probe_model(model: ChatModel) -> None:
    with suppress(ModelRateLimited):  # it works, and a retry of the turn will find it less busy
        await model.lists_models()


class Report(Protocol):
    """Receives the state of the server whenever it may have changed."""

    async def __call__(self, *, is_ready: bool) -> None:
        """Receives the state."""


class HealthMonitor:
    """Probes dependencies, each in a task of its own, and knows whether turns could run."""

    def __init__(self, dependencies: Iterable[Dependency]) -> None:
        self._watched = [_Watched(dependency) for dependency in dependencies]
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_ready(self) -> bool:
        """True while everything works that is required."""
        return all(watched.works for watched in self._watched if watched.dependency.is_required)

    async def look(self) -> None:
        """Probes once what is required, which decides the state to begin with."""
        required = [watched for watched in self._watched if watched.dependency.is_required]
        await asyncio.gather(*map(self._probe, required))

    def start(self, report: Report) -> None:
        """Probes in the background from now on."""
        self._tasks = [asyncio.create_task(self._watch(watched, report)) for watched in self._watched]

    async def stop(self) -> None:
        """Ends all of this."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _watch(self, watched: _Watched, report: Report) -> None:
        while True:
            await asyncio.sleep(watched.pause)
            if await self._probe(watched):
                await report(is_ready=self.is_ready)

    async def _probe(self, watched: _Watched) -> bool:
        """Probes a dependency, and returns whether its state has changed."""
        cause = await _cause_of_failure(watched.dependency)
        had_state = watched.works is not None
        has_changed = watched.has_changed(works=not cause)
        if has_changed and (had_state or cause):
            self._log(watched, cause)
        return has_changed

    def _log(self, watched: _Watched, cause: str) -> None:
        event = f"{watched.dependency.name} {f'fails: {cause}' if cause else 'works again'}"
        if watched.dependency.is_required:
            # It stays NOT_SERVING if something else fails, too.
            still = "still " if not cause and not self.is_ready else ""
            event = f"the server is {still}{'SERVING' if self.is_ready else 'NOT_SERVING'}: {event}"
        logger.warning("%s", event)


class _Watched:
    """A dependency, and whether it works."""

    def __init__(self, dependency: Dependency) -> None:
        self.dependency = dependency
        self.works: bool | None = None
        """None until it was probed."""
        self._contradictions = 0

    @property
    def pause(self) -> float:
        """The seconds until the next probe."""
        if self.works is None:
            return 0.0
        return CONFIRMATION_INTERVAL if self._contradictions else self.dependency.interval

    def has_changed(self, *, works: bool) -> bool:
        """Counts the outcome of a probe, and returns whether the state changes with it. The first one decides."""
        self._contradictions = self._contradictions + 1 if works != self.works else 0
        if self.works is not None and self._contradictions < (SUCCESSES if works else FAILURES):
            return False
        self.works, self._contradictions = works, 0
        return True


async def _cause_of_failure(dependency: Dependency) -> str:
    """Returns why a dependency fails, or an empty text."""
    try:
        # Not `asyncio.wait_for`: up to Python 3.11, it can lose the cancellation of the task, which would then go on.
        with anyio.fail_after(dependency.timeout):
            await dependency.probe()
    except TimeoutError:
        return f"no answer within {dependency.timeout:g} s"
    except Exception as error:  # whatever it is, no turn could run
        return cause_of(error)
    return ""
