"""The messages of a turn: calls stay with their results."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from palaver_server.domain.conversation import Assistant, Content, Draft, Message, Role, SkillCall
from palaver_server.domain.turns import UserQuery, Version, Window
from palaver_server.engine.transcript import Transcript
from tests.support.conversations import draft, key

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
CALL = (SkillCall("call-1", "weather", "{}"), SkillCall("call-2", "time", "{}"))
SHOWN = 100
QUESTION = UserQuery(assistant=key(), content=Content("And now?"))


def window(*messages: Draft, instructions: str = "Be brief.") -> Window:
    """Returns a window with these newest messages."""
    stored = [
        Message(m.role, m.content, m.skill_calls, m.skill_call_id, index=index, create_time=START + timedelta(index))
        for index, m in enumerate(messages, 40)
    ]
    first = Message(Role.SYSTEM, Content(instructions), index=1, create_time=START) if instructions else None
    assistant = Assistant("a", START, START, total_messages=39 + len(stored), total_tokens=0)
    return Window(assistant, Version(), first, tuple(stored))


def sent(window: Window) -> list[str]:
    return [message.content.text for message in Transcript(QUESTION, window, SHOWN).prompt]


def test_instructions_come_first_then_the_window_then_the_new_message():
    asked = Transcript(QUESTION, window(draft(Role.USER, "Hello"), draft(Role.ASSISTANT, "Hi")), SHOWN).prompt
    roles = [(message.role, message.content.text) for message in asked]
    assert roles == [
        (Role.SYSTEM, "Be brief."),
        (Role.USER, "Hello"),
        (Role.ASSISTANT, "Hi"),
        (Role.USER, "And now?"),
    ]


@pytest.mark.parametrize("instructions", ["Be brief.", ""])
def test_with_an_empty_window_the_prompt_is_the_instructions_and_the_new_message(instructions: str):
    assert sent(window(instructions=instructions)) == ([instructions] if instructions else []) + ["And now?"]


@pytest.mark.parametrize("first", [draft(Role.USER, "Hello"), draft(Role.ASSISTANT, "Hi"), draft(Role.SYSTEM, "Note")])
def test_a_window_may_begin_with_anything_but_results(first: Draft):
    assert sent(window(first)) == ["Be brief.", first.content.text, "And now?"]


SKILL_TURN = (
    draft(Role.USER, "Weather?"),
    draft(Role.ASSISTANT, "", CALL),
    draft(Role.TOOL, "Rain", skill_call_id="call-1"),
    draft(Role.TOOL, "Noon", skill_call_id="call-2"),
    draft(Role.ASSISTANT, "It rains at noon."),
)


@pytest.mark.parametrize("size", range(len(SKILL_TURN) + 1))
def test_results_are_never_sent_without_their_call(size: int):
    cut = SKILL_TURN[len(SKILL_TURN) - size :]
    messages = Transcript(QUESTION, window(*cut), SHOWN).prompt
    called = {call.id for message in messages for call in message.skill_calls}
    answered = {message.skill_call_id for message in messages if message.role is Role.TOOL}
    assert answered == called
    kept = [message for message in cut if size >= 4 or message.role is not Role.TOOL]
    assert [message.content.text for message in messages[1:-1]] == [message.content.text for message in kept]


def test_results_in_the_middle_of_the_window_stay():
    assert sent(window(*SKILL_TURN)) == ["Be brief.", *(message.content.text for message in SKILL_TURN), "And now?"]
    [_, _, call, first, second, *_] = Transcript(QUESTION, window(*SKILL_TURN), SHOWN).prompt
    assert call.skill_calls == CALL
    assert [first.skill_call_id, second.skill_call_id] == ["call-1", "call-2"]


def test_a_window_of_results_alone_is_left_out():
    assert sent(window(*SKILL_TURN[2:4])) == ["Be brief.", "And now?"]
