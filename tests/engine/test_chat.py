"""The chat engine without gRPC, with a SQLite file and an endpoint on a socket."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from palaver_server.domain.conversation import AssistantKey, Content, IfExists, Listing, Role
from palaver_server.domain.errors import ConcurrentWrite, ConversationFull, ModelStreamBroken
from palaver_server.domain.limits import MAX_MESSAGES
from palaver_server.domain.ports import ChatModel
from palaver_server.domain.turns import (
    ANONYMOUS,
    TextDelta,
    TurnCompleted,
    TurnStarted,
    UserQuery,
)
from palaver_server.engine.chat import ChatEngine
from palaver_server.llm.openai import OpenAIModel
from palaver_server.skills.catalogue import SkillCatalogue
from palaver_server.stores.sqlite import SqliteStore
from tests.support.conversations import draft, finished
from tests.support.endpoint import RESET, Endpoint, Stream

KEY = AssistantKey("AzureWebJobsStorage", "ChatState", "a")


@dataclass(frozen=True)
class OneModel:
    """AI connections with a single model."""

    model: ChatModel

    def resolve(self, _name: str) -> tuple[str, ChatModel]:
        return "OPENAI", self.model


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "palaver.db")
    yield opened
    await opened.close()


@pytest.fixture
async def engine(store: SqliteStore, endpoint: Endpoint) -> AsyncIterator[ChatEngine]:
    model = OpenAIModel(api_key="x", base_url=endpoint.url)
    running = ChatEngine({KEY.connection: store}, OneModel(model), SkillCatalogue())
    await running.create_assistant(ANONYMOUS, KEY, "Be brief.", IfExists.FAIL)
    yield running
    await running.drain(grace=0)
    await model.close()


async def test_a_turn_is_streamed_stored_and_then_completed(engine: ChatEngine, endpoint: Endpoint):
    endpoint.script(Stream("Hel", "lo"))
    turn = engine.post(ANONYMOUS, UserQuery(assistant=KEY, content=Content("Hi")))
    events = [event async for event in turn]
    assert isinstance(events[0], TurnStarted)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Hello"
    completed = events[-1]
    assert isinstance(completed, TurnCompleted)
    page = await engine.list_messages(ANONYMOUS, KEY, Listing())
    assert page.messages[1:] == completed.messages
    assert [(message.role, message.content.text) for message in page.messages] == [
        (Role.SYSTEM, "Be brief."),
        (Role.USER, "Hi"),
        (Role.ASSISTANT, "Hello"),
    ]


async def test_a_slow_reader_gets_the_text_in_one_piece(engine: ChatEngine, endpoint: Endpoint):
    endpoint.script(Stream(*["word "] * 50))
    turn = engine.post(ANONYMOUS, UserQuery(assistant=KEY, content=Content("Hi")))
    assert isinstance(await anext(turn), TurnStarted)
    await (await endpoint.call()).finished.wait()
    while (await engine.get_assistant(ANONYMOUS, KEY)).total_messages == 1:
        pass
    rest = [event async for event in turn]
    assert [event.text for event in rest if isinstance(event, TextDelta)] == ["word " * 50]


async def test_a_turn_whose_caller_leaves_at_the_end_is_stored_whole_or_not_at_all(
    engine: ChatEngine,
):
    # Whenever the caller leaves, the conversation has both messages of the turn or none.
    for steps in range(40):
        before = (await engine.get_assistant(ANONYMOUS, KEY)).total_messages
        turn = engine.post(ANONYMOUS, UserQuery(assistant=KEY, content=Content(f"question {steps}")))
        for _ in range(steps):
            await asyncio.sleep(0)
        async for event in turn:
            if isinstance(event, TextDelta) or steps % 2:
                break
        turn.leave()
        follower = engine.post(ANONYMOUS, UserQuery(assistant=KEY, content=Content("next")))
        await follower.completed()
        follower.leave()
        added = (await engine.get_assistant(ANONYMOUS, KEY)).total_messages - before
        assert added in (2, 4)


async def test_an_error_of_the_model_reaches_the_caller(engine: ChatEngine, endpoint: Endpoint):
    endpoint.script(Stream("Hel", RESET))
    turn = engine.post(ANONYMOUS, UserQuery(assistant=KEY, content=Content("Hi")))
    with pytest.raises(ModelStreamBroken):
        await turn.completed()


async def test_a_concurrent_write_is_detected(engine: ChatEngine, store: SqliteStore, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream("Hel", gate))
    turn = engine.post(ANONYMOUS, UserQuery(assistant=KEY, content=Content("Hi")))
    assert isinstance(await anext(turn), TurnStarted)
    window = await store.read_window(KEY, 0)
    strange = finished(draft(Role.USER, "strange"))
    await store.commit_turn(KEY, window.version, strange)
    gate.set()
    with pytest.raises(ConcurrentWrite):
        await turn.completed()
    page = await engine.list_messages(ANONYMOUS, KEY, Listing())
    assert [message.content.text for message in page.messages] == ["Be brief.", "strange"]


async def test_a_full_conversation_is_refused_before_the_model_is_called(
    engine: ChatEngine, tmp_path: Path, endpoint: Endpoint
):
    with sqlite3.connect(tmp_path / "palaver.db") as connection:
        connection.execute("UPDATE assistants SET total_messages = ?", (MAX_MESSAGES - 1,))
    connection.close()
    with pytest.raises(ConversationFull):
        await engine.post(ANONYMOUS, UserQuery(assistant=KEY, content=Content("Hi"))).completed()
    assert not endpoint.calls


async def test_turns_that_are_cancelled_and_turns_that_complete_leave_nothing_behind(
    engine: ChatEngine, endpoint: Endpoint
):
    """A short run of the soak in `tests/soak.py`."""
    process, memory = psutil.Process(), []
    never = asyncio.Event()

    async def turns(number: int) -> None:
        key = AssistantKey(KEY.connection, KEY.collection, f"assistant-{number}")
        await engine.create_assistant(ANONYMOUS, key, "", IfExists.KEEP)
        for step in range(20):
            if step % 3 == 0:
                endpoint.script(Stream("Hel", never))
            turn = engine.post(ANONYMOUS, UserQuery(assistant=key, content=Content("Hi"), max_messages=2))
            async for event in turn:
                if isinstance(event, TextDelta) and step % 3 == 0:
                    break
            turn.leave()

    for _ in range(4):
        for number in range(5):
            await turns(number)
        endpoint.calls.clear()
        gc.collect()
        memory.append(process.memory_info().rss)
    assert len(engine._turns) == 0
    assert endpoint.connections <= 2
    assert len(asyncio.all_tasks()) < 10
    assert memory[-1] - memory[1] < 4 * 1024 * 1024
