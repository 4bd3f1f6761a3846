"""The catalogue of the skills of all sources."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

from palaver_server.domain.conversation import Skill, SkillResult
from palaver_server.domain.ports import SkillInvocation, SkillSource

logger = logging.getLogger(__name__)

REFRESH_INTERVAL = 30.0
"""Seconds between two refreshes of the sources, whose skills may change when they are redeployed."""

RETRY_INTERVAL = 2.0
"""Seconds between two refreshes while a source is unavailable."""


class SkillConflict(Exception):
    """Two sources provide a skill with the same name."""


class RemoteSkillSource(SkillSource, Protocol):
    """A source of skills that is reached over a network."""

    @property
    def name(self) -> str:
        """The name of the source in logs and error messages."""

    @property
    def is_available(self) -> bool:
        """False if the latest refresh failed."""

    async def refresh(self) -> None:
        """Fetches the skills of the source. If it is unavailable, it keeps the skills that it had."""


class SkillCatalogue:
    """A `SkillSource` that combines others. If two provide a skill with the same name, the first one is called."""

    def __init__(self, sources: Sequence[RemoteSkillSource] = ()) -> None:
        self._sources = sources

    def offered(self) -> tuple[Skill, ...]:
        """Returns the skills that are available now."""
        skills: dict[str, Skill] = {}
        for source in self._sources:
            for skill in source.offered():
                skills.setdefault(skill.name, skill)
        return tuple(skills.values())

    async def invoke(self, invocation: SkillInvocation) -> SkillResult:
        """Runs a skill at its source. A failure of any kind is returned as a result, for the model to read."""
        call = invocation.call
        for source in self._sources:
            if any(skill.name == call.name for skill in source.offered()):
                return replace(await source.invoke(invocation), source=source.name)
        return SkillResult.failure(call, f"The skill {call.name} is not available at the moment.")

    async def refresh(self) -> None:
        """Refreshes all sources. One that fails in an unexpected way is logged, and does not affect the others."""
        outcomes = await asyncio.gather(*(source.refresh() for source in self._sources), return_exceptions=True)
        for source, outcome in zip(self._sources, outcomes, strict=True):
            if isinstance(outcome, Exception):
                logger.error("the skills of %s can't be read", source.name, exc_info=outcome)

    def conflicts(self) -> list[str]:
        """Returns the names that more than one source provides, each with its sources."""
        owners: dict[str, list[str]] = {}
        for source in self._sources:
            for skill in source.offered():
                owners.setdefault(skill.name, []).append(source.name)
        return [f"{name} ({', '.join(sources)})" for name, sources in sorted(owners.items()) if len(sources) > 1]

    async def refresh_periodically(self) -> None:
        """Refreshes the sources periodically, until the task is cancelled."""
        while True:
            all_available = all(source.is_available for source in self._sources)
            await asyncio.sleep(REFRESH_INTERVAL if all_available else RETRY_INTERVAL)
            await self.refresh()
            for conflict in self.conflicts():
                logger.error(
                    "two skill hosts provide a skill with the same name; the first one is called: %s", conflict
                )


@asynccontextmanager
async def skill_catalogue(sources: Sequence[RemoteSkillSource]) -> AsyncIterator[SkillCatalogue]:
    """Yields a catalogue that is refreshed in the background; raises `SkillConflict` if it begins with a conflict."""
    catalogue = SkillCatalogue(sources)
    await catalogue.refresh()
    if conflicts := catalogue.conflicts():
        raise SkillConflict(f"two hosts provide a skill with the same name: {'; '.join(conflicts)}")
    refreshing = asyncio.create_task(catalogue.refresh_periodically())
    try:
        yield catalogue
    finally:
        refreshing.cancel()
        await asyncio.wait([refreshing])
