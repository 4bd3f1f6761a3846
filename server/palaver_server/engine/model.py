"""The interface between the engine and whatever generates replies."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from palaver_server.models import Draft, FinishReason, ModelParameters, Skill, Usage


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked."""

    messages: tuple[Draft, ...]
    parameters: ModelParameters
    skills: tuple[Skill, ...] = ()
    """What the model may ask for."""


@dataclass(slots=True)
class SkillCallDelta:
    """A piece of a skill call that the model is writing."""

    index: int
    """Which of the calls of this reply it is, as the endpoint counts them."""
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class ModelDelta:
    """What came from the model at once; what did not come is empty or None."""

    text: str = ""
    skill_calls: Sequence[SkillCallDelta] = ()
    thinking: bool = False
    """The model sent reasoning, which is not part of the reply but shows that it is at work."""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    chat_model: str = ""


class ChatModel(Protocol):
    """A connection to an endpoint that generates replies."""

    def stream(self, prompt: Prompt) -> AsyncGenerator[ModelDelta, None]:
        """Makes one model call and yields what comes, as it comes.

        The reply is whole only when the generator ends by itself. Otherwise it raises a `ModelError`. Closing the
        generator closes the connection to the endpoint at once.
        """


class Models(Protocol):
    """The AI connections of the server."""

    def resolve(self, name: str) -> tuple[str, ChatModel]:
        """Returns the connection of this name, or the fallback, with the name that callers are told.

        Raises `ConnectionNotConfigured` where there is neither.
        """
