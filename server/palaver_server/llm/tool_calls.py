"""Telling the tool calls of a streamed reply apart.

Endpoints disagree about what identifies a call. Each of its index, its id, its name and the completeness of its
arguments is missing or wrong somewhere: indexes that are all null or 0, ids that are empty, equal for all calls or new
with every piece, names that are repeated with every piece or arrive in pieces themselves. Together they tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from palaver_server.domain.errors import TurnTooLarge
from palaver_server.domain.limits import MAX_REPLY_CALLS, MAX_SKILL_NAME_CHARACTERS
from palaver_server.domain.ports import SkillCallDelta
from palaver_server.llm.growing_json import GrowingJson

MAX_NAME_CHARACTERS = 4 * MAX_SKILL_NAME_CHARACTERS
"""The most characters of a call's name that are kept, with the prefixes that some endpoints add."""

MAX_SIGNALS = 8 * MAX_REPLY_CALLS
"""The most indexes, and the most ids, that are remembered. Some endpoints send a new id with every piece."""

Signal = TypeVar("Signal", int, str)


@dataclass(slots=True)
class CallPiece:
    """A piece of a call as the endpoint sent it. A signal that it did not send is empty or None."""

    index: int | None = None
    id: str = ""
    name: str = ""
    arguments: str = ""
    state: object = None
    """State that the endpoint wants back with the call."""


@dataclass(slots=True)
class _Call:
    position: int
    index: int | None
    id: str
    name: str = ""
    arguments: GrowingJson = field(default_factory=GrowingJson)
    has_arguments: bool = False

    def is_complete(self) -> bool:
        """Returns whether the arguments are a whole JSON value."""
        return self.has_arguments and self.arguments.is_whole()

    def repeats(self, arguments: str) -> bool:
        """Returns whether the arguments so far are these, sent once more in one piece."""
        is_object = arguments[:1] == "{" and arguments[-1:] == "}" and len(arguments) == self.arguments.length
        return is_object and self.arguments.text == arguments and self.is_complete()


class CallSplitter:
    """Assigns the pieces of a reply to its calls."""

    def __init__(self, skill_names: Sequence[str] = ()) -> None:
        """Takes the names of the skills that the model may call, which tell a whole name from a piece of one."""
        self._names = frozenset(skill_names)
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}

    def split(self, pieces: Sequence[CallPiece]) -> list[SkillCallDelta]:
        """Returns the deltas for the pieces of one chunk, with the position of their call as the index."""
        deltas = []
        taken: set[int] = set()  # the calls that earlier pieces of this chunk belong to
        for piece in pieces:
            call = self._call_of(piece, taken)
            taken.add(call.position)
            delta = self._add(call, piece)
            if delta is not None:
                deltas.append(delta)
        return deltas

    def _call_of(self, piece: CallPiece, taken: set[int]) -> _Call:
        call = self._candidate(piece)
        if call is None or (piece.name and self._begins_another(call, piece, taken)):
            if len(self._calls) == MAX_REPLY_CALLS:
                raise too_many_calls()
            call = _Call(len(self._calls), piece.index, piece.id)
            self._calls.append(call)
        if piece.index is not None:
            _note(self._by_index, piece.index, call)
        if piece.id:
            _note(self._by_id, piece.id, call)
            call.id = call.id or piece.id
        return call

    def _candidate(self, piece: CallPiece) -> _Call | None:
        """Returns the call that a piece continues, unless its name shows that it begins another one."""
        if piece.id and (known := self._by_id.get(piece.id)) is not None:
            return known
        if piece.index is not None:
            known = self._by_index.get(piece.index)
            if known is not None or piece.name:
                return known
        return self._calls[-1] if self._calls else None

    def _begins_another(self, call: _Call, piece: CallPiece, taken: set[int]) -> bool:
        """Returns whether a piece with a name begins another call than the one that its index or id points to."""
        if call.position in taken:
            return True  # an endpoint has no reason to send two pieces of one call in one chunk, and name it again
        if not call.name:
            return False  # the name comes late
        if piece.index is not None and call.index is not None and piece.index != call.index:
            return True  # only their ids are equal
        if piece.id and piece.id == call.id and call.repeats(piece.arguments):
            return False  # the whole call is sent once more at its end
        is_new_id = bool(piece.id and call.id and piece.id != call.id)
        if not call.has_arguments:
            is_rest_of_name = call.name + piece.name in self._names
            return not is_rest_of_name and (piece.name != call.name or is_new_id)
        if piece.name != call.name:
            return True
        # The name is repeated: with every piece by some endpoints, with the next call by others.
        return (is_new_id or bool(piece.arguments.strip())) and call.is_complete()

    def _add(self, call: _Call, piece: CallPiece) -> SkillCallDelta | None:
        """Adds a piece to its call and returns what is new of it, if anything is."""
        name = ""
        if piece.name and piece.name != call.name:
            name = piece.name[: MAX_NAME_CHARACTERS - len(call.name)]
            call.name += name
        arguments = "" if call.repeats(piece.arguments) else piece.arguments
        if arguments:
            call.arguments.add(arguments)
            call.has_arguments = call.has_arguments or bool(arguments.strip())
        if not (name or arguments or piece.state is not None):
            return None
        return SkillCallDelta(call.position, name, arguments, piece.state)


def too_many_calls() -> TurnTooLarge:
    """Returns the error for a reply with more calls than a turn can ever hold."""
    return TurnTooLarge(f"the model's reply has more than {MAX_REPLY_CALLS:,} skill calls")


def _note(known: dict[Signal, _Call], signal: Signal, call: _Call) -> None:
    if signal in known or len(known) < MAX_SIGNALS:
        known[signal] = call
