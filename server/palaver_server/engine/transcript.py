"""The messages of a turn: what it begins with, what the model is sent, and what is stored.

Here is the one rule that endpoints and the extension insist on: a skill call and its results stay together. A prompt
never contains one without the other, and a turn is never stored with a call that the conversation could not answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import dropwhile

from palaver_server.domain.conversation import Content, Draft, Message, Role, SkillCall, SkillResult
from palaver_server.domain.errors import ConversationFull, FieldViolation, InvalidFields, TurnTooLarge
from palaver_server.domain.limits import MAX_MESSAGE_UNITS, MAX_MESSAGES, MAX_TURN_BYTES, MAX_TURN_MESSAGES
from palaver_server.domain.turns import UserQuery, Window

UNANSWERED = "The caller did not answer this call."
RESULT_TOO_LARGE = "The result is too large for this conversation."


class TurnSize:
    """The size of a turn while it grows. It raises `TurnTooLarge` as soon as the turn can't be stored."""

    def __init__(self) -> None:
        self._bytes = 0
        self._reply_units = 0

    def has_room_for(self, text: str) -> bool:
        """Returns whether the turn could still be stored with another text."""
        return self._bytes + Content(text).encoded_bytes <= MAX_TURN_BYTES

    def add(self, text: str) -> None:
        """Counts a text."""
        self._bytes += Content(text).encoded_bytes
        self._check()

    def begin_reply(self) -> None:
        """Begins a message of the model."""
        self._reply_units = 0

    def add_to_reply(self, text: str) -> None:
        """Counts a piece of the message that the model is writing."""
        content = Content(text)
        self._reply_units += content.utf16_units
        self._bytes += content.encoded_bytes
        self._check()

    def _check(self) -> None:
        if self._reply_units > MAX_MESSAGE_UNITS:
            raise TurnTooLarge(f"the reply has more than {MAX_MESSAGE_UNITS:,} UTF-16 code units; set max_tokens")
        if self._bytes > MAX_TURN_BYTES:
            raise TurnTooLarge(f"the turn has more than {MAX_TURN_BYTES:,} bytes of JSON; set max_tokens")


class Transcript:
    """The messages of a turn, after those of the conversation before it."""

    def __init__(self, query: UserQuery, window: Window, max_messages: int) -> None:
        """Begins a turn with a query.

        The window must be complete (`is_complete`). At most `max_messages` of it are sent to the model. Raises
        `InvalidFields` if the query's results are not those that the conversation waits for, and `ConversationFull`.
        """
        self._new = list(_first_messages(query, _open_calls(window.messages)))
        self._room = min(MAX_TURN_MESSAGES, MAX_MESSAGES - window.assistant.total_messages)
        if len(self._new) >= self._room:
            raise ConversationFull(f"a conversation holds at most {MAX_MESSAGES:,} messages")
        self.size = TurnSize()
        for draft in self._new:
            self.size.add(draft.content.text)
        self._before = _sent_before(window, self._new, max_messages)

    @staticmethod
    def is_complete(window: Window) -> bool:
        """Returns whether a window that ends with skill calls includes the message that made them."""
        newest = window.messages[-1:]
        return not newest or not (newest[0].role is Role.TOOL or newest[0].skill_calls)

    @property
    def prompt(self) -> tuple[Draft, ...]:
        """The messages that the model is sent."""
        return (*self._before, *self._new)

    @property
    def new_messages(self) -> tuple[Draft, ...]:
        """The messages that the turn adds to the conversation."""
        return tuple(self._new)

    def has_room_for_calls(self, count: int) -> bool:
        """Returns whether a reply with this many calls, and their results, can still be stored."""
        return len(self._new) + count + 1 <= self._room

    def has_room_after_calls(self, count: int) -> bool:
        """Returns whether another reply can be stored after that."""
        return len(self._new) + count + 2 <= self._room

    def add_reply(self, text: str, calls: Sequence[SkillCall] = ()) -> None:
        """Appends a message of the model. Its calls need room for their results (`has_room_for_calls`)."""
        self._new.append(Draft(Role.ASSISTANT, Content(text), tuple(calls)))

    def fitted(self, call: SkillCall, result: SkillResult) -> SkillResult:
        """Counts the result of a call, and returns it, or an error in its place if it is too large to be stored."""
        if not self.size.has_room_for(result.text):
            return SkillResult.failure(call, RESULT_TOO_LARGE)
        self.size.add(result.text)
        return result

    def add_results(self, results: Iterable[SkillResult]) -> None:
        """Appends the results of calls, in the order of the calls."""
        self._new += map(Draft.answering, results)


def _open_calls(messages: Sequence[Message]) -> tuple[SkillCall, ...]:
    """Returns the calls at the end of a conversation that have no result yet."""
    answered: set[str] = set()
    for message in reversed(messages):
        if message.role is not Role.TOOL:
            return tuple(call for call in message.skill_calls if call.id not in answered)
        answered.add(message.skill_call_id)
    return ()


def _first_messages(query: UserQuery, open_calls: Sequence[SkillCall]) -> tuple[Draft, ...]:
    """Returns the messages that a turn begins with: a result for each open call, and the user's message."""
    if not query.skill_results:
        unanswered = (Draft.answering(SkillResult.failure(call, UNANSWERED)) for call in open_calls)
        return (*unanswered, Draft(Role.USER, Content(query.user_message)))
    results = {result.id: result for result in query.skill_results}
    expected = {call.id for call in open_calls}
    if results.keys() != expected:
        allowed = f"of the calls {', '.join(sorted(expected))}" if expected else "of no calls"
        raise InvalidFields(FieldViolation("skill_results", f"the conversation waits for the results {allowed}"))
    return tuple(Draft.answering(results[call.id]) for call in open_calls)


def _sent_before(window: Window, new: Sequence[Draft], max_messages: int) -> tuple[Draft, ...]:
    """Returns the instructions and at most `max_messages` of the newest messages."""
    messages = window.messages[max(len(window.messages) - max_messages, 0) :] if max_messages else ()
    # A window may begin after a skill call. Results without their call mean nothing, and endpoints refuse them.
    messages = tuple(dropwhile(lambda message: message.role is Role.TOOL and message.skill_call_id, messages))
    if new[0].role is Role.TOOL and not any(message.skill_calls for message in messages):
        # These results need the calls that they answer, however small the window is.
        start = max(number for number, message in enumerate(window.messages) if message.skill_calls)
        messages = window.messages[start:]
    instructions = (window.instructions,) if window.instructions else ()
    return (*instructions, *messages)
