"""The stages that observers are notified of, in the order in which a turn reaches them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from palaver_server.domain.conversation import AssistantKey, Content, IfExists, Skill, SkillCall, SkillResult
from palaver_server.domain.errors import AssistantNotFound, ModelStreamBroken, PalaverError
from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.ports import Prompt, SkillInvocation
from palaver_server.domain.stages import Observer, Observers, Stage
from palaver_server.domain.turns import Caller, FinishedTurn, StoredTurn, TurnKey, UserQuery, Window
from palaver_server.engine.chat import ChatEngine
from palaver_server.engine.reply import Reply
from tests.support.chat_engine import chat_engine
from tests.support.conversations import key
from tests.support.endpoint import RESET, Endpoint, Stream, skill_calls

CALLER = Caller("checkout")
TURN = TurnKey(key(), "r")


class Recorder:
    """Remembers the stages and their details."""

    def __init__(self) -> None:
        self.reached_stages: list[tuple[Stage, TurnKey, object]] = []

    def reached(self, stage: Stage, turn: TurnKey, detail: object = None) -> None:
        self.reached_stages.append((stage, turn, detail))

    @property
    def stages(self) -> list[Stage]:
        return [stage for stage, _, _ in self.reached_stages]

    def detail(self, stage: Stage) -> object:
        return next(detail for reached, _, detail in self.reached_stages if reached is stage)


class Clock:
    """A source with one skill."""

    def offered(self) -> tuple[Skill, ...]:
        return (Skill("clock", "Tells the time.", ""),)

    async def invoke(self, invocation: SkillInvocation) -> SkillResult:
        return SkillResult(invocation.call.id, "12:00")


@asynccontextmanager
async def running(folder: Path, endpoint: Endpoint, observer: Observer) -> AsyncIterator[ChatEngine]:
    async with chat_engine(folder, endpoint, Clock(), observer=observer) as engine:
        await engine.create_assistant(CALLER, TURN.assistant, "Be brief.", IfExists.FAIL)
        yield engine


def query(assistant: AssistantKey = TURN.assistant) -> UserQuery:
    return UserQuery(assistant=assistant, content=Content("What time is it?"), request_id=TURN.request_id)


async def test_a_turn_reaches_every_stage_in_order(tmp_path: Path, endpoint: Endpoint):
    recorder, other = Recorder(), Recorder()
    async with running(tmp_path, endpoint, Observers((recorder, other))) as engine:
        endpoint.script(skill_calls(("clock", "{}")), Stream("It is noon."))
        turn = engine.post(CALLER, query())
        events = [event async for event in turn]
        turn.leave()
    assert recorder.stages == [
        Stage.ACCEPTED, Stage.LOCKED, Stage.STARTED,
        Stage.MODEL_CALLED, Stage.OUTPUT_RECEIVED, Stage.MODEL_ANSWERED, Stage.SKILL_CALLED, Stage.SKILL_ANSWERED,
        Stage.MODEL_CALLED, Stage.OUTPUT_RECEIVED, Stage.TEXT_RECEIVED, Stage.MODEL_ANSWERED,
        Stage.REPLIED, Stage.WRITTEN, Stage.STORED, Stage.ENDED, Stage.COMPLETED,
    ]  # fmt: skip
    assert set(recorder.stages) == set(Stage)
    assert {turn for _, turn, _ in recorder.reached_stages} == {TURN}
    assert other.reached_stages == recorder.reached_stages
    kinds = {
        Stage.ACCEPTED: Caller, Stage.LOCKED: Window, Stage.STARTED: GenerationParameters, Stage.MODEL_CALLED: Prompt,
        Stage.TEXT_RECEIVED: str, Stage.MODEL_ANSWERED: Reply, Stage.SKILL_CALLED: SkillCall,
        Stage.SKILL_ANSWERED: SkillResult, Stage.REPLIED: FinishedTurn, Stage.STORED: StoredTurn,
        Stage.OUTPUT_RECEIVED: type(None), Stage.WRITTEN: type(None), Stage.COMPLETED: type(None),
        Stage.ENDED: type(None),
    }  # fmt: skip
    assert {stage: type(recorder.detail(stage)) for stage in Stage} == kinds
    assert recorder.detail(Stage.ACCEPTED) == CALLER
    assert recorder.detail(Stage.STORED).messages == events[-1].messages


async def test_a_model_call_that_fails_and_its_turn_end_with_the_error(tmp_path: Path, endpoint: Endpoint):
    recorder = Recorder()
    async with running(tmp_path, endpoint, recorder) as engine:
        endpoint.script(Stream("It is", RESET))
        with pytest.raises(ModelStreamBroken):
            await engine.post(CALLER, query()).completed()
    assert isinstance(recorder.detail(Stage.MODEL_ANSWERED), ModelStreamBroken)
    assert isinstance(recorder.detail(Stage.ENDED), ModelStreamBroken)
    assert Stage.STORED not in recorder.stages


async def test_a_turn_that_never_runs_ends_as_well(tmp_path: Path, endpoint: Endpoint):
    recorder = Recorder()
    async with running(tmp_path, endpoint, recorder) as engine:
        with pytest.raises(AssistantNotFound):
            await engine.post(CALLER, query(assistant=key("nobody"))).completed()
    assert recorder.stages == [Stage.ACCEPTED, Stage.ENDED]
    assert isinstance(recorder.detail(Stage.ENDED), PalaverError)


async def test_a_replay_calls_no_model(tmp_path: Path, endpoint: Endpoint):
    recorder = Recorder()
    async with running(tmp_path, endpoint, recorder) as engine:
        await engine.post(CALLER, query()).completed()
        before = len(recorder.reached_stages)
        async for _ in engine.post(CALLER, query()):
            pass
    assert recorder.stages[before:].count(Stage.ENDED) >= 1
    assert not {Stage.LOCKED, Stage.MODEL_CALLED, Stage.WRITTEN} & set(recorder.stages[before:])
