"""Whether turns could run: what they depend on is probed all the time, and a state changes only if this is sure."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

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
        """Whether everything works that is required."""
        return all(watched.works for watched in self._watched if watched.dependency.is_required)

    async def look(self) -> None:
        """Probes each dependency once. What fails is not taken for sound until it is."""
        for watched, cause in zip(
            self._watched, await asyncio.gather(*(_probe(each.dependency) for each in self._watched)), strict=True
        ):
            watched.works = not cause
            if cause:
                self._log(watched, cause)

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
        is_sure = True
        while True:
            await asyncio.sleep(watched.dependency.interval if is_sure else CONFIRMATION_INTERVAL)
            cause = await _probe(watched.dependency)
            if watched.has_changed(works=not cause):
                self._log(watched, cause)
                await report(is_ready=self.is_ready)
            is_sure = watched.works is not bool(cause)

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
        self.works = True
        self._contradictions = 0

    def has_changed(self, *, works: bool) -> bool:
        """Counts the outcome of a probe, and returns whether the state changes with it."""
        self._contradictions = self._contradictions + 1 if works != self.works else 0
        if self._contradictions < (SUCCESSES if works else FAILURES):
            return False
        self.works, self._contradictions = works, 0
        return True


async def _probe(dependency: Dependency) -> str:
    """Returns why a dependency fails, or an empty text."""
    try:
        await asyncio.wait_for(dependency.probe(), dependency.timeout)
    except asyncio.TimeoutError:
        return f"no answer within {dependency.timeout:g} s"
    except Exception as error:  # whatever it is, no turn could run
        return cause_of(error)
    return ""
