"""The types for the functions of skills: the context of a call, and the error for the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True, slots=True)
class Invocation:
    """The context of a call, for a parameter with this annotation. The model does not see the parameter.

    Attributes:
        call_id: The identifier of the call and its idempotency key. A repeated call has the same `call_id` and must not
            take effect again, so store the `call_id` in the same transaction as the effect.
        assistant_id: The identifier of the assistant that makes the call. Authorize by this and never by an argument,
            because the model writes the arguments.
        request_id: The identifier of the turn that makes the call.
    """

    call_id: str
    assistant_id: str
    request_id: str

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> NoReturn:
        # Inside another type, it would become an argument, and the model could choose the assistant.
        raise TypeError("Invocation must be the whole annotation of a parameter, not a part of one")


class SkillError(Exception):
    """The skill can't do what the model asked for. The model reads the message and can try something else.

    Example:
        >>> raise SkillError("there is no to-do 7; list_todos lists all to-dos")

    Args:
        message: What went wrong and how to correct it. The model may repeat it to the user.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
