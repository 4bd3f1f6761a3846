"""Short runs of every part of the fault harness, and tests of its checker, which must find every kind of defect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from palaver.v1 import assistant_pb2
from palaver.v1.assistant_pb2 import Message, Role, SkillCall
from palaver_server.domain.stages import Stage
from palaver_server.failpoints import Failpoint
from tests.faults import cancels, kills, replicas, skills, stops
from tests.faults.checker import INSTRUCTIONS, Acknowledged, Log, Posted, Prompt, Verdict, Witnesses, compare, text_of
from tests.faults.storage import STORES
from tests.support.azurite import Account, Azurite


@pytest.fixture(params=STORES)
def account(request: pytest.FixtureRequest) -> Account | None:
    if request.param == "sqlite":
        return None
    azurite: Azurite = request.getfixturevalue("azurite")
    return azurite.account()


@pytest.mark.timeout(300)  # it starts a server for every stage of a turn
async def test_killing_servers_loses_and_duplicates_no_turn(account: Account | None):
    deaths = len(Stage) + 1
    result = await kills.run(60, deaths, 1, account)
    assert result.findings == []
    assert result.turns >= 60
    assert result.kills >= deaths


async def test_stopping_servers_loses_no_turn(account: Account | None):
    result = await stops.run(3, 1, account)
    assert result.findings == []
    assert result.stops == 3


async def test_replicas_store_one_sequence_of_turns(account: Account | None):
    result = await replicas.run(100, 1, account)
    assert result.findings == []
    assert result.paid_twice == 0
    assert result.turns >= 100
    assert min(result.shares) > 0


async def test_cancelled_calls_leave_nothing_behind(account: Account | None):
    result = await cancels.run(200, 1, account)
    assert result.findings == []
    assert result.total.calls == 200


class TestChecker:
    STORY = "Story 1 for question 1"
    TURN = Acknowledged("r1", 2, ("question 1", STORY))

    def log(self) -> Log:
        return Log(posted={"r1": Posted("a", ("question 1",), 1)}, acknowledged=[self.TURN])

    def witnesses(self) -> Witnesses:
        return Witnesses({self.STORY: (INSTRUCTIONS, "question 1")})

    def messages(self, *contents: str, request_ids: str = "") -> list[assistant_pb2.Message]:
        texts = (INSTRUCTIONS, *(contents or ("question 1", self.STORY)))
        roles = [assistant_pb2.ROLE_SYSTEM, *[assistant_pb2.ROLE_USER, assistant_pb2.ROLE_ASSISTANT] * 9]
        names = ["", *(request_ids.split() or ["r1"] * 9)]
        return [
            assistant_pb2.Message(index=number, role=roles[number - 1], content=text, request_id=names[number - 1])
            for number, text in enumerate(texts, start=1)
        ]

    def found(self, verdict: Verdict) -> set[str]:
        return {name for name in ("lost", "duplicated", "partial", "forked") if getattr(verdict, name)}

    def test_a_sound_store_has_no_findings(self):
        assert compare({"a": self.messages()}, self.log(), self.witnesses()) == Verdict()

    def test_an_acknowledged_turn_that_is_missing_is_lost(self):
        assert self.found(compare({"a": self.messages()[:1]}, self.log(), self.witnesses())) == {"lost"}

    def test_an_acknowledged_turn_that_is_stored_with_other_text_is_lost(self):
        log = self.log()
        log.acknowledged = [replace(self.TURN, texts=("question 1", "Story 2 for question 1"))]
        assert self.found(compare({"a": self.messages()}, log, self.witnesses())) == {"lost"}

    def test_a_turn_that_is_stored_twice_is_duplicated(self):
        twice = self.messages("question 1", self.STORY, "question 1", self.STORY)
        assert "duplicated" in self.found(compare({"a": twice}, self.log(), self.witnesses()))

    def test_a_turn_that_is_stored_for_two_assistants_is_duplicated(self):
        found = self.found(compare({"a": self.messages(), "b": self.messages()}, self.log(), self.witnesses()))
        assert "duplicated" in found

    def test_a_question_without_an_answer_is_partial(self):
        assert "partial" in self.found(compare({"a": self.messages("question 1")}, self.log(), self.witnesses()))

    def test_a_gap_in_the_messages_is_partial(self):
        messages = self.messages()
        del messages[1]
        assert "partial" in self.found(compare({"a": messages}, self.log(), self.witnesses()))

    def test_a_turn_that_nobody_posted_is_partial(self):
        messages = self.messages("question 1", self.STORY, "question 2", "Story 2", request_ids="r1 r1 r2 r2")
        assert "partial" in self.found(compare({"a": messages}, self.log(), self.witnesses()))

    @pytest.mark.parametrize("prompt", [(INSTRUCTIONS,), (INSTRUCTIONS, "question 0", "question 1"), ("question 1",)])
    def test_a_reply_to_another_conversation_is_forked(self, prompt: Prompt):
        assert self.found(compare({"a": self.messages()}, self.log(), Witnesses({self.STORY: prompt}))) == {"forked"}

    def test_a_turn_stored_before_a_message_that_its_caller_knew_is_forked(self):
        log = self.log()
        log.posted["r1"] = Posted("a", ("question 1",), 3)
        assert self.found(compare({"a": self.messages()}, log, self.witnesses())) == {"forked"}


class TestCheckingSkills:
    """A turn that calls the skill of the host, and then one that calls that of the caller and waits."""

    STORY = "Story 2 for question 1"
    CALLS = tuple(
        SkillCall(id=f"c{n}", name=skills.LOOK_UP, arguments_json=skills.arguments(f"part {n}")) for n in (1, 2)
    )
    ASKED = SkillCall(id="c3", name=skills.ASK, arguments_json=skills.arguments("part 3"))

    def messages(self) -> list[assistant_pb2.Message]:
        results = [
            Message(
                role=Role.ROLE_TOOL, content=skills.result_of(call.name, call.arguments_json), skill_call_id=call.id
            )
            for call in (*self.CALLS, self.ASKED)
        ]
        turns = {
            "": [Message(role=Role.ROLE_SYSTEM, content=INSTRUCTIONS)],
            "r1": [
                Message(role=Role.ROLE_USER, content="question 1"),
                Message(role=Role.ROLE_ASSISTANT, skill_calls=self.CALLS),
                *results[:2],
                Message(role=Role.ROLE_ASSISTANT, content=self.STORY),
            ],
            "r2": [
                Message(role=Role.ROLE_USER, content="question 2"),
                Message(role=Role.ROLE_ASSISTANT, skill_calls=[self.ASKED]),
            ],
            "r3": [results[2], Message(role=Role.ROLE_ASSISTANT, content="Story 4 for question 2")],
        }
        messages = [(request_id, message) for request_id, turn in turns.items() for message in turn]
        for index, (request_id, message) in enumerate(messages, start=1):
            message.index, message.request_id = index, request_id
        return [message for _, message in messages]

    def compared(self, messages: list[assistant_pb2.Message], **witnesses: Any) -> Verdict:
        texts = [text_of(message) for message in self.messages()]
        turns = {"r1": (1, 6), "r2": (6, 8), "r3": (8, 10)}
        log = Log(
            posted={
                "r1": Posted("a", ("question 1",), 1),
                "r2": Posted("a", ("question 2",), 6),
                "r3": Posted("a", (texts[8],), 8),
            },
            acknowledged=[
                Acknowledged(name, first + 1, tuple(texts[first:last])) for name, (first, last) in turns.items()
            ],
        )
        replies = [number for number, message in enumerate(self.messages()) if message.role == Role.ROLE_ASSISTANT]
        known: dict[str, Any] = {
            "prompts": {texts[number]: tuple(texts[:number]) for number in replies},
            "invoked": {(call.id, call.arguments_json) for call in self.CALLS},
        }
        return compare({"a": messages}, log, Witnesses(**{**known, **witnesses}))

    def test_a_sound_store_has_no_findings(self):
        assert self.compared(self.messages()) == Verdict()

    @pytest.mark.parametrize("number", [3, 4])
    def test_a_call_without_its_result_is_partial(self, number: int):
        messages = self.messages()
        del messages[number]
        assert self.compared(messages).partial

    def test_results_of_each_other_s_calls_are_partial(self):
        messages = self.messages()
        messages[3].content, messages[4].content = messages[4].content, messages[3].content
        assert self.compared(messages).partial

    def test_a_turn_that_ends_with_a_call_of_the_host_is_partial(self):
        messages = self.messages()
        del messages[3:6]
        assert self.compared(messages).partial

    def test_a_call_that_the_host_never_got_is_partial(self):
        assert self.compared(self.messages(), invoked={("c1", self.CALLS[0].arguments_json), ("c2", "{}")}).partial

    def test_a_result_that_is_stored_twice_is_duplicated(self):
        messages = self.messages()
        messages.insert(4, messages[3])
        assert self.compared(messages).duplicated

    def test_a_call_id_that_is_used_twice_is_duplicated(self):
        messages = self.messages()
        messages[2].skill_calls[1].id = messages[4].skill_call_id = "c1"
        assert self.compared(messages).duplicated

    def test_a_reply_to_other_results_is_forked(self):
        prompts = {text_of(message): (INSTRUCTIONS,) for message in self.messages()}
        assert self.compared(self.messages(), prompts=prompts).forked


class TestFailpoints:
    @pytest.mark.parametrize(
        ("value", "words"),
        [("stord", "one of accepted,"), ("stored:0", "1 or more"), ("stored:x", "1 or more")],
    )
    def test_an_invalid_failpoint_is_named(self, value: str, words: str):
        with pytest.raises(ValueError, match=words):
            Failpoint.parse(value)
