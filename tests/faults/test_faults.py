"""Short runs of every part of the fault harness, and tests of its checker, which must find every kind of defect."""

from __future__ import annotations

from dataclasses import replace

import pytest

from palaver.v1 import assistant_pb2
from palaver_server.failpoints import Failpoint
from tests.faults import cancels, kills, replicas, stops
from tests.faults.checker import INSTRUCTIONS, Acknowledged, Log, Posted, Prompt, Verdict, compare
from tests.faults.storage import STORES
from tests.support.azurite import Account, Azurite


@pytest.fixture(params=STORES)
def account(request: pytest.FixtureRequest) -> Account | None:
    if request.param == "sqlite":
        return None
    azurite: Azurite = request.getfixturevalue("azurite")
    return azurite.account()


async def test_killing_servers_loses_and_duplicates_no_turn(account: Account | None):
    deaths = len(kills.STAGES) + 1
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
    TURN = Acknowledged("r1", 2, "question 1", STORY)

    def log(self) -> Log:
        return Log(posted={"r1": Posted("a", "question 1", 1)}, acknowledged=[self.TURN])

    def prompts(self) -> dict[str, Prompt]:
        return {self.STORY: (INSTRUCTIONS, "question 1")}

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
        assert compare({"a": self.messages()}, self.log(), self.prompts()) == Verdict()

    def test_an_acknowledged_turn_that_is_missing_is_lost(self):
        assert self.found(compare({"a": self.messages()[:1]}, self.log(), self.prompts())) == {"lost"}

    def test_an_acknowledged_turn_that_is_stored_with_other_text_is_lost(self):
        log = self.log()
        log.acknowledged = [replace(self.TURN, answer="Story 2 for question 1")]
        assert self.found(compare({"a": self.messages()}, log, self.prompts())) == {"lost"}

    def test_a_turn_that_is_stored_twice_is_duplicated(self):
        twice = self.messages("question 1", self.STORY, "question 1", self.STORY)
        assert "duplicated" in self.found(compare({"a": twice}, self.log(), self.prompts()))

    def test_a_turn_that_is_stored_for_two_assistants_is_duplicated(self):
        found = self.found(compare({"a": self.messages(), "b": self.messages()}, self.log(), self.prompts()))
        assert "duplicated" in found

    def test_a_question_without_an_answer_is_partial(self):
        assert "partial" in self.found(compare({"a": self.messages("question 1")}, self.log(), self.prompts()))

    def test_a_gap_in_the_messages_is_partial(self):
        messages = self.messages()
        del messages[1]
        assert "partial" in self.found(compare({"a": messages}, self.log(), self.prompts()))

    def test_a_turn_that_nobody_posted_is_partial(self):
        messages = self.messages("question 1", self.STORY, "question 2", "Story 2", request_ids="r1 r1 r2 r2")
        assert "partial" in self.found(compare({"a": messages}, self.log(), self.prompts()))

    @pytest.mark.parametrize("prompt", [(INSTRUCTIONS,), (INSTRUCTIONS, "question 0", "question 1"), ("question 1",)])
    def test_a_reply_to_another_conversation_is_forked(self, prompt: Prompt):
        assert self.found(compare({"a": self.messages()}, self.log(), {self.STORY: prompt})) == {"forked"}

    def test_a_turn_stored_before_a_message_that_its_caller_knew_is_forked(self):
        log = self.log()
        log.posted["r1"] = Posted("a", "question 1", 3)
        assert self.found(compare({"a": self.messages()}, log, self.prompts())) == {"forked"}


class TestFailpoints:
    @pytest.mark.parametrize(
        ("value", "words"),
        [("stord", "one of accepted,"), ("stored:0", "1 or more"), ("stored:x", "1 or more")],
    )
    def test_an_invalid_failpoint_is_named(self, value: str, words: str):
        with pytest.raises(ValueError, match=words):
            Failpoint.parse(value)
