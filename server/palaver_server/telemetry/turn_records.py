"""Records of turns, collected from their stages and passed to those that log, measure and trace them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum

from palaver_server.domain.conversation import SkillCall, SkillResult
from palaver_server.domain.errors import (
    AssistantBusy,
    PalaverError,
    QuotaExceeded,
    ShuttingDown,
    TooManyTurns,
    TurnCancelled,
)
from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.ports import Prompt
from palaver_server.domain.stages import Stage
from palaver_server.domain.turns import Caller, FinishedTurn, TurnKey, Usage
from palaver_server.engine.reply import Reply

REFUSALS = (AssistantBusy, QuotaExceeded, ShuttingDown, TooManyTurns)
"""The errors of turns that the server did not run."""

INTERNAL, CANCELLED = "INTERNAL", "CANCELLED"


class Outcome(Enum):
    """The outcomes of turns."""

    STORED = "stored"
    REPLAYED = "replayed"
    """The turn had been stored before, and was read."""
    CANCELLED = "cancelled"
    """The turn was cancelled, or its last caller left."""
    REFUSED = "refused"
    """The server did not run the turn, because of a limit or because it was stopping."""
    FAILED = "failed"


@dataclass(slots=True, eq=False)
class ModelCall:
    """A call of a model. A retry is a call of its own."""

    parameters: GenerationParameters
    began_at: float
    is_retry: bool
    first_output_at: float | None = None
    ended_at: float = 0.0
    reply: Reply | None = None
    error: BaseException | None = None

    @property
    def was_abandoned(self) -> bool:
        """True if the turn ended during the call, for a reason that has nothing to do with the endpoint."""
        return self.error is not None and not isinstance(self.error, Exception)


@dataclass(slots=True, eq=False)
class SkillRun:
    """A call of a host's skill."""

    call: SkillCall
    began_at: float
    ended_at: float = 0.0
    result: SkillResult | None = None


@dataclass(slots=True, eq=False)
class TurnRecord:
    """The record of a turn. Times are those of `time.monotonic`."""

    key: TurnKey
    caller: Caller
    accepted_at: float
    locked_at: float | None = None
    """The time when the turn had its assistant to itself."""
    first_output_at: float | None = None
    ended_at: float = 0.0
    parameters: GenerationParameters | None = None
    """The parameters in effect, or None before the turn runs and for a replay."""
    model_calls: int = 0
    retries: int = 0
    skill_calls: int = 0
    finished: FinishedTurn | None = None
    usage: Usage = field(default_factory=Usage)
    """The tokens of the model calls that have ended well."""
    is_stored: bool = False
    error: BaseException | None = None
    trace_id: str = ""
    """The id of the trace that the turn belongs to, or empty if it is not traced."""
    call: ModelCall | None = None
    """The latest model call."""
    running_skills: dict[str, SkillRun] = field(default_factory=dict)

    @property
    def outcome(self) -> Outcome:
        """The outcome of a turn that has ended."""
        if self.is_stored:
            return Outcome.STORED
        if self.error is None:
            return Outcome.REPLAYED
        if isinstance(self.error, TurnCancelled):
            return Outcome.CANCELLED
        return Outcome.REFUSED if self.locked_at is None and isinstance(self.error, REFUSALS) else Outcome.FAILED


def reason_of(error: BaseException | None) -> str:
    """Returns the reason of an error, by the name in the contract, or an empty text."""
    if error is None:
        return ""
    if isinstance(error, PalaverError):
        return error.reason
    return INTERNAL if isinstance(error, Exception) else CANCELLED


class TurnListener:
    """Told of the turns of this process as they proceed. The methods run within the turns, so they must be quick."""

    def accepted(self, record: TurnRecord) -> None:
        """A turn was accepted, and waits for its assistant."""

    def locked(self, record: TurnRecord) -> None:
        """A turn has its assistant to itself."""

    def model_called(self, record: TurnRecord, call: ModelCall) -> None:
        """A model call begins."""

    def model_answered(self, record: TurnRecord, call: ModelCall) -> None:
        """A model call has ended, well or not."""

    def skill_called(self, record: TurnRecord, run: SkillRun) -> None:
        """A host's skill is about to be called."""

    def skill_answered(self, record: TurnRecord, run: SkillRun) -> None:
        """A host's skill has answered, or failed."""

    def ended(self, record: TurnRecord) -> None:
        """A turn is over."""


class TurnRecorder:
    """An `Observer` that keeps a record of each turn and tells its listeners."""

    def __init__(self, listeners: Sequence[TurnListener]) -> None:
        self._listeners = listeners
        # A turn runs in a context of its own, which two turns with the same key do not share.
        self._record: ContextVar[TurnRecord] = ContextVar("turn")
        self._handlers: dict[Stage, Callable[[TurnRecord, object], None]] = {
            Stage.LOCKED: self._locked,
            Stage.STARTED: self._started,
            Stage.MODEL_CALLED: self._model_called,
            Stage.OUTPUT_RECEIVED: self._output_received,
            Stage.MODEL_ANSWERED: self._model_answered,
            Stage.SKILL_CALLED: self._skill_called,
            Stage.SKILL_ANSWERED: self._skill_answered,
            Stage.REPLIED: self._replied,
            Stage.STORED: self._stored,
            Stage.ENDED: self._ended,
        }

    def reached(self, stage: Stage, turn: TurnKey, detail: object = None) -> None:
        """Adds to the record of the turn."""
        handler = self._handlers.get(stage)
        if handler is not None:
            handler(self._record.get(), detail)
        elif stage is Stage.ACCEPTED and isinstance(detail, Caller):
            record = TurnRecord(turn, detail, time.monotonic())
            self._record.set(record)
            for listener in self._listeners:
                listener.accepted(record)

    def _locked(self, record: TurnRecord, _detail: object) -> None:
        record.locked_at = time.monotonic()
        for listener in self._listeners:
            listener.locked(record)

    def _started(self, record: TurnRecord, detail: object) -> None:
        if isinstance(detail, GenerationParameters):
            record.parameters = detail

    def _model_called(self, record: TurnRecord, detail: object) -> None:
        if not isinstance(detail, Prompt):
            return
        is_retry = record.call is not None and record.call.error is not None
        record.call = call = ModelCall(detail.parameters, time.monotonic(), is_retry)
        record.model_calls += 1
        record.retries += is_retry
        for listener in self._listeners:
            listener.model_called(record, call)

    def _output_received(self, record: TurnRecord, _detail: object) -> None:
        now = time.monotonic()
        if record.first_output_at is None:
            record.first_output_at = now
        if record.call is not None:
            record.call.first_output_at = now

    def _model_answered(self, record: TurnRecord, detail: object) -> None:
        call = record.call
        if call is None:
            return
        call.ended_at = time.monotonic()
        if isinstance(detail, Reply):
            call.reply = detail
            record.usage += detail.usage
        elif isinstance(detail, BaseException):
            call.error = detail
        for listener in self._listeners:
            listener.model_answered(record, call)

    def _skill_called(self, record: TurnRecord, detail: object) -> None:
        if not isinstance(detail, SkillCall):
            return
        record.skill_calls += 1
        record.running_skills[detail.id] = run = SkillRun(detail, time.monotonic())
        for listener in self._listeners:
            listener.skill_called(record, run)

    def _skill_answered(self, record: TurnRecord, detail: object) -> None:
        run = record.running_skills.pop(detail.id, None) if isinstance(detail, SkillResult) else None
        if run is None or not isinstance(detail, SkillResult):
            return
        run.ended_at, run.result = time.monotonic(), detail
        for listener in self._listeners:
            listener.skill_answered(record, run)

    def _replied(self, record: TurnRecord, detail: object) -> None:
        if isinstance(detail, FinishedTurn):
            record.finished = detail

    def _stored(self, record: TurnRecord, _detail: object) -> None:
        record.is_stored = True

    def _ended(self, record: TurnRecord, detail: object) -> None:
        record.ended_at = time.monotonic()
        if isinstance(detail, BaseException):
            record.error = detail
        for listener in self._listeners:
            listener.ended(record)
