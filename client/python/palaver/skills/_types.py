"""What the author of a skill meets inside of a function: the context of the call, and the error for the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True, slots=True)
class Invocation:
    """The context of one call. A parameter with this annotation gets it, and the model does not see the parameter.

    Attributes:
        call_id: The identifier of the call, and the idempotency key: a call that is repeated has the same one, and must
            not take effect a second time. Store it with the effect, in one transaction.
        assistant_id: The identifier of the assistant whose model asks. Authorise by this, never by an argument: the
            model writes the arguments.
        request_id: The identifier of the turn in which the model asks.
    """

    call_id: str
    assistant_id: str
    request_id: str

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: object) -> NoReturn:
        # Inside of another type it would be an argument: the model could choose in whose name it asks.
        raise TypeError("Invocation must be the whole annotation of a parameter, not a part of one")


class SkillError(Exception):
    """The skill can't do what it was asked; the model reads why, and can go on from there.

    Example:
        >>> raise SkillError("there is no to-do 7; list_todos tells which there are")

    Args:
        message: What went wrong and what would help, for the model to read. It may repeat it to the user.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
