"""The stored text forms of leases, usage and parameters, which other versions of the server also write and read."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver_server.domain.conversation import Role, SkillCall
from palaver_server.domain.errors import AssistantBusy, StoreCorrupt, TurnCancelled
from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.ports import Store
from palaver_server.domain.turns import Lease, LeaseHolder, TurnKey, Usage
from palaver_server.stores.leases import StoredLease
from tests.stores.conftest import Place
from tests.support.calls import contents as served_contents
from tests.support.calls import query
from tests.support.conversations import (
    add_turn,
    contents,
    create,
    draft,
    exchange,
    finished,
    history,
    key,
    lease,
    version_of,
)
from tests.support.endpoint import Endpoint
from tests.support.palaver_server import server_with_assistant
from tests.support.statuses import failure_of

NOW = datetime.now(timezone.utc)
LATER = NOW + timedelta(hours=1)
EARLIER = NOW - timedelta(hours=1)

HOLDERS = {
    "": (None, False),
    "turn.server": (LeaseHolder("turn", "server"), False),
    "cancelled turn.server": (LeaseHolder("turn", "server"), True),
    "turn.server.of.a.later.version": (LeaseHolder("turn", "server.of.a.later.version"), False),
}
UNKNOWN_HOLDERS = [
    "x",
    "x.",
    "cancelled x",
    "Cancelled turn.server",
    "cancelled  turn.server",
    "turn server",
    "😀",
    "'",
]
"""Texts that no known version writes, but that still name a turn."""

WITHOUT_A_TURN = [".", ".server", "cancelled ", "cancelled .server"]


class TestLeases:
    @pytest.mark.parametrize("text", HOLDERS)
    def test_the_text_form_is_read_and_written(self, text: str):
        parsed = StoredLease.parse(text, NOW)
        assert (parsed.holder, parsed.is_cancelled) == HOLDERS[text]
        assert parsed.holder_text == text
        assert parsed.until == NOW

    @pytest.mark.parametrize("seconds", [0, 0.25, 15, 600])
    def test_the_duration_is_read_back_and_belongs_to_the_server_for_older_servers(self, seconds: float):
        written = StoredLease.lasting(Lease(LeaseHolder("turn", "server"), seconds), NOW)
        assert StoredLease.parse(written.holder_text, written.until) == written
        assert written.holder_text == f"turn.server.{round(seconds * 1000)}ms"

    @given(request_id=st.text(), server=st.text(st.characters(codec="ascii"), min_size=1), is_cancelled=st.booleans())
    def test_what_is_written_is_read_back(self, request_id: str, server: str, is_cancelled: bool):
        written = StoredLease(LeaseHolder.of(request_id, server), NOW, is_cancelled)
        assert StoredLease.parse(written.holder_text, NOW) == written

    @given(st.text())
    def test_any_text_can_be_read(self, text: str):
        parsed = StoredLease.parse(text, NOW)
        assert StoredLease.parse(parsed.holder_text, NOW).holder == parsed.holder

    @pytest.mark.parametrize("text", HOLDERS)
    def test_a_lease_is_its_holders_until_it_is_cancelled(self, text: str):
        parsed = StoredLease.parse(text, NOW)
        holder, is_cancelled = HOLDERS[text]
        assert parsed.is_held_by(holder) == (holder is not None and not is_cancelled)
        assert parsed.was_cancelled(holder) == is_cancelled
        for other in (None, LeaseHolder("another", "server")):
            assert not parsed.is_held_by(other)
            assert not parsed.was_cancelled(other)

    @pytest.mark.parametrize("holder", ["turn.server", "turn.server.of.a.later.version", *UNKNOWN_HOLDERS])
    async def test_the_lease_of_any_other_holder_is_respected_until_it_expires(
        self, place: Place, store: Store, holder: str
    ):
        await create(store)
        place.set_lease(holder, LATER)
        is_cancelled = holder.startswith("cancelled ")
        if not is_cancelled:
            with pytest.raises(AssistantBusy) as caught:
                await store.read_window(key(), 10, lease("ours"))
            assert 0 < caught.value.retry_delay <= 3600
        await store.release_lease(key(), lease("ours").holder)  # not ours to release
        assert not await store.cancel_lease(TurnKey(key(), "ours"))
        place.set_lease(holder, EARLIER)
        window = await store.read_window(key(), 10, lease("ours"))
        stored = await store.commit_turn(key(), window.version, finished())
        assert stored.assistant.total_messages == 3

    @pytest.mark.parametrize("holder", ["", *WITHOUT_A_TURN])
    async def test_a_lease_without_a_turn_keeps_nobody_waiting(self, place: Place, store: Store, holder: str):
        await create(store)
        place.set_lease(holder, LATER)
        window = await store.read_window(key(), 10, lease("ours"))
        await store.commit_turn(key(), window.version, finished())
        assert await contents(store) == ["Be brief.", "How are you?", "Fine."]

    async def test_the_cancellation_by_another_version_is_obeyed(self, place: Place, store: Store):
        await create(store)
        ours = lease("ours")
        version = (await store.read_window(key(), 10, ours)).version
        cancelled = f"cancelled {ours.holder.turn}.{ours.holder.server}"
        place.set_lease(cancelled, LATER)
        assert await store.cancel_lease(TurnKey(key(), "ours"))  # it may be cancelled again
        with pytest.raises(TurnCancelled):
            await store.renew_lease(key(), version, ours)
        with pytest.raises(TurnCancelled):
            await store.commit_turn(key(), version, finished())
        place.set_lease(cancelled, LATER)
        window = await store.read_window(key(), 10, lease("theirs"))  # without waiting
        await store.commit_turn(key(), window.version, finished())


READABLE = {
    "usage": [
        ({"prompt_tokens": 3, "audio_tokens": 9, "details": {"x": [1]}}, Usage(prompt_tokens=3)),
        ({}, Usage()),
    ],
    "parameters": [
        (
            {"chat_model": "gpt", "temperature": 1, "reasoning_effort": "low", "stop": ["x"], "x": None},
            GenerationParameters(chat_model="gpt", temperature=1.0),
        ),
        ({"chat_model": "gpt", "top_p": None}, GenerationParameters(chat_model="gpt")),
        ({}, GenerationParameters()),
    ],
}
DAMAGED = {
    "usage": ["", "{", "null", "[]", '{"prompt_tokens": "3"}', '{"prompt_tokens": 3} x', "\x00"],
    "parameters": [
        "",
        "{",
        "null",
        "[]",
        '"gpt"',
        '{"chat_model": 1}',
        '{"temperature": "warm"}',
        '{"max_tokens": 1.5}',
    ],
    "finish_reason": ["", "STOP", "something new"],
}


READABLE_EXTRAS = {
    '{"endpoint_state": "[1]"}': "[1]",
    '{"endpoint_state": "[1]", "parts": [{"x": 1}]}': "[1]",
    '{"parts": []}': "",
    "{}": "",
}
DAMAGED_EXTRAS = ["{", "null", "[]", '{"endpoint_state": [1]}', '{"endpoint_state": null}', "{} x"]


class TestExtras:
    @pytest.mark.parametrize("characters", [1, 32_000, 100_000])
    @pytest.mark.parametrize("character", ["a", "é", "😀", '"'])
    async def test_the_state_of_an_endpoint_is_kept(self, store: Store, character: str, characters: int):
        await create(store)
        state = json.dumps([character * characters], ensure_ascii=False)
        calling = draft(Role.ASSISTANT, "", (SkillCall("1", "clock", "{}"),), endpoint_state=state)
        stored = await add_turn(store, exchange()[0], calling)
        assert [message.endpoint_state for message in stored.messages] == ["", state]
        assert (await history(store))[1:] == list(stored.messages)
        assert (await store.read_window(key(), 10)).messages == stored.messages

    @pytest.mark.parametrize(("text", "state"), READABLE_EXTRAS.items())
    async def test_extras_of_other_versions_are_read(self, place: Place, store: Store, text: str, state: str):
        await create(store)
        await add_turn(store, exchange()[0], draft(Role.ASSISTANT, "Fine.", endpoint_state="[]"))
        place.set_extras(text)
        assert [message.endpoint_state for message in await history(store)] == ["", "", state]

    @pytest.mark.parametrize("text", DAMAGED_EXTRAS)
    async def test_damaged_extras_are_reported(self, place: Place, store: Store, text: str):
        await create(store)
        await add_turn(store, exchange()[0], draft(Role.ASSISTANT, "Fine.", endpoint_state="[]"))
        place.set_extras(text)
        with pytest.raises(StoreCorrupt, match="a stored message can't be read"):
            await history(store)


def cases(table: dict[str, list]) -> list[tuple]:
    return [(column, value) for column, values in table.items() for value in values]


class TestTurns:
    @pytest.mark.parametrize(("column", "case"), cases(READABLE))
    async def test_members_that_are_unknown_or_missing_are_no_damage(
        self, place: Place, store: Store, column: str, case: tuple[dict, object]
    ):
        await create(store)
        stored = await store.commit_turn(key(), await version_of(store), finished(request_id="r"))
        value, expected = case
        place.set_turn_column(column, json.dumps(value))
        found = await store.find_turn(TurnKey(key(), "r"))
        assert found is not None
        assert getattr(found, column) == expected
        assert found.messages == stored.messages

    @pytest.mark.parametrize(("column", "text"), cases(DAMAGED))
    async def test_a_damaged_column_is_reported_and_harms_nothing_else(
        self, place: Place, store: Store, column: str, text: str
    ):
        await create(store)
        await store.commit_turn(key(), await version_of(store), finished(request_id="r"))
        place.set_turn_column(column, text)
        with pytest.raises(StoreCorrupt, match="a stored turn can't be read"):
            await store.find_turn(TurnKey(key(), "r"))
        assert await store.find_turn(TurnKey(key(), "other")) is None
        await store.commit_turn(key(), await version_of(store), finished())
        assert len(await history(store)) == 5

    @pytest.mark.parametrize(("column", "text"), [("usage", "{"), ("parameters", "["), ("finish_reason", "?")])
    async def test_a_caller_that_posts_again_gets_data_loss(
        self, place: Place, tmp_path: Path, endpoint: Endpoint, column: str, text: str
    ):
        async with server_with_assistant(tmp_path / "server", endpoint.url, place.variables) as served:
            await served.stub.PostUserQueryUnary(query(request_id="r"))
            place.set_turn_column(column, text)
            for call in (
                served.stub.PostUserQueryUnary(query(request_id="r")),
                served.stub.PostUserQuery(query(request_id="r")).read(),
            ):
                failure = await failure_of(call)
                assert (failure.code, failure.reason) == (grpc.StatusCode.DATA_LOSS, "STORE_CORRUPT")
                assert failure.retry_delay is None
            assert len(endpoint.calls) == 1
            await served.stub.PostUserQueryUnary(query("Next"))
            assert await served_contents(served) == ["Hello", "Hello, world", "Next", "Hello, world"]
