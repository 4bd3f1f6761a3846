"""Whatever is stored, the history that is sent obeys the rules of all providers together."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaver_server.domain.conversation import Content, Draft, Role, Skill, SkillCall
from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.ports import Prompt
from palaver_server.llm.history import NO_RESULT, call_id, fit
from palaver_server.llm.openai_requests import chat_completion
from tests.support.conversations import draft


def body_of(*messages: Draft) -> dict:
    return chat_completion(Prompt(messages, GenerationParameters(chat_model="m"), (Skill("clock", "", ""),)))


def assert_every_provider_accepts(body: dict) -> None:
    messages = body["messages"]
    roles = [message["role"] for message in messages]
    assert "system" not in roles[1:]
    rest = messages[1:] if roles[:1] == ["system"] else messages
    assert rest[0]["role"] == "user"
    waiting: list[str] = []
    before = ""
    for message in rest:
        role = message["role"]
        assert (message.get("content") or "").strip() or message.get("tool_calls"), "a blank message"
        if role == "tool":
            assert message["tool_call_id"] in waiting, "a result without its call"
            waiting.remove(message["tool_call_id"])
            continue
        assert waiting == [], "a call without its result"
        assert (before, role) in {("", "user"), ("user", "assistant"), ("assistant", "user"), ("tool", "assistant")}
        for call in message.get("tool_calls", ()):
            assert isinstance(json.loads(call["function"]["arguments"]), dict)
            assert re.fullmatch("[A-Za-z0-9_-]{1,64}", call["function"]["name"])
            waiting.append(call["id"])
        before = "tool" if waiting else role
    assert waiting == []
    ids = [call["id"] for message in rest for call in message.get("tool_calls", ())]
    assert all(re.fullmatch("[A-Za-z0-9]{9}", each) for each in ids)
    assert len(set(ids)) == len(ids)
    for tool in body.get("tools", ()):
        assert tool["function"]["parameters"]["type"] == "object"
        assert "properties" in tool["function"]["parameters"]
        assert tool["function"].get("description", "…").strip()


texts = st.sampled_from(["Hello", "", " ", "\n", "x\u00a0"])
ids = st.sampled_from(["call_1", "call_2", "call_3", "c" * 40, ""])
names = st.sampled_from(["clock", "Plugin-clock", "To do.Add", "é" * 70, ""])
arguments = st.sampled_from(["{}", '{"city": "Oslo"}', "", " ", "[]", '"Oslo"', "null", "Oslo", '{"city": "Os'])
calls = st.lists(st.builds(SkillCall, ids.filter(bool), names, arguments), max_size=3).map(tuple)
messages = st.one_of(
    st.builds(lambda text: draft(Role.USER, text), texts),
    st.builds(lambda text: draft(Role.SYSTEM, text), texts),
    st.builds(lambda text, calls: draft(Role.ASSISTANT, text, calls), texts, calls),
    st.builds(lambda text, call: draft(Role.TOOL, text, skill_call_id=call), texts.filter(str.strip), ids),
)


@given(st.lists(messages, max_size=12))
def test_any_history_is_sent_in_a_form_that_every_provider_accepts(stored: list[Draft]):
    assert_every_provider_accepts(body_of(*stored, draft(Role.USER, "And now?")))


@pytest.mark.parametrize("schema", ["", "{}", '{"type": "object"}', '{"properties": {"city": {}}}', '{"$ref": "#"}'])
def test_a_skill_is_offered_with_a_whole_schema(schema: str):
    parameters = GenerationParameters(chat_model="m")
    body = chat_completion(Prompt((draft(Role.USER, "Hi"),), parameters, (Skill("clock", "", schema),)))
    assert_every_provider_accepts(body)
    assert json.loads(schema or "{}").items() <= body["tools"][0]["function"]["parameters"].items()


@given(st.lists(messages, max_size=12), calls.filter(bool))
def test_any_history_that_ends_with_results_is_sent_so(stored: list[Draft], asked: tuple[SkillCall, ...]):
    results = [draft(Role.TOOL, "noon", skill_call_id=call.id) for call in asked]
    body = body_of(*stored, draft(Role.ASSISTANT, "", asked), *results)
    assert_every_provider_accepts(body)
    assert [message["role"] for message in body["messages"][-len(asked) - 1 :]] == ["assistant"] + ["tool"] * len(asked)


@given(st.lists(messages, max_size=12))
def test_no_words_are_lost(stored: list[Draft]):
    sent = json.dumps(body_of(*stored, draft(Role.USER, "And now?")), ensure_ascii=False)
    for message in stored:
        assert json.dumps(message.content.text.strip(), ensure_ascii=False)[1:-1] in sent


def test_an_ordinary_history_is_sent_as_it_is():
    call = SkillCall("call_1", "clock", "{}")
    stored = (
        draft(Role.SYSTEM, "Be brief."),
        draft(Role.USER, "What time is it?"),
        draft(Role.ASSISTANT, "One moment.", (call,)),
        draft(Role.TOOL, "12:00", skill_call_id="call_1"),
        draft(Role.ASSISTANT, "It is noon."),
        draft(Role.USER, "Thanks!"),
    )
    assert fit(stored) == list(stored)
    sent = body_of(*stored)["messages"]
    assert [(message["role"], message["content"]) for message in sent] == [
        (message.role.value, message.content.text) for message in stored
    ]
    assert sent[2]["tool_calls"][0]["id"] == sent[3]["tool_call_id"]


@pytest.mark.parametrize(
    ("stored", "sent"),
    [
        # A reply without any text, whose tokens went into thinking.
        ([("user", "a"), ("assistant", ""), ("user", "b")], [("user", "a"), ("assistant", "(no text)"), ("user", "b")]),
        # A window that begins in the middle, or with the model.
        ([("assistant", "x"), ("user", "b")], [("user", "(Earlier messages are not shown.)"), ("assistant", "x"),
                                               ("user", "b")]),
        # Two messages in a row, of another program.
        ([("user", "a"), ("user", "b")], [("user", "a\n\nb")]),
        ([("user", "a"), ("assistant", "x"), ("assistant", "y"), ("user", "b")],
         [("user", "a"), ("assistant", "x\n\ny"), ("user", "b")]),
        # Instructions in the middle.
        ([("system", "s"), ("user", "a"), ("system", "t"), ("assistant", "x"), ("user", "b")],
         [("system", "s\n\nt"), ("user", "a"), ("assistant", "x"), ("user", "b")]),
    ],
)  # fmt: skip
def test_what_becomes_of_a_history(stored: list[tuple[str, str]], sent: list[tuple[str, str]]):
    fitted = fit([draft(Role(role), text) for role, text in stored])
    assert [(message.role.value, message.content.text) for message in fitted] == sent


def test_a_call_without_a_result_gets_one_and_a_result_without_a_call_becomes_text():
    call = SkillCall("call_1", "clock", "{}")
    fitted = fit([
        draft(Role.USER, "a"), draft(Role.ASSISTANT, "", (call,)), draft(Role.USER, "b"),
        Draft(Role.TOOL, Content("12:00")), draft(Role.USER, "c"),
    ])  # fmt: skip
    assert [(message.role, message.content.text) for message in fitted[2:]] == [
        (Role.TOOL, NO_RESULT),
        (Role.ASSISTANT, "(The conversation continues.)"),
        (Role.USER, "b\n\n(A function returned:) 12:00\n\nc"),
    ]


def test_what_another_program_stored_of_a_call_is_kept_as_far_as_providers_accept_it():
    calls = (SkillCall("1", "To do.Add", "Oslo"), SkillCall("1", "clock", ""), SkillCall("2", "clock", '{"a": 1}'))
    answers = [draft(Role.TOOL, text, skill_call_id=id_) for text, id_ in [("two", "2"), ("one", "1"), ("more", "1")]]
    sent = body_of(draft(Role.USER, "a"), draft(Role.ASSISTANT, "", calls), *answers)["messages"]
    made = {call["id"]: call["function"] for call in sent[1]["tool_calls"]}
    assert list(made.values()) == [
        {"name": "To_do_Add", "arguments": '{"arguments": "Oslo"}'},
        {"name": "clock", "arguments": "{}"},
        {"name": "clock", "arguments": '{"a": 1}'},
    ]
    first, second, third = made
    assert [(message["tool_call_id"], message["content"]) for message in sent[2:]] == [
        (third, "two"), (first, "one"), (second, "more")]  # fmt: skip


def test_ids_of_calls_are_stable_and_different():
    made = {call_id(f"call_{number}") for number in range(10_000)}
    assert len(made) == 10_000
    assert call_id("call_1") == call_id("call_1")
