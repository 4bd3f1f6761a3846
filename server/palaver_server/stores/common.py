"""The parts that all stores share: timeouts, new assistants and turns, windows and pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, fields
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import msgspec

from palaver_server.domain.conversation import (
    Assistant,
    AssistantPage,
    Content,
    Listing,
    Message,
    MessageBudget,
    Page,
    Role,
    sound,
)
from palaver_server.domain.errors import ConversationFull, StoreCorrupt, TurnTooLarge
from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.limits import (
    MAX_MESSAGE_UNITS,
    MAX_MESSAGES,
    MAX_PAGE_BYTES,
    MAX_TOKENS,
    MAX_TURN_BYTES,
    MAX_TURN_MESSAGES,
)
from palaver_server.domain.turns import (
    FinishedTurn,
    FinishReason,
    FoundTurn,
    StoredTurn,
    Usage,
)

P = ParamSpec("P")
T = TypeVar("T")
Row = TypeVar("Row")

TICK = timedelta(microseconds=1)

REPORTING_MARGIN = 0.5
"""Seconds of a call's timeout that are reserved for reporting that the store did not answer."""


@dataclass(frozen=True, slots=True)
class StoreTimeouts:
    """The time limits of a store, in seconds."""

    call: float = 4.5
    """The limit of a call with all its retries. Callers learn within 5 seconds that a store hangs."""
    commit: float = 15.0
    """The limit of a commit with all its retries. It is longer, because the model call is already paid for."""


DAMAGE = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError, msgspec.DecodeError)
"""The exceptions that reading damaged data raises."""

# These ignore members that a newer server may have added.
_load_usage = msgspec.json.Decoder(Usage).decode
_load_parameters = msgspec.json.Decoder(GenerationParameters).decode


def reading(what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Makes a function that reads `what` raise `StoreCorrupt` if the data is damaged."""

    def decorate(read: Callable[P, T]) -> Callable[P, T]:
        @wraps(read)
        def guarded(*arguments: P.args, **named: P.kwargs) -> T:
            try:
                return read(*arguments, **named)
            except DAMAGE as error:
                raise StoreCorrupt(f"{what} can't be read") from error

        return guarded

    return decorate


def text(value: object) -> str:
    """Returns a stored value that must be text, without what would only fail when it is sent."""
    if not isinstance(value, str):
        raise TypeError(value)
    return sound(value)


def count(value: Any, limit: int = MAX_TOKENS) -> int:
    """Returns a stored number from 0 to a limit."""
    number = int(value)
    if not 0 <= number <= limit:
        raise ValueError(number)
    return number


def new_assistant(assistant_id: str, instructions: str, now: datetime) -> tuple[Assistant, tuple[Message, ...]]:
    """Returns a new assistant, and the message with its instructions unless they are blank."""
    messages = (Message(Role.SYSTEM, Content(instructions), index=1, create_time=now),) if instructions.strip() else ()
    return Assistant(assistant_id, now, now, total_messages=len(messages), total_tokens=0), messages


def stamped(assistant: Assistant, turn: FinishedTurn, now: datetime) -> StoredTurn:
    """Returns the messages of a turn with their indexes and times, and the assistant after the turn.

    `assistant` is the state before the turn. Raises `ConversationFull` or `TurnTooLarge`.
    """
    last_index = assistant.total_messages + len(turn.messages)
    if last_index > MAX_MESSAGES:
        raise ConversationFull
    _check_size(turn)
    # If the clock was set back, callers that poll by time must still find the messages.
    start = max(now, assistant.update_time + TICK)
    messages = tuple(
        Message(
            draft.role,
            draft.content,
            draft.skill_calls,
            draft.skill_call_id,
            draft.is_error,
            draft.endpoint_state,
            index=assistant.total_messages + number,
            create_time=start + (number - 1) * TICK,
            request_id=turn.request_id,
        )
        for number, draft in enumerate(turn.messages, start=1)
    )
    end = messages[-1].create_time
    return StoredTurn(Assistant(assistant.id, assistant.create_time, end, last_index, turn.total_tokens), messages)


def _check_size(turn: FinishedTurn) -> None:
    if len(turn.messages) > MAX_TURN_MESSAGES:
        raise TurnTooLarge(f"a turn holds at most {MAX_TURN_MESSAGES} messages")
    if any(message.content.utf16_units > MAX_MESSAGE_UNITS for message in turn.messages):
        raise TurnTooLarge(f"a message holds at most {MAX_MESSAGE_UNITS:,} UTF-16 code units")
    if sum(message.json_bytes for message in turn.messages) > MAX_TURN_BYTES:
        raise TurnTooLarge(f"a turn holds at most {MAX_TURN_BYTES:,} bytes of JSON")


def dump_parameters(parameters: GenerationParameters) -> str:
    """Returns the stored form of a turn's parameters."""
    # The names of those that are defaults only matter while the turn runs.
    names = (each.name for each in fields(parameters) if each.name != "defaulted")
    return json.dumps({name: value for name in names if (value := getattr(parameters, name)) is not None})


def dump_usage(usage: Usage) -> str:
    """Returns the stored form of a turn's usage."""
    return json.dumps({each.name: getattr(usage, each.name) for each in fields(usage)})


class _Extras(msgspec.Struct, frozen=True, omit_defaults=True):
    """The parts of a message beside the columns of the extension. Unknown members of newer servers are ignored."""

    endpoint_state: str = ""


_load_extras = msgspec.json.Decoder(_Extras).decode


def dump_extras(message: Message) -> str:
    """Returns the stored form of what a message has beside the columns of the extension: a JSON object, or nothing."""
    extras = _Extras(endpoint_state=message.endpoint_state)
    return "" if extras == _Extras() else msgspec.json.encode(extras).decode()


def load_message(*, content: str, extras: str, **columns: Any) -> Message:
    """Returns a message from its stored columns."""
    state = _load_extras(extras).endpoint_state if extras else ""
    return Message(content=Content(sound(content)), endpoint_state=state, **columns)


@reading("a stored turn")
def load_found_turn(
    assistant: Assistant,
    messages: tuple[Message, ...],
    *,
    request_hash: str,
    finish_reason: str,
    usage: str,
    chat_model: str,
    parameters: str | None,
) -> FoundTurn:
    """Returns a turn from its stored columns.

    `parameters` is None if the turn was stored by an older server, which did not store parameters.
    """
    loaded = _load_usage(usage)
    for tokens in astuple(loaded):
        count(tokens)
    return FoundTurn(
        assistant=assistant,
        messages=messages,
        request_hash=text(request_hash),
        finish_reason=FinishReason(finish_reason),
        usage=loaded,
        chat_model=text(chat_model),
        parameters=None if parameters is None else _load_parameters(parameters),
    )


def assistants_of(found: Iterable[tuple[str, Row]], read: Callable[[Row], Assistant], position: str) -> AssistantPage:
    """Returns the page with the assistants of some rows, each with its id, and with the position of the next page.

    A row that can't be read must not hide the others.
    """
    assistants, damaged = [], []
    for assistant_id, row in found:
        try:
            assistants.append(read(row))
        except StoreCorrupt:  # noqa: PERF203 - each row for itself
            damaged.append(sound(assistant_id))
    return AssistantPage(tuple(assistants), tuple(damaged), position)


def first_index(assistant: Assistant, instructions: Message | None, max_messages: int) -> int:
    """Returns the index of the first message of a window, which holds `max_messages` besides the instructions."""
    return max(assistant.total_messages - max_messages, 0 if instructions is None else 1) + 1


class PageBuilder:
    """Collects the messages of a page, up to its limits. The first message always fits."""

    def __init__(self, limit: int) -> None:
        self._budget = MessageBudget(limit, MAX_PAGE_BYTES)
        self._messages: list[Message] = []

    def add(self, message: Message) -> bool:
        """Adds a message, or returns False if the page is full."""
        if not self._budget.takes(message):
            return False
        self._messages.append(message)
        return True

    def page(self, *, has_more: bool) -> Page:
        """Returns the page."""
        return Page(tuple(self._messages), has_more)


def page_of(messages: Iterable[Message], listing: Listing) -> Page:
    """Returns the first page of some messages, reading only as many as it needs."""
    builder = PageBuilder(listing.limit)
    return builder.page(has_more=not all(map(builder.add, messages)))
