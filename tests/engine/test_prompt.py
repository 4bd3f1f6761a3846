"""What a turn sends to the model."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from palaver_server.engine.options import EngineOptions
from palaver_server.engine.prompt import history, parameters_in_effect
from palaver_server.models import Assistant, Draft, Message, ModelParameters, Role, Sampling, SkillCall
from palaver_server.stores.store import Window

OPTIONS = EngineOptions(default_chat_model="default", default_temperature=0.7, default_max_tokens=200)
CAPPED = EngineOptions(
    default_chat_model="default", default_temperature=0.7, default_max_tokens=200, max_tokens_cap=150
)


@pytest.mark.parametrize(
    ("sampling", "options", "expected"),
    [
        # chat_model, temperature, top_p, max_tokens, is_reasoning_model
        (Sampling(), OPTIONS, ("default", 0.7, None, 200, False)),
        (Sampling(chat_model="mine"), OPTIONS, ("mine", 0.7, None, 200, False)),
        (Sampling(chat_model=""), OPTIONS, ("default", 0.7, None, 200, False)),
        (Sampling(temperature=1.5), OPTIONS, ("default", 1.5, None, 200, False)),
        (Sampling(temperature=0.0), OPTIONS, ("default", 0.0, None, 200, False)),
        (Sampling(top_p=0.1), OPTIONS, ("default", None, 0.1, 200, False)),
        (Sampling(temperature=0.0, top_p=0.1), OPTIONS, ("default", 0.0, 0.1, 200, False)),
        (Sampling(max_tokens=1), OPTIONS, ("default", 0.7, None, 1, False)),
        (Sampling(max_tokens=10_000), OPTIONS, ("default", 0.7, None, 10_000, False)),
        (Sampling(), CAPPED, ("default", 0.7, None, 150, False)),
        (Sampling(max_tokens=100), CAPPED, ("default", 0.7, None, 100, False)),
        (Sampling(max_tokens=151), CAPPED, ("default", 0.7, None, 150, False)),
        (Sampling(is_reasoning_model=True), OPTIONS, ("default", None, None, None, True)),
        (
            Sampling("mine", temperature=1.0, top_p=0.5, max_tokens=300, is_reasoning_model=True),
            OPTIONS,
            ("mine", None, None, 300, True),
        ),
        (Sampling(is_reasoning_model=True), CAPPED, ("default", None, None, 150, True)),
        (Sampling(max_tokens=100, is_reasoning_model=True), CAPPED, ("default", None, None, 100, True)),
        (Sampling(max_tokens=300, is_reasoning_model=True), CAPPED, ("default", None, None, 150, True)),
        (Sampling(), EngineOptions(), ("gpt-3.5-turbo", 0.5, None, 100, False)),
        (Sampling(), EngineOptions(default_temperature=0.0), ("gpt-3.5-turbo", 0.0, None, 100, False)),
    ],
)
def test_the_parameters_in_effect(sampling: Sampling, options: EngineOptions, expected: tuple):
    assert parameters_in_effect(sampling, options) == ModelParameters(*expected)


START = datetime(2026, 1, 1, tzinfo=timezone.utc)
CALL = (SkillCall("call-1", "weather", "{}"), SkillCall("call-2", "time", "{}"))
QUESTION = Draft(Role.USER, "And now?")


def window(*messages: Draft, instructions: str = "Be brief.") -> Window:
    """A window whose newest messages these are."""
    stored = [
        Message(m.role, m.content, m.skill_calls, m.skill_call_id, index=index, create_time=START + timedelta(index))
        for index, m in enumerate(messages, 40)
    ]
    first = Message(Role.SYSTEM, instructions, index=1, create_time=START) if instructions else None
    assistant = Assistant("a", START, START, total_messages=39 + len(stored), total_tokens=0)
    return Window(assistant, "version", first, tuple(stored))


def sent(window: Window) -> list[str]:
    return [message.content for message in history(window, (QUESTION,), 100)]


def test_instructions_come_first_then_the_window_then_the_new_message():
    asked = history(window(Draft(Role.USER, "Hello"), Draft(Role.ASSISTANT, "Hi")), (QUESTION,), 100)
    roles = [(message.role, message.content) for message in asked]
    assert roles == [
        (Role.SYSTEM, "Be brief."),
        (Role.USER, "Hello"),
        (Role.ASSISTANT, "Hi"),
        (Role.USER, "And now?"),
    ]


@pytest.mark.parametrize("instructions", ["Be brief.", ""])
def test_an_empty_window_leaves_the_new_message_and_the_instructions(instructions: str):
    assert sent(window(instructions=instructions)) == ([instructions] if instructions else []) + ["And now?"]


@pytest.mark.parametrize("first", [Draft(Role.USER, "Hello"), Draft(Role.ASSISTANT, "Hi"), Draft(Role.SYSTEM, "Note")])
def test_a_window_may_begin_with_anything_but_results(first: Draft):
    assert sent(window(first)) == ["Be brief.", first.content, "And now?"]


SKILL_TURN = (
    Draft(Role.USER, "Weather?"),
    Draft(Role.ASSISTANT, "", CALL),
    Draft(Role.TOOL, "Rain", skill_call_id="call-1"),
    Draft(Role.TOOL, "Noon", skill_call_id="call-2"),
    Draft(Role.ASSISTANT, "It rains at noon."),
)


@pytest.mark.parametrize("size", range(len(SKILL_TURN) + 1))
def test_results_never_come_without_their_call(size: int):
    cut = SKILL_TURN[len(SKILL_TURN) - size :]
    messages = history(window(*cut), (QUESTION,), 100)
    called = {call.id for message in messages for call in message.skill_calls}
    answered = {message.skill_call_id for message in messages if message.role is Role.TOOL}
    assert answered == called
    kept = [message for message in cut if size >= 4 or message.role is not Role.TOOL]
    assert [message.content for message in messages[1:-1]] == [message.content for message in kept]


def test_results_in_the_middle_of_the_window_stay():
    assert sent(window(*SKILL_TURN)) == ["Be brief.", *(message.content for message in SKILL_TURN), "And now?"]
    [_, _, call, first, second, *_] = history(window(*SKILL_TURN), (QUESTION,), 100)
    assert call.skill_calls == CALL
    assert [first.skill_call_id, second.skill_call_id] == ["call-1", "call-2"]


def test_a_window_of_results_alone_is_as_good_as_none():
    assert sent(window(*SKILL_TURN[2:4])) == ["Be brief.", "And now?"]
