"""Any sequence of calls has the same effect on a store as on a dictionary of lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palaver_server.domain.conversation import (
    AssistantKey,
    Content,
    Draft,
    IfExists,
    Listing,
    Message,
    Order,
    Page,
    Role,
    SkillCall,
)
from palaver_server.domain.errors import AssistantExists, AssistantNotFound, ConcurrentWrite
from palaver_server.domain.ports import Store
from palaver_server.domain.turns import FinishedTurn, Version
from tests.stores.conftest import Place
from tests.support.conversations import finished, key


@dataclass
class Conversation:
    """The expected conversation of an assistant."""

    messages: list[Message] = field(default_factory=list)
    total_tokens: int = 0


Key = tuple[str, str]  # collection and id, as a caller writes them


def at(address: Key) -> AssistantKey:
    collection, name = address
    return key(name, collection)


keys = st.tuples(st.sampled_from(["Chats", "CHATS", "Other"]), st.sampled_from(["a", "A", "a'b"]))
drafts = st.builds(
    Draft,
    role=st.sampled_from([Role.USER, Role.ASSISTANT, Role.TOOL]),
    content=st.builds(Content, st.text(st.characters(codec="utf-8"), max_size=5)),
    skill_calls=st.lists(st.builds(SkillCall, st.text("ab"), st.text("ab"), st.text("{}")), max_size=2).map(tuple),
    skill_call_id=st.text("ab", max_size=2),
)
turns = st.builds(
    lambda messages, tokens: finished(*messages, total_tokens=tokens),
    st.lists(drafts, min_size=1, max_size=5),
    st.integers(0, 1000),
)
positions = st.none() | st.integers(0, 20)
calls = st.lists(
    st.one_of(
        st.tuples(st.just("create"), keys, st.sampled_from(["", " ", "Be brief."]), st.sampled_from(IfExists)),
        st.tuples(st.just("delete"), keys),
        st.tuples(st.just("commit"), keys, turns),
        st.tuples(st.just("commit"), keys, turns),
        st.tuples(st.just("commit_to_old_version"), keys, turns, st.integers(0, 50)),
        st.tuples(st.just("list_messages"), keys, st.sampled_from(Order), positions, positions, st.integers(1, 8)),
        st.tuples(st.just("window"), keys, st.integers(0, 12)),
        st.tuples(st.just("reconnect")),
    ),
    min_size=5,
    max_size=40,
)


class Comparison:
    """Makes each call on a store and on the model, and compares the results."""

    def __init__(self, place: Place, stores: list[Store]) -> None:
        self._place = place
        self._stores = stores
        self._conversations: dict[Key, Conversation] = {}
        self._versions: list[tuple[Conversation, int, str]] = []
        """Versions that were read, each with its conversation and the number of messages then."""

    @property
    def _store(self) -> Store:
        return self._stores[0]

    def _expected(self, key: Key) -> Conversation | None:
        return self._conversations.get((key[0].lower(), key[1]))

    async def make(self, call: str, *arguments: object) -> None:
        if arguments and not self._place.ignores_case:
            (collection, name), *arguments = arguments
            arguments = ((collection.capitalize(), name), *arguments)
        await getattr(self, call)(*arguments)
        self._stores.append(self._stores.pop(0))  # the next call is the next store's

    async def reconnect(self) -> None:
        await self._place.close(self._stores.pop(0))
        self._stores.append(await self._place.connect())

    async def create(self, key: Key, instructions: str, if_exists: IfExists) -> None:
        expected = self._expected(key)
        if expected is not None and if_exists is IfExists.FAIL:
            with pytest.raises(AssistantExists):
                await self._store.create_assistant(at(key), instructions, if_exists)
        else:
            _, created = await self._store.create_assistant(at(key), instructions, if_exists)
            assert created == (expected is None or if_exists is IfExists.RESET)
            if created:
                expected = self._conversations[key[0].lower(), key[1]] = Conversation()
                if instructions.strip():
                    time = (await self._store.get_assistant(at(key))).create_time
                    expected.messages.append(Message(Role.SYSTEM, Content(instructions), index=1, create_time=time))
        await self.compare(key)

    async def delete(self, key: Key) -> None:
        if self._expected(key) is None:
            with pytest.raises(AssistantNotFound):
                await self._store.delete_assistant(at(key))
        else:
            await self._store.delete_assistant(at(key))
            del self._conversations[key[0].lower(), key[1]]
        await self.compare(key)

    async def commit(self, key: Key, turn: FinishedTurn) -> None:
        expected = self._expected(key)
        if expected is None:
            with pytest.raises(AssistantNotFound):
                await self._store.read_window(at(key), 0)
            return
        version = (await self._store.read_window(at(key), 0)).version
        self._versions.append((expected, len(expected.messages), version))
        await self._commit_to(key, version, expected, turn)

    async def commit_to_old_version(self, key: Key, turn: FinishedTurn, position: int) -> None:
        if not self._versions:
            return
        conversation, count, version = self._versions[position % len(self._versions)]
        expected = self._expected(key)
        if expected is conversation and len(expected.messages) == count:
            await self._commit_to(key, version, expected, turn)
        else:
            with pytest.raises(ConcurrentWrite):
                await self._store.commit_turn(at(key), version, turn)
        await self.compare(key)

    async def _commit_to(self, key: Key, version: Version, expected: Conversation, turn: FinishedTurn) -> None:
        stored = await self._store.commit_turn(at(key), version, turn)
        assert tuple(Draft(m.role, m.content, m.skill_calls, m.skill_call_id) for m in stored.messages) == turn.messages
        assert {message.request_id for message in stored.messages} == {turn.request_id}
        expected.messages += stored.messages
        expected.total_tokens = turn.total_tokens
        assert [message.index for message in expected.messages] == list(range(1, len(expected.messages) + 1))
        assert all(earlier.create_time < later.create_time for earlier, later in pairwise(expected.messages))
        await self.compare(key)

    async def compare(self, key: Key) -> None:
        expected = self._expected(key)
        for store in self._stores:
            if expected is None:
                with pytest.raises(AssistantNotFound):
                    await store.get_assistant(at(key))
                continue
            assistant = await store.get_assistant(at(key))
            assert assistant.id == key[1]
            assert assistant.total_messages == len(expected.messages)
            assert assistant.total_tokens == expected.total_tokens
            if expected.messages:
                assert assistant.update_time == expected.messages[-1].create_time
            page = await store.list_messages(at(key), Listing(limit=1000))
            assert page == Page(tuple(expected.messages), has_more=False)

    async def list_messages(
        self, key: Key, order: Order, after_time: int | None, after_index: int | None, limit: int
    ) -> None:
        expected = self._expected(key)
        if expected is None:
            with pytest.raises(AssistantNotFound):
                await self._store.list_messages(at(key), Listing())
            return
        messages, time = expected.messages, None
        if after_time is not None and after_time < len(messages):
            time = messages[after_time].create_time
            messages = messages[after_time + 1 :]
        if order is Order.NEWEST_FIRST:
            messages = messages[::-1]
        if after_index is not None:
            newest_first = order is Order.NEWEST_FIRST
            messages = [m for m in messages if (m.index < after_index if newest_first else m.index > after_index)]
        page = await self._store.list_messages(at(key), Listing(order, time, after_index, limit))
        assert page == Page(tuple(messages[:limit]), has_more=len(messages) > limit)

    async def window(self, key: Key, size: int) -> None:
        expected = self._expected(key)
        if expected is None:
            with pytest.raises(AssistantNotFound):
                await self._store.read_window(at(key), size)
            return
        window = await self._store.read_window(at(key), size)
        self._versions.append((expected, len(expected.messages), window.version))
        rest = expected.messages
        if rest and rest[0].role is Role.SYSTEM:
            assert window.instructions == rest[0]
            rest = rest[1:]
        else:
            assert window.instructions is None
        assert list(window.messages) == (rest[-size:] if size else [])
        assert window.assistant.total_messages == len(expected.messages)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(calls)
async def test_a_store_does_what_the_model_does(place: Place, calls: list[tuple]):
    stores = [await place.connect(), await place.connect()]
    for collection in ("Chats", "Other"):
        for name in ("a", "A", "a'b"):
            await stores[0].create_assistant(key(name, collection), "", IfExists.KEEP)
            await stores[0].delete_assistant(key(name, collection))
    comparison = Comparison(place, stores)
    for call, *arguments in calls:
        await comparison.make(call, *arguments)
    for store in stores:
        await place.close(store)
