"""The stages of a turn, which observers are notified of: the hook for logs, metrics, traces and failpoints."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from palaver_server.domain.turns import TurnKey


class Stage(Enum):
    """The points in the life of a turn, in order. Each is documented with the detail that observers receive."""

    ACCEPTED = "accepted"
    """The turn was created. The store has not been searched for it yet. Detail: the `Caller`."""
    LOCKED = "locked"
    """The turn has its assistant to itself, and no event has been published. Detail: the `Window`."""
    STARTED = "started"
    """`TurnStarted` is published; the model has not been called. Detail: the `GenerationParameters`."""
    MODEL_CALLED = "model_called"
    """A model call begins; a retry reaches this stage again. Detail: the `Prompt`."""
    OUTPUT_RECEIVED = "output_received"
    """The model has sent the first piece of its reply: text, reasoning or a skill call. Detail: None."""
    TEXT_RECEIVED = "text_received"
    """The model has sent text, which has not been published. Detail: the text."""
    MODEL_ANSWERED = "model_answered"
    """A model call has ended. Detail: the `Reply`, or the exception that ended the call."""
    SKILL_CALLED = "skill_called"
    """A skill of the server is about to run. Detail: the `SkillCall`."""
    SKILL_ANSWERED = "skill_answered"
    """A skill of the server has run; its result has not been published. Detail: the `SkillResult`."""
    REPLIED = "replied"
    """The model has finished its reply. Nothing is stored yet. Detail: the `FinishedTurn`."""
    WRITTEN = "written"
    """The turn is in a transaction that is not committed yet: begun in SQLite, unsent in Azure. Detail: None."""
    STORED = "stored"
    """The turn is stored, but `TurnCompleted` is not published yet. Detail: the `StoredTurn`."""
    COMPLETED = "completed"
    """A caller of the stream has received `TurnCompleted`. Detail: None."""
    ENDED = "ended"
    """The turn is over, stored or not. Detail: the exception that ended it, or None."""


class Observer(Protocol):
    """A hook that is called when turns reach their stages."""

    def reached(self, stage: Stage, turn: TurnKey, detail: object = None) -> None:
        """Called when a turn has reached a stage.

        It runs within the turn, in its context (`contextvars`), so it must be quick and must not raise. `WRITTEN` may
        be reached in a thread of the store.
        """


@dataclass(frozen=True, slots=True)
class Observers:
    """Several observers, notified one after the other."""

    observers: tuple[Observer, ...] = ()

    def reached(self, stage: Stage, turn: TurnKey, detail: object = None) -> None:
        """Notifies all observers."""
        for observer in self.observers:
            observer.reached(stage, turn, detail)
