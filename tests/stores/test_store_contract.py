"""The contract of every store (`palaver_server.domain.ports`)."""

from __future__ import annotations

import asyncio
import json
import unicodedata
import uuid
from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palaver_server.domain.conversation import Content, Draft, IfExists, Listing, Message, Order, Role, SkillCall
from palaver_server.domain.errors import (
    AssistantBusy,
    AssistantExists,
    AssistantNotFound,
    ConcurrentWrite,
    ConversationFull,
    TurnCancelled,
    TurnTooLarge,
)
from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.limits import MAX_MESSAGE_UNITS, MAX_MESSAGES, MAX_PAGE_BYTES, MAX_TURN_MESSAGES
from palaver_server.domain.ports import Store
from palaver_server.domain.turns import FinishedTurn, FinishReason, FoundTurn, TurnKey, Usage
from palaver_server.stores.common import page_of
from tests.stores.conftest import Place
from tests.support.conversations import (
    COLLECTION,
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

IDS = [
    "x' or PartitionKey eq 'victim",
    "' or '1' eq '1",
    "' OR 1=1 --",
    "'; DROP TABLE assistants; --",
    '"victim"',
    "vic%",
    "victi_",
    "*",
    "%27%20or%20true",
    "victim' ",
    "victim ",
    "Victim",
    "victim\u200b",
    "v\u00edctim",
    "v\u0069\u0301ctim",
    "👩‍👩‍👧‍👦",
    "助手",
    "مساعد",
    "\u202emitciv",
    "𝔳𝔦𝔠𝔱𝔦𝔪",
    ".",
    "..",
    "state",
    "msg-0001",
    "a" * 255,
]

# Any text that UTF-8 can encode, and more often the characters that stores have failed on.
nasty = "a\0\r\n\t\\\"'%_\x7f\x85\u2028\ufeff\uffff😀𠀀ß"
texts = st.text(st.characters(codec="utf-8")) | st.text(st.sampled_from(nasty))
shared_place = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)


class TestCreating:
    async def test_a_new_assistant_holds_its_instructions_as_the_first_message(self, store: Store):
        before = datetime.now(timezone.utc)
        assistant, created = await store.create_assistant(key(), " Be brief.\n", IfExists.FAIL)
        after = datetime.now(timezone.utc)
        assert created
        assert (assistant.id, assistant.total_messages, assistant.total_tokens) == ("a", 1, 0)
        assert before - timedelta(milliseconds=1) <= assistant.create_time <= after
        assert assistant.update_time == assistant.create_time
        assert await store.get_assistant(key()) == assistant
        assert await history(store) == [
            Message(Role.SYSTEM, Content(" Be brief.\n"), index=1, create_time=assistant.create_time, request_id="")
        ]

    @pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u00a0\u3000"])
    async def test_blank_instructions_make_no_message(self, store: Store, blank: str):
        assistant, created = await store.create_assistant(key(), blank, IfExists.FAIL)
        assert (created, assistant.total_messages) == (True, 0)
        assert assistant.update_time == assistant.create_time
        assert await history(store) == []
        stored = await add_turn(store, *exchange("First", "Second"))
        assert [message.index for message in stored.messages] == [1, 2]
        window = await store.read_window(key(), 10)
        assert window.instructions is None
        assert window.messages == stored.messages

    async def test_fail_refuses_an_assistant_that_exists_and_changes_nothing(self, store: Store):
        await create(store)
        await add_turn(store)
        before = await store.get_assistant(key()), await history(store), await version_of(store)
        with pytest.raises(AssistantExists):
            await store.create_assistant(key(), "Other instructions", IfExists.FAIL)
        assert (await store.get_assistant(key()), await history(store), await version_of(store)) == before

    async def test_keep_returns_an_assistant_that_exists_as_it_is(self, store: Store):
        await create(store)
        stored = await add_turn(store)
        before, version = await history(store), await version_of(store)
        kept = await store.create_assistant(key(), "Other instructions", IfExists.KEEP)
        assert kept == (stored.assistant, False)
        assert await history(store) == before
        assert await version_of(store) == version

    @pytest.mark.parametrize("if_exists", [IfExists.KEEP, IfExists.RESET])
    async def test_keep_and_reset_create_an_assistant_that_does_not_exist(self, store: Store, if_exists: IfExists):
        assistant, created = await store.create_assistant(key(), "Be brief.", if_exists)
        assert (created, assistant.total_messages) == (True, 1)
        assert await contents(store) == ["Be brief."]

    @pytest.mark.parametrize("instructions", ["Start over.", ""])
    async def test_reset_forgets_the_conversation(self, store: Store, instructions: str):
        await create(store)
        old = await add_turn(store)
        assistant, created = await store.create_assistant(key(), instructions, IfExists.RESET)
        expected = [instructions] if instructions else []
        assert (created, assistant.total_messages, assistant.total_tokens) == (True, len(expected), 0)
        assert assistant.create_time == assistant.update_time > old.assistant.create_time
        assert await store.get_assistant(key()) == assistant
        assert await contents(store) == expected
        window = await store.read_window(key(), 100)
        assert window.messages == ()

    async def test_reset_forgets_the_turns_and_frees_their_request_ids(self, store: Store):
        await create(store)
        turn = finished(request_id="r")
        await store.commit_turn(key(), await version_of(store), turn)
        await store.create_assistant(key(), "", IfExists.RESET)
        again = await store.commit_turn(key(), await version_of(store), turn)
        assert [message.index for message in again.messages] == [1, 2]

    @pytest.mark.parametrize("messages_after_reset", [0, 1])
    async def test_a_turn_from_before_a_reset_is_refused(self, store: Store, messages_after_reset: int):
        await create(store)
        old = await version_of(store)
        await store.create_assistant(key(), "x" * messages_after_reset, IfExists.RESET)
        with pytest.raises(ConcurrentWrite):
            await store.commit_turn(key(), old, finished())
        assert await contents(store) == ["x"] * messages_after_reset

    async def test_instructions_of_full_size_are_kept(self, store: Store):
        instructions = "é" * MAX_MESSAGE_UNITS
        await create(store, instructions=instructions)
        assert await contents(store) == [instructions]


class TestFinding:
    @pytest.mark.parametrize("collection", [COLLECTION, "NeverUsed"])
    async def test_an_unknown_assistant_is_not_found(self, store: Store, collection: str):
        await create(store, "other")
        for call in (
            store.get_assistant(key("a", collection)),
            store.list_messages(key("a", collection), Listing()),
            store.delete_assistant(key("a", collection)),
            store.read_window(key("a", collection), 10),
        ):
            with pytest.raises(AssistantNotFound, match=f'"a" in the collection "{collection}"'):
                await call

    async def test_a_deleted_assistant_is_gone_with_its_messages(self, store: Store):
        await create(store)
        await add_turn(store)
        await store.delete_assistant(key())
        with pytest.raises(AssistantNotFound):
            await store.get_assistant(key())
        with pytest.raises(AssistantNotFound):
            await store.delete_assistant(key())
        await create(store, instructions="New")
        assert await contents(store) == ["New"]

    async def test_deleting_one_assistant_leaves_the_others(self, store: Store):
        for name in ("a", "b"):
            await create(store, name)
            await add_turn(store, name=name)
        before = await store.get_assistant(key("b")), await history(store, "b")
        await store.delete_assistant(key())
        assert (await store.get_assistant(key("b")), await history(store, "b")) == before

    async def test_collections_are_separate(self, store: Store):
        await create(store, instructions="One", collection="One")
        await create(store, instructions="Two", collection="Two")
        await add_turn(store, *exchange("To one"), collection="One")
        assert await contents(store, collection="One") == ["One", "To one", "Fine."]
        assert await contents(store, collection="Two") == ["Two"]
        await store.delete_assistant(key("a", "One"))
        assert await contents(store, collection="Two") == ["Two"]

    async def test_the_names_of_collections_ignore_case(self, place: Place, store: Store):
        if not place.ignores_case:
            pytest.xfail("Azurite finds a table by its exact name only, where Azure ignores the case")
        await create(store, collection="ChatState")
        with pytest.raises(AssistantExists):
            await create(store, collection="CHATSTATE")
        await add_turn(store, collection="chatstate")
        assert (await store.get_assistant(key("a", "cHATsTATE"))).total_messages == 3
        await store.delete_assistant(key("a", "chatSTATE"))
        with pytest.raises(AssistantNotFound):
            await store.get_assistant(key("a", "ChatState"))

    @pytest.mark.parametrize("name", IDS, ids=ascii)
    async def test_an_id_names_no_other_assistant(self, store: Store, name: str):
        await create(store, "victim", instructions="Secret")
        victim = await add_turn(store, *exchange("Secret question"), name="victim")
        for call in (
            store.get_assistant(key(name)),
            store.list_messages(key(name), Listing()),
            store.read_window(key(name), 10),
            store.delete_assistant(key(name)),
        ):
            with pytest.raises(AssistantNotFound):
                await call
        with pytest.raises(ConcurrentWrite):
            await store.commit_turn(key(name), await version_of(store, "victim"), finished())

        await create(store, name, instructions="Mine")
        stored = await add_turn(store, *exchange("My question"), name=name)
        assert stored.assistant.id == name
        assert await store.get_assistant(key(name)) == stored.assistant
        assert await contents(store, name) == ["Mine", "My question", "Fine."]
        await store.create_assistant(key(name), "", IfExists.RESET)
        await store.delete_assistant(key(name))

        assert await store.get_assistant(key("victim")) == victim.assistant
        assert await contents(store, "victim") == ["Secret", "Secret question", "Fine."]

    async def test_ids_that_look_alike_are_different_assistants(self, store: Store):
        alike = ["é", unicodedata.normalize("NFD", "é"), "É", "e", "ß", "ss", "I", "i", "\u0131", "K", "\u212a"]
        for name in alike:
            await create(store, name, instructions=f"I am {name}")
        for name in alike:
            assert await contents(store, name) == [f"I am {name}"]


class TestListing:
    @pytest.fixture
    async def messages(self, store: Store) -> list[Message]:
        """Seven messages; turns of different lengths, with instructions."""
        await create(store)
        for turn in ("bc", "d", "efg"):
            await add_turn(store, *(draft(Role.USER, text) for text in turn))
        return await history(store)

    async def test_messages_are_listed_in_both_orders(self, store: Store, messages: list[Message]):
        assert [message.content.text for message in messages] == ["Be brief.", *"bcdefg"]
        assert [message.index for message in messages] == [1, 2, 3, 4, 5, 6, 7]
        newest_first = await store.list_messages(key(), Listing(Order.NEWEST_FIRST))
        assert list(newest_first.messages) == messages[::-1]

    @pytest.mark.parametrize("order", Order)
    @pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8, 1000])
    async def test_the_pages_together_are_the_whole_list(
        self, store: Store, messages: list[Message], order: Order, limit: int
    ):
        expected = messages if order is Order.OLDEST_FIRST else messages[::-1]
        after_index = None
        found: list[Message] = []
        while True:
            page = await store.list_messages(key(), Listing(order=order, after_index=after_index, limit=limit))
            assert len(page.messages) == min(limit, len(expected) - len(found))
            found += page.messages
            assert page.has_more == (len(found) < len(expected))
            if not page.has_more:
                break
            after_index = found[-1].index
        assert found == expected

    @pytest.mark.parametrize("order", Order)
    async def test_after_time_leaves_out_earlier_messages(self, store: Store, messages: list[Message], order: Order):
        for position, message in enumerate(messages):
            page = await store.list_messages(key(), Listing(order, after_time=message.create_time))
            expected = messages[position + 1 :]
            assert list(page.messages) == (expected if order is Order.OLDEST_FIRST else expected[::-1])
            assert not page.has_more

    async def test_after_time_is_exact_to_the_microsecond(self, store: Store, messages: list[Message]):
        for message in messages:
            just_before = message.create_time - timedelta(microseconds=1)
            page = await store.list_messages(key(), Listing(after_time=just_before))
            assert page.messages[0] == message

    async def test_after_time_may_be_in_any_time_zone_and_in_any_year(self, store: Store, messages: list[Message]):
        elsewhere = messages[3].create_time.astimezone(timezone(timedelta(hours=-9, minutes=-30)))
        page = await store.list_messages(key(), Listing(after_time=elsewhere))
        assert list(page.messages) == messages[4:]
        beginning, end = (time.replace(tzinfo=timezone.utc) for time in (datetime.min, datetime.max))  # noqa: DTZ901
        for time, expected in ((beginning, messages), (end, [])):
            page = await store.list_messages(key(), Listing(after_time=time))
            assert list(page.messages) == expected

    @pytest.mark.parametrize("order", Order)
    @pytest.mark.parametrize("after_index", [0, 1, 4, 7, 8, MAX_MESSAGES])
    async def test_after_index_continues_in_the_given_order(
        self, store: Store, messages: list[Message], order: Order, after_index: int
    ):
        page = await store.list_messages(key(), Listing(order, after_index=after_index))
        if order is Order.OLDEST_FIRST:
            assert list(page.messages) == messages[after_index:]
        else:
            assert list(page.messages) == messages[: max(0, after_index - 1)][::-1]

    async def test_a_page_stays_below_its_size_in_bytes(self, store: Store):
        await create(store, instructions="")
        large = "語" * MAX_MESSAGE_UNITS  # 1.3 MiB in UTF-8: a page has room for two
        for number in range(3):
            await add_turn(store, draft(Role.USER, large), draft(Role.ASSISTANT, str(number)))
        page, sizes = None, []
        found: list[Message] = []
        while page is None or page.has_more:
            page = await store.list_messages(key(), Listing(after_index=found[-1].index if found else None, limit=1000))
            found += page.messages
            sizes.append(sum(len(message.content.text.encode()) for message in page.messages))
        assert [message.index for message in found] == [1, 2, 3, 4, 5, 6]
        assert len(sizes) == 2
        assert max(sizes) <= MAX_PAGE_BYTES

    async def test_the_arguments_of_skill_calls_count_towards_the_size_of_a_page(self, store: Store):
        await create(store, instructions="")
        call = SkillCall("c", "skill", "x" * 400_000)
        for _ in range(9):
            await add_turn(store, draft(Role.ASSISTANT, "", (call,)))
        page = await store.list_messages(key(), Listing())
        assert (len(page.messages), page.has_more) == (MAX_PAGE_BYTES // 400_000, True)

    def test_a_message_larger_than_a_page_is_a_page_of_its_own(self):
        now = datetime.now(timezone.utc)
        messages = [
            Message(Role.USER, Content(text), index=index, create_time=now)
            for index, text in enumerate(["a", "x" * (MAX_PAGE_BYTES + 1), "b"])
        ]
        assert page_of(messages, Listing(limit=10)).messages == (messages[0],)
        assert page_of(messages[1:], Listing(limit=10)).messages == (messages[1],)
        assert page_of(messages[1:], Listing(limit=10)).has_more
        assert page_of(messages[2:], Listing(limit=10)).messages == (messages[2],)
        assert not page_of(messages[2:], Listing(limit=10)).has_more


class TestTimes:
    async def test_times_grow_strictly_within_turns_and_between_them(self, store: Store):
        await create(store)
        for _ in range(10):
            stored = await add_turn(store, *[draft(Role.USER, "x")] * 20)
            assert stored.assistant.update_time == stored.messages[-1].create_time
        messages = await history(store)
        assert all(earlier.create_time < later.create_time for earlier, later in pairwise(messages))
        assert messages[0].create_time == stored.assistant.create_time
        assert all(message.create_time.utcoffset() == timedelta(0) for message in messages)

    async def test_times_keep_growing_when_the_clock_is_set_back(self, place: Place, store: Store):
        await create(store)
        await add_turn(store)
        place.move_into_future(timedelta(hours=1))
        last_seen = (await history(store))[-1].create_time
        stored = await add_turn(store, *exchange("Question", "Answer"))
        times = [message.create_time for message in stored.messages]
        assert last_seen < times[0] < times[1] == stored.assistant.update_time
        assert times[1] - last_seen < timedelta(seconds=1)
        assert (await history(store))[-2:] == list(stored.messages)
        page = await store.list_messages(key(), Listing(after_time=last_seen))
        assert page.messages == stored.messages

    async def test_polling_by_time_sees_every_message_once(self, store: Store):
        await create(store)
        seen: list[Message] = []
        for number in range(6):
            await add_turn(store, *exchange(f"Question {number}"))
            after_time = seen[-1].create_time if seen else None
            seen += (await store.list_messages(key(), Listing(after_time=after_time))).messages
        assert [message.index for message in seen] == list(range(1, 14))


class TestWindow:
    @pytest.mark.parametrize("instructions", ["Be brief.", ""])
    @pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 6, 100, MAX_MESSAGES])
    async def test_a_window_has_the_instructions_and_the_newest_messages(
        self, store: Store, instructions: str, size: int
    ):
        await create(store, instructions=instructions)
        for question in "bdf":
            await add_turn(store, *exchange(question))
        messages = await history(store)
        window = await store.read_window(key(), size)
        first, rest = (messages[0], messages[1:]) if instructions else (None, messages)
        assert window.instructions == first
        assert list(window.messages) == (rest[-size:] if size else [])
        assert window.assistant == await store.get_assistant(key())

    @pytest.mark.parametrize("size", [1, 50, 64, 65, 129, 200])
    async def test_a_window_of_many_messages_has_the_newest_that_fit(self, store: Store, size: int):
        await create(store)
        for _ in range(2):
            await add_turn(store, *[draft(Role.USER, "é" * 10)] * 80)
        messages = (await history(store))[1:]
        assert list((await store.read_window(key(), size)).messages) == messages[-size:]
        for max_bytes, count in ((1, 1), (20, 1), (39, 1), (40, 2), (20 * 64, 64), (20 * 150 + 19, 150), (10**9, 160)):
            window = await store.read_window(key(), size, max_bytes=max_bytes)
            assert list(window.messages) == messages[-min(size, count) :]
            assert window.instructions is not None
        assert (await store.read_window(key(), 0, max_bytes=100)).messages == ()

    async def test_the_arguments_of_skill_calls_count_as_bytes(self, store: Store):
        await create(store)
        calls = (SkillCall("1", "add", json.dumps({"task": "x" * 100})),)
        await add_turn(store, draft(Role.USER, "a"), draft(Role.ASSISTANT, "", calls), draft(Role.TOOL, "ok"))
        assert len((await store.read_window(key(), 10, max_bytes=100)).messages) == 1
        assert len((await store.read_window(key(), 10, max_bytes=120)).messages) == 3

    async def test_a_new_assistant_has_an_empty_window(self, store: Store):
        await create(store)
        window = await store.read_window(key(), 100)
        assert window.instructions is not None
        assert window.instructions.content.text == "Be brief."
        assert window.messages == ()

    async def test_the_version_does_not_depend_on_the_size_of_the_window(self, store: Store):
        await create(store)
        await add_turn(store)
        versions = {(await store.read_window(key(), size)).version for size in (0, 1, 100)}
        assert len(versions) == 1

    async def test_a_window_is_consistent_while_another_store_writes(self, place: Place, store: Store):
        await create(store, instructions="")
        writer = await place.connect()

        async def write() -> None:
            for _ in range(40):
                await add_turn(writer, *[draft(Role.USER, "x")] * 3)

        writing = asyncio.create_task(write())
        seen = set()
        while not writing.done():
            window = await store.read_window(key(), 1000)
            count = window.assistant.total_messages
            seen.add(count)
            assert [message.index for message in window.messages] == list(range(1, count + 1))
            if count:
                assert window.assistant.update_time == window.messages[-1].create_time
        await writing
        assert all(count % 3 == 0 for count in seen)
        assert len(seen) > 1


class TestCommitting:
    async def test_a_turn_is_stored_unchanged_and_returned_as_stored(self, store: Store):
        await create(store)
        calls = (SkillCall("call-1", "weather", '{"city": "Zürich"}'), SkillCall("call-2", "time", ""))
        turn = finished(
            draft(Role.USER, "How is the weather?"),
            draft(Role.ASSISTANT, "", calls),
            draft(Role.TOOL, "Rain", skill_call_id="call-1"),
            draft(Role.TOOL, "", skill_call_id="call-2"),
            draft(Role.ASSISTANT, "It rains."),
            request_id="r1",
            total_tokens=123,
        )
        before = await store.get_assistant(key())
        stored = await store.commit_turn(key(), await version_of(store), turn)
        assert [message.index for message in stored.messages] == [2, 3, 4, 5, 6]
        for committed, message in zip(turn.messages, stored.messages, strict=True):
            assert message == Message(
                committed.role,
                committed.content,
                committed.skill_calls,
                committed.skill_call_id,
                index=message.index,
                create_time=message.create_time,
                request_id="r1",
            )
        assert (stored.assistant.total_messages, stored.assistant.total_tokens) == (6, 123)
        assert stored.assistant.create_time == before.create_time
        assert stored.assistant.update_time > before.update_time
        assert await store.get_assistant(key()) == stored.assistant
        assert (await history(store))[1:] == list(stored.messages)
        assert (await store.read_window(key(), 5)).messages == stored.messages

    async def test_the_tokens_are_those_of_the_latest_turn(self, store: Store):
        await create(store)
        for tokens in (100, 30):
            turn = finished(total_tokens=tokens)
            stored = await store.commit_turn(key(), await version_of(store), turn)
            assert stored.assistant.total_tokens == tokens

    async def test_a_version_can_be_written_to_only_once(self, store: Store):
        await create(store)
        version = await version_of(store)
        stored = await store.commit_turn(key(), version, finished(*exchange("First")))
        with pytest.raises(ConcurrentWrite):
            await store.commit_turn(key(), version, finished(*exchange("Second")))
        assert await contents(store) == ["Be brief.", "First", "Fine."]
        assert await store.get_assistant(key()) == stored.assistant

    async def test_a_version_is_valid_only_for_its_own_conversation(self, store: Store):
        await create(store, "a")
        await create(store, "b")
        with pytest.raises(ConcurrentWrite):
            await store.commit_turn(key("b"), await version_of(store, "a"), finished())
        assert await contents(store, "b") == ["Be brief."]

    @pytest.mark.parametrize("create_again", [False, True])
    async def test_a_turn_of_a_deleted_conversation_is_refused(self, store: Store, create_again: bool):
        await create(store)
        version = await version_of(store)
        await store.delete_assistant(key())
        if create_again:
            await create(store)
        with pytest.raises(ConcurrentWrite):
            await store.commit_turn(key(), version, finished())
        if create_again:
            assert await contents(store) == ["Be brief."]

    async def test_a_refused_turn_can_be_stored_after_the_one_that_came_first(self, store: Store):
        await create(store)
        old, turn = await version_of(store), finished(*exchange("Mine"), request_id="r")
        await add_turn(store, *exchange("Theirs"))
        with pytest.raises(ConcurrentWrite):
            await store.commit_turn(key(), old, turn)
        await store.commit_turn(key(), await version_of(store), turn)
        assert await contents(store) == ["Be brief.", "Theirs", "Fine.", "Mine", "Fine."]

    async def test_one_of_two_stores_wins_when_both_commit_at_once(self, place: Place):
        stores = [await place.connect(), await place.connect()]
        await create(stores[0])
        for round_ in range(15):
            versions = [await version_of(store) for store in stores]
            results = await asyncio.gather(
                *(
                    store.commit_turn(key(), version, finished(*exchange(f"{round_}/{number}")))
                    for number, (store, version) in enumerate(zip(stores, versions, strict=True))
                ),
                return_exceptions=True,
            )
            [lost] = [result for result in results if isinstance(result, BaseException)]
            assert isinstance(lost, ConcurrentWrite)
            [won] = [result for result in results if result is not lost]
            for store in stores:
                assert (await history(store))[-2:] == list(won.messages)
        assert (await stores[0].get_assistant(key())).total_messages == 1 + 15 * 2

    async def test_no_turn_is_lost_when_several_stores_write_and_retry(self, place: Place):
        stores = [await place.connect() for _ in range(3)]
        await create(stores[0], instructions="")

        async def write(store: Store, name: str) -> None:
            for number in range(10):
                while True:
                    try:
                        await add_turn(store, *exchange(f"{name}{number}"))
                        break
                    except ConcurrentWrite:
                        pass

        await asyncio.gather(*(write(store, name) for store, name in zip(stores, "xyz", strict=True)))
        messages = await history(stores[0])
        assert [message.index for message in messages] == list(range(1, 61))
        questions = [message.content.text for message in messages[::2]]
        for name in "xyz":
            assert [question for question in questions if question[0] == name] == [f"{name}{n}" for n in range(10)]

    async def test_a_conversation_ends_at_its_last_index(self, place: Place, store: Store):
        room = 50
        batch = [draft(Role.USER, "x")] * room
        count = MAX_MESSAGES - room
        await create(store, instructions="")
        place.skip_to(count - 1)
        stored = await add_turn(store, draft(Role.USER, "The last before"))
        version = await version_of(store)

        with pytest.raises(ConversationFull):
            await store.commit_turn(key(), version, finished(*batch[: room - 1], *exchange()))
        assert await store.get_assistant(key()) == stored.assistant
        newest = await store.list_messages(key(), Listing(Order.NEWEST_FIRST, limit=1))
        assert newest.messages[0].index == count

        stored = await store.commit_turn(key(), version, finished(*batch[:room]))
        assert stored.messages[-1].index == stored.assistant.total_messages == MAX_MESSAGES
        version = await version_of(store)
        with pytest.raises(ConversationFull):
            await store.commit_turn(key(), version, finished(draft(Role.USER, "x")))

        window = await store.read_window(key(), 2)
        assert window.messages == stored.messages[-2:]
        newest = await store.list_messages(key(), Listing(Order.NEWEST_FIRST, limit=1))
        assert newest.messages == stored.messages[-1:]
        await store.create_assistant(key(), "Start over.", IfExists.RESET)
        await add_turn(store)
        assert await contents(store) == ["Start over.", "How are you?", "Fine."]

    @pytest.mark.parametrize("character", ["a", "é", "語", "😀", "𠀀", "\U000e0001", "\U0010fffd"], ids=ascii)
    async def test_messages_of_full_size_are_kept(self, store: Store, character: str):
        units = Content(character).utf16_units
        # The second text is shifted by one, so that a split at an even number of units would cut surrogate pairs.
        even, odd = character * (MAX_MESSAGE_UNITS // units), f"a{character * (MAX_MESSAGE_UNITS // units - 1)}"
        await create(store)
        # Together, they would exceed the encoded size of a turn.
        for role, content in ((Role.USER, even), (Role.ASSISTANT, odd)):
            stored = await add_turn(store, draft(role, content))
            assert [message.content.text for message in stored.messages] == [content]
        for message, expected in zip((await history(store))[1:], (even, odd), strict=True):
            assert message.content.text == expected

    @pytest.mark.parametrize(
        "messages",
        [
            [draft(Role.USER, "x")] * (MAX_TURN_MESSAGES + 1),
            [draft(Role.USER, "x")] * (MAX_TURN_MESSAGES + 50),
            [draft(Role.USER, "x" * (MAX_MESSAGE_UNITS + 1))],
            [draft(Role.USER, "語" * (MAX_MESSAGE_UNITS - 1))] * 2,
            [draft(Role.ASSISTANT, "", (SkillCall("c", "add", "語" * (MAX_MESSAGE_UNITS - 1)),))] * 2,
        ],
        ids=["messages", "many messages", "a long message", "bytes", "bytes of arguments"],
    )
    async def test_a_turn_that_is_too_large_is_refused(self, store: Store, messages: list[Draft]):
        await create(store)
        with pytest.raises(TurnTooLarge):
            await store.commit_turn(key(), await version_of(store), finished(*messages))
        assert await contents(store) == ["Be brief."]

    async def test_a_turn_with_the_most_messages_is_kept(self, store: Store):
        await create(store)
        drafts = [draft(Role.USER, str(number)) for number in range(MAX_TURN_MESSAGES)]
        stored = await add_turn(store, *drafts)
        assert len(stored.messages) == MAX_TURN_MESSAGES
        assert await contents(store) == ["Be brief.", *map(str, range(MAX_TURN_MESSAGES))]


class TestFindingTurns:
    @pytest.mark.parametrize(
        "parameters",
        [
            GenerationParameters(),
            GenerationParameters(ai_connection="Sweden", chat_model="gpt-4o", temperature=0.0, top_p=1.0, max_tokens=1),
            GenerationParameters(chat_model="o3", is_reasoning_model=True),
            GenerationParameters(ai_connection="名", chat_model='"\\'),
        ],
    )
    async def test_a_stored_turn_is_found_unchanged(self, store: Store, parameters: GenerationParameters):
        await create(store)
        call = SkillCall("c", "add", "{}")
        drafts = (draft(Role.USER, "q"), draft(Role.ASSISTANT, "", (call,)), draft(Role.TOOL, "t", (), "c"))
        turn = FinishedTurn(
            request_id="r",
            request_hash="a hash",
            messages=drafts,
            finish_reason=FinishReason.LENGTH,
            usage=Usage(1, 2, 3, 4, 5, 6),
            total_tokens=9,
            chat_model="gpt-x",
            parameters=parameters,
        )
        stored = await store.commit_turn(key(), await version_of(store), turn)
        later = await add_turn(store)
        found = await store.find_turn(TurnKey(key(), "r"))
        assert found == FoundTurn(
            assistant=later.assistant,
            messages=stored.messages,
            request_hash="a hash",
            finish_reason=FinishReason.LENGTH,
            usage=Usage(1, 2, 3, 4, 5, 6),
            chat_model="gpt-x",
            parameters=parameters,
        )

    @pytest.mark.parametrize("request_id", ["R", "r ", "r'", "", "x' or '1' eq '1", "/#?%"])
    async def test_a_turn_is_found_only_by_its_request_id(self, store: Store, request_id: str):
        await create(store)
        await store.commit_turn(key(), await version_of(store), finished(request_id="r"))
        assert await store.find_turn(TurnKey(key(), request_id)) is None

    async def test_a_turn_is_found_only_at_its_own_assistant(self, store: Store):
        for name in ("a", "b"):
            await create(store, name)
        await store.commit_turn(key(), await version_of(store), finished(request_id="r"))
        for collection, name in ((COLLECTION, "b"), (COLLECTION, "nobody"), ("Other", "a")):
            assert await store.find_turn(TurnKey(key(name, collection), "r")) is None

    @pytest.mark.parametrize("instructions", ["", "Be brief."])
    async def test_a_reset_forgets_the_turns(self, store: Store, instructions: str):
        await create(store)
        await store.commit_turn(key(), await version_of(store), finished(request_id="r"))
        await store.create_assistant(key(), instructions, IfExists.RESET)
        assert await store.find_turn(TurnKey(key(), "r")) is None

    async def test_a_request_id_is_stored_once(self, store: Store):
        await create(store)
        await store.commit_turn(key(), await version_of(store), finished(*exchange("One"), request_id="r"))
        with pytest.raises(ConcurrentWrite):
            await store.commit_turn(key(), await version_of(store), finished(*exchange("Two"), request_id="r"))
        assert await contents(store) == ["Be brief.", "One", "Fine."]
        await add_turn(store)


class TestLeases:
    OURS, THEIRS = lease("ours", 60), lease("theirs", 60)

    async def test_an_assistant_has_one_holder(self, place: Place):
        here, there = await place.connect(), await place.connect()
        await create(here)
        await create(here, "b")
        window = await here.read_window(key(), 10, self.OURS)
        assert window.instructions is not None
        with pytest.raises(AssistantBusy) as caught:
            await there.read_window(key(), 10, self.THEIRS)
        assert 0 < caught.value.retry_delay <= 60
        await here.read_window(key(), 10, self.OURS)
        await there.read_window(key("b"), 10, self.THEIRS)
        assert (await there.read_window(key(), 10)).messages == ()  # reading alone needs no lease

    async def test_a_server_does_not_wait_for_its_own_earlier_lease(self, place: Place):
        here, there = await place.connect(), await place.connect()
        await create(here)
        old = (await here.read_window(key(), 10, lease("turn 1", 60, "here"))).version
        window = await here.read_window(key(), 10, lease("turn 2", 60, "here"))
        with pytest.raises(AssistantBusy):
            await there.read_window(key(), 10, lease("turn 2", 60, "there"))
        for late in (
            here.commit_turn(key(), old, finished()),
            here.renew_lease(key(), old, lease("turn 1", 60, "here")),
        ):
            with pytest.raises(ConcurrentWrite):
                await late
        await here.release_lease(key(), lease("turn 1", 60, "here").holder)
        await here.commit_turn(key(), window.version, finished())

    async def test_a_commit_ends_the_lease(self, store: Store):
        await create(store)
        window = await store.read_window(key(), 10, self.OURS)
        stored = await store.commit_turn(key(), window.version, finished())
        window = await store.read_window(key(), 10, self.THEIRS)
        assert window.messages == stored.messages
        await store.commit_turn(key(), window.version, finished())

    async def test_releasing_ends_the_lease(self, store: Store):
        await create(store)
        await store.read_window(key(), 10, self.OURS)
        await store.release_lease(key(), self.OURS.holder)
        window = await store.read_window(key(), 10, self.THEIRS)
        with pytest.raises(AssistantBusy):
            await store.read_window(key(), 10, self.OURS)
        stored = await store.commit_turn(key(), window.version, finished())
        assert stored.assistant.total_messages == 3

    async def test_a_lease_expires(self, store: Store):
        await create(store)
        old = (await store.read_window(key(), 10, lease("dead", 0))).version
        window = await store.read_window(key(), 10, self.OURS)
        # The old holder can neither write nor disturb the new one.
        for late in (
            store.commit_turn(key(), old, finished()),
            store.renew_lease(key(), old, lease("dead", 60)),
        ):
            with pytest.raises(ConcurrentWrite):
                await late
        await store.release_lease(key(), lease("dead", 60).holder)
        with pytest.raises(AssistantBusy):
            await store.read_window(key(), 10, self.THEIRS)
        await store.commit_turn(key(), window.version, finished())

    async def test_a_lease_ends_in_its_time_if_the_clock_is_set_back(self, place: Place):
        here, there = await place.connect(), await place.connect()
        await create(here)
        dead, turn = lease("dead", 0.3), TurnKey(key(), "dead")
        await here.read_window(key(), 10, dead)
        place.move_into_future(timedelta(hours=1))
        with pytest.raises(AssistantBusy) as caught:
            await there.read_window(key(), 10, self.OURS)
        assert 0 < caught.value.retry_delay <= 0.3
        while await there.has_lease(turn):
            pass
        window = await there.read_window(key(), 10, self.OURS)
        await there.commit_turn(key(), window.version, finished())

    async def test_a_lease_that_is_renewed_is_respected_if_the_clock_is_set_back(self, place: Place):
        here, there = await place.connect(), await place.connect()
        await create(here)
        slow, turn = lease("slow", 0.3), TurnKey(key(), "slow")
        version = (await here.read_window(key(), 10, slow)).version
        place.move_into_future(timedelta(hours=1))
        while await there.has_lease(turn):
            pass
        version = (await here.read_window(key(), 10, slow)).version
        version = await here.renew_lease(key(), version, lease("slow", 60))
        assert await there.has_lease(turn)
        with pytest.raises(AssistantBusy):
            await there.read_window(key(), 10, self.OURS)
        await here.commit_turn(key(), version, finished())

    async def test_an_expired_lease_that_nobody_took_still_allows_the_commit(self, store: Store):
        await create(store)
        version = (await store.read_window(key(), 10, lease("slow", 0))).version
        stored = await store.commit_turn(key(), version, finished())
        assert await history(store) == [*(await history(store))[:1], *stored.messages]

    async def test_cancelling_ends_the_lease(self, place: Place):
        here, there = await place.connect(), await place.connect()
        await create(here)
        window = await here.read_window(key(), 10, self.OURS)
        assert await there.cancel_lease(TurnKey(key(), "ours"))
        assert await there.cancel_lease(TurnKey(key(), "ours"))  # it can be repeated if its response was lost
        for late in (
            here.commit_turn(key(), window.version, finished()),
            here.renew_lease(key(), window.version, self.OURS),
        ):
            with pytest.raises(TurnCancelled):
                await late
        window = await there.read_window(key(), 10, self.THEIRS)
        await here.release_lease(key(), self.OURS.holder)
        with pytest.raises(AssistantBusy):
            await here.read_window(key(), 10, self.OURS)
        await there.commit_turn(key(), window.version, finished())
        assert len((await here.read_window(key(), 10)).messages) == 2

    async def test_a_cancelled_turn_can_not_be_committed_after_another_lease(self, store: Store):
        await create(store)
        old = (await store.read_window(key(), 10, self.OURS)).version
        assert await store.cancel_lease(TurnKey(key(), "ours"))
        await store.read_window(key(), 10, self.THEIRS)
        for late in (
            store.commit_turn(key(), old, finished()),
            store.renew_lease(key(), old, self.OURS),
        ):
            with pytest.raises(ConcurrentWrite):
                await late

    async def test_only_the_lease_of_the_turn_is_cancelled(self, store: Store):
        await create(store)
        assert not await store.cancel_lease(TurnKey(key(), "ours"))
        window = await store.read_window(key(), 10, self.THEIRS)
        for name in ("a", "none"):
            assert not await store.cancel_lease(TurnKey(key(name), "ours"))
        assert not await store.cancel_lease(TurnKey(key("a", "Unused"), "theirs"))
        await store.commit_turn(key(), window.version, finished())
        assert not await store.cancel_lease(TurnKey(key(), "theirs"))

    async def test_any_server_sees_whether_a_turn_has_the_lease(self, place: Place):
        here, there = await place.connect(), await place.connect()
        turn = TurnKey(key(), "ours")
        assert not await there.has_lease(turn)  # nor is there an assistant
        await create(here)
        assert not await there.has_lease(turn)
        version = (await here.read_window(key(), 10, self.OURS)).version
        assert await there.has_lease(turn)
        assert await here.has_lease(turn)
        for other in (TurnKey(key(), "theirs"), TurnKey(key("none"), "ours"), TurnKey(key("a", "Unused"), "ours")):
            assert not await there.has_lease(other)
        await here.commit_turn(key(), version, finished())
        assert not await there.has_lease(turn)
        await here.read_window(key(), 10, self.OURS)
        await here.release_lease(key(), self.OURS.holder)
        assert not await there.has_lease(turn)

    async def test_a_lease_that_expired_or_was_cancelled_is_no_longer_had(self, store: Store):
        await create(store)
        await store.read_window(key(), 10, lease("ours", 0))
        assert not await store.has_lease(TurnKey(key(), "ours"))
        await store.read_window(key(), 10, self.OURS)
        await store.cancel_lease(TurnKey(key(), "ours"))
        assert not await store.has_lease(TurnKey(key(), "ours"))

    async def test_renewing_extends_the_lease(self, store: Store):
        await create(store)
        short = lease("ours", 0)
        version = (await store.read_window(key(), 10, short)).version
        for _ in range(3):
            version = await store.renew_lease(key(), version, self.OURS)
        with pytest.raises(AssistantBusy):
            await store.read_window(key(), 10, self.THEIRS)
        await store.commit_turn(key(), version, finished())
        await store.read_window(key(), 10, self.THEIRS)

    async def test_a_lease_ends_with_its_conversation(self, store: Store):
        await create(store)
        version = (await store.read_window(key(), 10, self.OURS)).version
        await store.create_assistant(key(), "", IfExists.RESET)
        with pytest.raises(ConcurrentWrite):
            await store.renew_lease(key(), version, self.OURS)
        await store.read_window(key(), 10, self.THEIRS)
        await store.delete_assistant(key())
        with pytest.raises(ConcurrentWrite):
            await store.renew_lease(key(), version, self.OURS)
        await store.release_lease(key(), self.OURS.holder)
        with pytest.raises(AssistantNotFound):
            await store.read_window(key(), 10, self.OURS)

    async def test_one_of_several_stores_gets_the_lease(self, place: Place):
        stores = [await place.connect() for _ in range(4)]
        await create(stores[0])
        for _ in range(10):
            results = await asyncio.gather(
                *(store.read_window(key(), 10, lease(f"holder {number}", 60)) for number, store in enumerate(stores)),
                return_exceptions=True,
            )
            [window] = [result for result in results if not isinstance(result, AssistantBusy)]
            await stores[0].commit_turn(key(), window.version, finished())
        assert (await stores[0].get_assistant(key())).total_messages == 1 + 10 * 2


class TestTexts:
    @shared_place
    @given(
        instructions=texts,
        content=texts,
        calls=st.lists(st.builds(SkillCall, id=texts, name=texts, arguments_json=texts), max_size=3),
        skill_call_id=texts,
        request_id=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128),
    )
    async def test_what_is_stored_is_read_back_unchanged(
        self, store: Store, instructions: str, content: str, calls: list[SkillCall], skill_call_id: str, request_id: str
    ):
        name = uuid.uuid4().hex
        reply = draft(Role.ASSISTANT, content, tuple(calls), skill_call_id, is_error=bool(skill_call_id))
        await create(store, name, instructions)
        stored = await store.commit_turn(
            key(name), await version_of(store, name), finished(reply, request_id=request_id)
        )
        read = await history(store, name)
        if instructions.strip():
            assert read.pop(0).content.text == instructions
        assert tuple(read) == stored.messages
        [message] = read
        assert (message.content.text, message.skill_calls, message.request_id) == (content, tuple(calls), request_id)
        assert (message.skill_call_id, message.is_error) == (skill_call_id, bool(skill_call_id))

    @shared_place
    @given(
        st.lists(
            st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="/\\#?"), min_size=1),
            unique=True,
        )
    )
    async def test_ids_of_any_characters_are_kept_apart(self, store: Store, names: list[str]):
        collection = f"c{uuid.uuid4().hex}"
        for name in names:
            await create(store, name, f"I am {name}", collection)
        for name in names:
            assert (await store.get_assistant(key(name, collection))).id == name
            assert await contents(store, name, collection) == [f"I am {name}"]
            await store.delete_assistant(key(name, collection))


class TestSeveralStores:
    async def test_stores_on_one_place_see_each_others_writes(self, place: Place):
        here, there = await place.connect(), await place.connect()
        await create(here)
        assert await contents(there) == ["Be brief."]
        with pytest.raises(AssistantExists):
            await create(there)
        stored = await add_turn(there, *exchange("From there"))
        assert (await here.read_window(key(), 10)).messages == stored.messages
        await here.create_assistant(key(), "", IfExists.RESET)
        assert await contents(there) == []
        await there.delete_assistant(key())
        with pytest.raises(AssistantNotFound):
            await here.get_assistant(key())

    async def test_what_is_stored_outlives_the_store_object(self, place: Place):
        first = await place.connect()
        await create(first)
        stored = await add_turn(first)
        version = await version_of(first)
        await place.close(first)
        second = await place.connect()
        assert await second.get_assistant(key()) == stored.assistant
        assert (await history(second))[1:] == list(stored.messages)
        await second.commit_turn(key(), version, finished())

    async def test_stores_that_connect_to_an_empty_place_at_once_can_all_be_used(self, place: Place):
        stores = await asyncio.gather(*(place.connect() for _ in range(4)))
        for number, store in enumerate(stores):
            await create(store, f"a{number}")
        for store in stores:
            for number in range(4):
                assert await contents(store, f"a{number}") == ["Be brief."]

    @pytest.mark.parametrize("if_exists", [IfExists.FAIL, IfExists.KEEP])
    async def test_one_of_several_concurrent_creations_makes_the_assistant(self, place: Place, if_exists: IfExists):
        stores = [await place.connect() for _ in range(3)]
        for round_ in range(10):
            results = await asyncio.gather(
                *(
                    store.create_assistant(key(f"a{round_}"), f"By {number}", if_exists)
                    for number, store in enumerate(stores)
                ),
                return_exceptions=True,
            )
            made = [number for number, result in enumerate(results) if isinstance(result, tuple) and result[1]]
            assert len(made) == 1
            assert await contents(stores[0], f"a{round_}") == [f"By {made[0]}"]
            others = [result for number, result in enumerate(results) if number != made[0]]
            if if_exists is IfExists.FAIL:
                assert all(isinstance(other, AssistantExists) for other in others)
            else:
                assert all(other == (results[made[0]][0], False) for other in others)

    async def test_closing_lets_the_calls_in_progress_finish(self, place: Place):
        store = await place.connect()
        await create(store)
        version = await version_of(store)
        calls = [asyncio.create_task(store.create_assistant(key(f"b{n}"), "", IfExists.FAIL)) for n in range(20)]
        turn = asyncio.create_task(store.commit_turn(key(), version, finished(*exchange() * 30)))
        await asyncio.sleep(0)  # lets the calls begin
        await place.close(store)
        *created, committed = await asyncio.gather(*calls, turn, return_exceptions=True)
        other = await place.connect()
        for number, result in enumerate(created):
            if not isinstance(result, BaseException):
                assert await other.get_assistant(key(f"b{number}")) == result[0]
        stored = () if isinstance(committed, BaseException) else committed.messages
        assert (await history(other))[1:] == list(stored)

    async def test_an_abandoned_call_does_not_affect_others(self, store: Store):
        await create(store)
        await add_turn(store)
        for _ in range(20):
            reading = asyncio.create_task(store.read_window(key(), 10))
            await asyncio.sleep(0)  # lets the call begin
            reading.cancel()
        window = await store.read_window(key(), 10)
        stored = await store.commit_turn(key(), window.version, finished())
        assert stored.assistant.total_messages == 5
