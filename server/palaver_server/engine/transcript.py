"""The messages of a turn: those it begins with, those that the model gets, and those that are stored.

This module keeps skill calls and their results together, because endpoints and the extension insist on it. A prompt
never contains one without the other, and a turn is never stored with a call whose results would not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import dropwhile

from palaver_server.domain.conversation import Content, Draft, Message, Role, SkillCall, SkillResult
from palaver_server.domain.errors import ConversationFull, FieldViolation, InvalidFields, TurnTooLarge
from palaver_server.domain.limits import (
    MAX_ENDPOINT_STATE_CHARACTERS,
    MAX_MESSAGE_UNITS,
    MAX_MESSAGES,
    MAX_REASONING_CHARACTERS,
    MAX_TURN_BYTES,
    MAX_TURN_MESSAGES,
)
from palaver_server.domain.turns import UserQuery, Window

UNANSWERED = "The caller did not answer this call."
RESULT_TOO_LARGE = "The result is too large for this conversation."

RESERVED_BYTES = 128 * MAX_TURN_MESSAGES
"""The part of a turn's size that is reserved for texts like these, which replace results that do not fit."""


class TurnSize:
    """The size of a turn while it grows. It raises `TurnTooLarge` as soon as the turn can't be stored."""

    def __init__(self) -> None:
        self._bytes = 0
        self._reply_units = 0
        self._reasoning_characters = 0

    def has_room_for(self, text: str) -> bool:
        """Returns whether the turn could still be stored with another text."""
        return self._bytes + Content(text).json_bytes <= MAX_TURN_BYTES - RESERVED_BYTES

    def add(self, text: str) -> None:
        """Counts a text."""
        self._bytes += Content(text).json_bytes
        self._check()

    def begin_reply(self) -> None:
        """Begins a message of the model."""
        self._reply_units = 0

    def add_to_reply(self, text: str) -> None:
        """Counts a piece of the message that the model is writing."""
        content = Content(text)
        self._reply_units += content.utf16_units
        self._bytes += content.json_bytes
        self._check()

    def add_reasoning(self, text: str) -> None:
        """Counts a piece of the model's reasoning, which is not stored but held until the turn ends."""
        self._reasoning_characters += len(text)
        if self._reasoning_characters > MAX_REASONING_CHARACTERS:
            raise TurnTooLarge(f"the model has written more than {MAX_REASONING_CHARACTERS:,} characters of reasoning")

    def _check(self) -> None:
        if self._reply_units > MAX_MESSAGE_UNITS:
            raise TurnTooLarge(f"the reply has more than {MAX_MESSAGE_UNITS:,} UTF-16 code units; set max_tokens")
        if self._bytes > MAX_TURN_BYTES - RESERVED_BYTES:
            raise TurnTooLarge(f"the turn has more than {MAX_TURN_BYTES:,} bytes of JSON; set max_tokens")


class Transcript:
    """The messages of a turn, after those of the conversation before it."""

    def __init__(self, query: UserQuery, window: Window, shown: int) -> None:
        """Begins a turn with a query.

        The window must be complete (`is_complete`). The model gets its newest `shown` messages. Raises `InvalidFields`
        if the query's results are not those that the conversation waits for, and `ConversationFull`.
        """
        self._new = list(_first_messages(query, _open_calls(window.messages)))
        self._room = min(MAX_TURN_MESSAGES, MAX_MESSAGES - window.assistant.total_messages)
        if len(self._new) >= self._room:
            raise ConversationFull
        self.size = TurnSize()
        """The size of the turn. `ReplyReader` counts the replies while it reads them."""
        for draft in self._new:
            self.size.add(draft.content.text)
        self._before = _sent_before(window, self._new, shown)

    @staticmethod
    def is_complete(window: Window) -> bool:
        """Returns whether the window includes the calls whose results it ends with, if it ends with any."""
        return not window.messages or any(message.role is not Role.TOOL for message in window.messages)

    @property
    def prompt(self) -> tuple[Draft, ...]:
        """The messages that the model is sent."""
        return (*self._before, *self._new)

    @property
    def new_messages(self) -> tuple[Draft, ...]:
        """The messages that the turn adds to the conversation."""
        return tuple(self._new)

    def has_room_for_calls(self, count: int) -> bool:
        """Returns whether a reply with this many calls can still be stored, with the results of the calls."""
        return len(self._new) + count + 1 <= self._room

    def has_room_after_calls(self, count: int) -> bool:
        """Returns whether there is room for such a reply, the results of its calls, and another reply."""
        return len(self._new) + count + 2 <= self._room

    def add_reply(
        self, text: str, calls: Sequence[SkillCall] = (), endpoint_state: str = "", reasoning: str = ""
    ) -> None:
        """Appends a message of the model. Its calls need room for their results (`has_room_for_calls`).

        A state that is too large to be stored is left out.
        """
        state = endpoint_state
        if len(state) > MAX_ENDPOINT_STATE_CHARACTERS or not self.size.has_room_for(state):
            state = ""
        self.size.add(state)
        self._new.append(Draft(Role.ASSISTANT, Content(text), tuple(calls), endpoint_state=state, reasoning=reasoning))

    def fit(self, call: SkillCall, result: SkillResult) -> SkillResult:
        """Counts the result of a call and returns it, or returns an error if the result is too large to be stored."""
        if Content(result.text).utf16_units > MAX_MESSAGE_UNITS or not self.size.has_room_for(result.text):
            return SkillResult.failure(call, RESULT_TOO_LARGE)
        self.size.add(result.text)
        return result

    def add_results(self, results: Iterable[SkillResult]) -> None:
        """Appends the results of calls, in the order of the calls."""
        self._new += map(Draft.from_result, results)


def _open_calls(messages: Sequence[Message]) -> tuple[SkillCall, ...]:
    """Returns the skill calls at the end of a conversation that have no result yet."""
    answered: set[str] = set()
    for message in reversed(messages):
        if message.role is not Role.TOOL:
            return tuple(call for call in message.skill_calls if call.id not in answered)
        answered.add(message.skill_call_id)
    return ()


def _first_messages(query: UserQuery, open_calls: Sequence[SkillCall]) -> tuple[Draft, ...]:
    """Returns the messages that a turn begins with: a result for each open call, and the user's message."""
    if not query.skill_results:
        unanswered = (Draft.from_result(SkillResult.failure(call, UNANSWERED)) for call in open_calls)
        return (*unanswered, Draft(Role.USER, query.content))
    results = {result.id: result for result in query.skill_results}
    expected = {call.id for call in open_calls}
    if results.keys() != expected:
        awaited = f"the results of the calls {', '.join(sorted(expected))}" if expected else "no skill results"
        raise InvalidFields(FieldViolation("skill_results", f"the conversation waits for {awaited}"))
    return tuple(Draft.from_result(results[call.id]) for call in open_calls)


def _sent_before(window: Window, new: Sequence[Draft], shown: int) -> tuple[Draft, ...]:
    """Returns the instructions and the newest messages that the model gets."""
    messages = window.messages[max(len(window.messages) - shown, 0) :]
    # If the window begins between a call and its results, these are dropped: endpoints refuse results without a call.
    messages = tuple(dropwhile(lambda message: message.role is Role.TOOL and message.skill_call_id, messages))
    if new[0].role is Role.TOOL and not any(message.skill_calls for message in messages):
        # These results need the calls that they answer, however small the window is.
        start = max(number for number, message in enumerate(window.messages) if message.skill_calls)
        messages = window.messages[start:]
    instructions = (window.instructions,) if window.instructions else ()
    return (*instructions, *messages)
