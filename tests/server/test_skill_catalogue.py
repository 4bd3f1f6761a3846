"""The catalogue over several skill hosts: calls, conflicts, and hosts that are down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from palaver_server.domain.conversation import SkillCall, SkillResult
from palaver_server.domain.ports import SkillInvocation
from palaver_server.domain.turns import TurnKey
from palaver_server.skills import catalogue as catalogue_module
from palaver_server.skills.catalogue import SkillCatalogue, SkillConflict, skill_catalogue
from palaver_server.skills.grpc_hosts import GrpcSkillHost
from palaver_server.skills.host_addresses import Address
from palaver_server.skills.schema_checker import schema_checker
from tests.support.conversations import key
from tests.support.skill_host import SkillHost, content


@asynccontextmanager
async def sources(*hosts: SkillHost) -> AsyncIterator[list[GrpcSkillHost]]:
    """Yields a source for each host."""
    async with AsyncExitStack() as stack:
        found = []
        for host in hosts:
            address = Address.parse(host.target, timeout=5.0, environment={})
            found.append(GrpcSkillHost(address, await stack.enter_async_context(schema_checker())))
            stack.push_async_callback(found[-1].close)
        yield found


@asynccontextmanager
async def refreshed(*hosts: SkillHost) -> AsyncIterator[SkillCatalogue]:
    """Yields a catalogue that has listed the skills of the hosts once."""
    async with sources(*hosts) as found:
        catalogue = SkillCatalogue(found)
        await catalogue.refresh()
        yield catalogue


def named(name: str) -> Any:
    """Returns a skill that answers with the name of its host."""
    return lambda _request: content(name)


def names(catalogue: SkillCatalogue) -> list[str]:
    return [skill.name for skill in catalogue.offered()]


async def invoke(catalogue: SkillCatalogue, name: str) -> SkillResult:
    return await catalogue.invoke(SkillInvocation(SkillCall("call-1", name, '{"task": "x"}'), TurnKey(key(), "r")))


async def test_each_skill_is_called_at_the_host_that_provides_it():
    async with (
        SkillHost(add=named("first"), list=named("first")) as first,
        SkillHost(clock=named("second")) as second,
        refreshed(first, second) as catalogue,
    ):
        assert names(catalogue) == ["add", "list", "clock"]
        assert catalogue.conflicts() == []
        assert await invoke(catalogue, "add") == SkillResult("call-1", "first")
        assert await invoke(catalogue, "clock") == SkillResult("call-1", "second")
        assert [request.name for request in first.requests] == ["add"]
        assert [(r.call_id, r.assistant_id, r.request_id) for r in second.requests] == [("call-1", "a", "r")]


async def test_the_first_of_two_hosts_with_the_same_skill_is_called_and_the_conflict_is_named():
    async with (
        SkillHost(clock=named("first"), add=named("first")) as first,
        SkillHost(add=named("second"), list=named("second"), clock=named("second")) as second,
    ):
        first.schema, second.schema = '{"title": "first"}', '{"title": "second"}'
        async with refreshed(first, second) as catalogue:
            assert names(catalogue) == ["clock", "add", "list"]
            schemas = {skill.name: skill.parameters_json_schema for skill in catalogue.offered()}
            assert schemas == {"clock": first.schema, "add": first.schema, "list": second.schema}
            assert (await invoke(catalogue, "add")).text == "first"
            assert second.requests == []
            targets = f"({first.target}, {second.target})"
            assert catalogue.conflicts() == [f"add {targets}", f"clock {targets}"]
        async with refreshed(second, first) as catalogue:
            assert (await invoke(catalogue, "add")).text == "second"


async def test_a_host_that_is_down_keeps_its_skills_and_does_not_hide_a_conflict():
    async with (
        SkillHost(add=named("first")) as first,
        SkillHost(add=named("second")) as second,
        refreshed(first, second) as catalogue,
    ):
        await first.stop()
        await catalogue.refresh()
        assert names(catalogue) == ["add"]
        assert len(catalogue.conflicts()) == 1
        result = await invoke(catalogue, "add")
        assert (result.text, result.is_error) == ("The skill add failed.", True)
        assert second.requests == []


async def test_a_skill_that_no_host_provides_is_reported_to_the_model():
    async with SkillHost(add=named("only")) as host, refreshed(host) as catalogue:
        result = await invoke(catalogue, "fly")
        assert (result.id, result.is_error) == ("call-1", True)
        assert result.text == "The skill fly is not available at the moment."
        assert host.requests == []
    result = await invoke(SkillCatalogue(), "add")
    assert result.text == "The skill add is not available at the moment."


async def test_a_catalogue_does_not_start_with_a_conflict():
    async with (
        SkillHost(add=named("first")) as first,
        SkillHost(add=named("second")) as second,
        sources(first, second) as found,
    ):
        with pytest.raises(SkillConflict, match=rf"add \({first.target}, {second.target}\)"):
            async with skill_catalogue(found):
                pytest.fail("the catalogue has started")


class Records(logging.Handler):
    """Collects log messages. A test can wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.put_nowait(record.getMessage())


async def test_a_conflict_that_arises_later_is_logged_and_the_first_host_is_called(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalogue_module, "REFRESH_INTERVAL", 0.01)
    records = Records()
    catalogue_module.logger.addHandler(records)
    try:
        async with (
            SkillHost(add=named("first")) as first,
            SkillHost(clock=named("second")) as second,
            sources(first, second) as found,
            skill_catalogue(found) as catalogue,
        ):
            assert names(catalogue) == ["add", "clock"]
            second.answers["add"] = named("second")
            text = await records.texts.get()
            assert text.endswith(f"the first one is called: add ({first.target}, {second.target})")
            assert (await invoke(catalogue, "add")).text == "first"
    finally:
        catalogue_module.logger.removeHandler(records)
