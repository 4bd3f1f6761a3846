"""The chat engine without gRPC, with a SQLite file and an endpoint on a socket."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from palaver_server.domain.conversation import Content, IfExists, Listing, Role
from palaver_server.domain.errors import ConcurrentWrite, ConversationFull, ModelStreamBroken, TooManyTurns
from palaver_server.domain.limits import MAX_MESSAGES
from palaver_server.domain.turns import (
    ANONYMOUS,
    TextDelta,
    TurnCompleted,
    TurnStarted,
    UserQuery,
)
from palaver_server.engine.chat import ChatEngine
from palaver_server.engine.options import EngineOptions
from palaver_server.engine.turn import Subscriber
from palaver_server.stores.sqlite import SqliteStore
from tests.support.chat_engine import chat_engine
from tests.support.conversations import add_turn, draft, key
from tests.support.endpoint import RESET, Endpoint, Stream

KEY = key()


@pytest.fixture
async def engine(tmp_path: Path, endpoint: Endpoint) -> AsyncIterator[ChatEngine]:
    async with chat_engine(tmp_path, endpoint) as running:
        await running.create_assistant(ANONYMOUS, KEY, "Be brief.", IfExists.FAIL)
        yield running


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


async def test_a_concurrent_write_is_detected(engine: ChatEngine, tmp_path: Path, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream("Hel", gate))
    turn = engine.post(ANONYMOUS, UserQuery(assistant=KEY, content=Content("Hi")))
    assert isinstance(await anext(turn), TurnStarted)
    other = SqliteStore(tmp_path / "palaver.db")
    await add_turn(other, draft(Role.USER, "strange"))
    await other.close()
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
        assistant = key(f"assistant-{number}")
        await engine.create_assistant(ANONYMOUS, assistant, "", IfExists.KEEP)
        for step in range(20):
            if step % 3 == 0:
                endpoint.script(Stream("Hel", never))
            turn = engine.post(ANONYMOUS, UserQuery(assistant=assistant, content=Content("Hi"), max_messages=2))
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


async def test_an_address_can_not_take_the_turns_of_others(tmp_path: Path, endpoint: Endpoint):
    gate = asyncio.Event()
    endpoint.script(Stream(gate), Stream(gate))
    async with chat_engine(tmp_path, endpoint, options=EngineOptions(max_address_turns=2)) as engine:
        for name in "abc":
            await engine.create_assistant(ANONYMOUS, key(name), "", IfExists.FAIL)

        def post(name: str, address: str) -> Subscriber:
            return engine.post(ANONYMOUS, UserQuery(assistant=key(name), content=Content("Hello"), address=address))

        waiting = [post("a", "ipv4:192.0.2.1"), post("a", "ipv4:192.0.2.1")]
        with pytest.raises(TooManyTurns, match="at this address"):
            post("b", "ipv4:192.0.2.1")
        others = [post("b", "ipv4:192.0.2.2"), post("c", "")]
        gate.set()
        for turn in (*waiting, *others):
            await turn.completed()
            turn.leave()
        again = post("b", "ipv4:192.0.2.1")
        await again.completed()
        again.leave()
