"""A turn that the model is paid for can be stored, however large its calls and results are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from palaver_server.domain.conversation import Content, IfExists, Skill, SkillResult
from palaver_server.domain.limits import MAX_MESSAGE_UNITS, MAX_TURN_BYTES, MAX_TURN_MESSAGES
from palaver_server.domain.ports import SkillInvocation
from palaver_server.domain.turns import ANONYMOUS, FinishReason, UserQuery
from palaver_server.engine.options import EngineOptions
from palaver_server.engine.tool_loop import TOO_MANY_ROUNDS
from palaver_server.engine.transcript import RESERVED_BYTES, RESULT_TOO_LARGE, UNANSWERED
from tests.support.calls import query
from tests.support.chat_engine import chat_engine
from tests.support.conversations import key
from tests.support.endpoint import Endpoint, Stream, skill_calls
from tests.support.palaver_server import server_with_assistant
from tests.support.skill_host import SkillHost, content


async def test_a_huge_argument_of_the_wrong_type_is_refused_in_few_words(
    tmp_path: Path, endpoint: Endpoint, variables: dict[str, str]
):
    schema = '{"type": "object", "properties": {"n": {"type": "integer"}}}'
    async with (
        SkillHost(count=lambda _: content("never"), schema=schema) as host,
        server_with_assistant(tmp_path, endpoint.url, variables, skill_hosts=(host.target,)) as served,
    ):
        endpoint.script(skill_calls(("count", json.dumps({"n": "x" * 460_000}))), Stream("Sorry."))
        completed = (await served.stub.PostUserQueryUnary(query("Count"), timeout=30)).completed
        assert completed.messages[-1].content == "Sorry."
        assert completed.messages[2].content.startswith('The arguments do not match the schema: $.n: "xxx')
        assert completed.messages[2].content.endswith('xxx" is not of type "integer"')
        assert len(completed.messages[2].content) < 400


class Talkative:
    """A source of a skill with results of any size."""

    def __init__(self, size: int) -> None:
        self._size = size

    def offered(self) -> tuple[Skill, ...]:
        return (Skill("talk", "", ""),)

    async def invoke(self, invocation: SkillInvocation) -> SkillResult:
        return SkillResult(invocation.call.id, "x" * self._size)


@pytest.mark.parametrize(
    ("size", "rounds"),
    [(MAX_MESSAGE_UNITS + 1, 1), (MAX_MESSAGE_UNITS, 12), (400_000, 12), (80_000, 47)],
)
async def test_results_of_any_size_leave_a_turn_that_can_be_stored(
    tmp_path: Path, endpoint: Endpoint, size: int, rounds: int
):
    endpoint.script(*[skill_calls(("talk", "{}"))] * (rounds + 1))
    options = EngineOptions(max_skill_rounds=rounds)
    async with chat_engine(tmp_path, endpoint, Talkative(size), options=options) as engine:
        await engine.create_assistant(ANONYMOUS, key(), "", IfExists.FAIL)
        turn = engine.post(ANONYMOUS, UserQuery(assistant=key(), content=Content("Talk")))
        completed = await turn.completed()
        turn.leave()
    results = [message.content.text for message in completed.messages if message.skill_call_id]
    assert completed.finish_reason is FinishReason.SKILL_LIMIT
    assert results[-1] == TOO_MANY_ROUNDS
    assert set(results[:-1]) <= {"x" * size, RESULT_TOO_LARGE}
    assert sum(Content(text).json_bytes for text in results) <= MAX_TURN_BYTES


def test_there_is_room_for_the_texts_in_place_of_results():
    longest = max(map(len, (UNANSWERED, RESULT_TOO_LARGE, TOO_MANY_ROUNDS)))
    assert longest * MAX_TURN_MESSAGES <= RESERVED_BYTES
