"""The parts that all stores have in common: timeouts, limits, pages, and the text forms of what they store."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import msgspec
from typing_extensions import Self

from palaver_server.domain.conversation import Assistant, Listing, Message, Page
from palaver_server.domain.errors import AssistantBusy, ConversationFull, TurnTooLarge
from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.limits import (
    MAX_MESSAGE_UNITS,
    MAX_MESSAGES,
    MAX_PAGE_BYTES,
    MAX_TURN_BYTES,
    MAX_TURN_MESSAGES,
)
from palaver_server.domain.turns import (
    FinishedTurn,
    FinishReason,
    FoundTurn,
    Lease,
    LeaseHolder,
    StoredTurn,
    Usage,
)

TICK = timedelta(microseconds=1)

REPORTING_MARGIN = 0.5
"""Seconds of a call's timeout that are left to report that the store did not answer."""


@dataclass(frozen=True, slots=True)
class StoreTimeouts:
    """The time limits of a store, in seconds."""

    call: float = 4.5
    """Of a call with all its retries, so that a caller learns within 5 seconds that a store hangs."""
    commit: float = 15.0
    """Of a commit with all its retries. It is longer because the model is already paid for."""


DAMAGE = (AttributeError, KeyError, TypeError, ValueError, msgspec.DecodeError)
"""The exceptions of reading stored data that is damaged."""

# These ignore members that a newer server may have added.
_load_usage = msgspec.json.Decoder(Usage).decode
_load_parameters = msgspec.json.Decoder(GenerationParameters).decode


def stamped(assistant: Assistant, turn: FinishedTurn, now: datetime) -> StoredTurn:
    """Returns a turn with the indexes and times of its messages, and the assistant after it.

    `assistant` is the state before. Raises `ConversationFull` or `TurnTooLarge`.
    """
    last_index = assistant.total_messages + len(turn.messages)
    if last_index > MAX_MESSAGES:
        raise ConversationFull(f"a conversation holds at most {MAX_MESSAGES:,} messages")
    _check_size(turn)
    # A clock that was set back must not hide the messages from callers that poll by time.
    start = max(now, assistant.update_time + TICK)
    messages = tuple(
        Message(
            draft.role,
            draft.content,
            draft.skill_calls,
            draft.skill_call_id,
            draft.is_error,
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


CANCELLED = "cancelled "
"""The prefix of a holder whose lease was cancelled. It tells the holder so, where another holder only means a loss."""


@dataclass(frozen=True, slots=True)
class StoredLease:
    """The lease in the state of an assistant."""

    holder: LeaseHolder | None
    until: datetime
    is_cancelled: bool = False

    @classmethod
    def parse(cls, holder: str, until: datetime) -> Self:
        """Parses the text form of a holder: empty, `TURN.SERVER`, or `cancelled TURN.SERVER`."""
        turn, _, server = holder.removeprefix(CANCELLED).partition(".")
        return cls(LeaseHolder(turn, server) if turn else None, until, holder.startswith(CANCELLED))

    @property
    def holder_text(self) -> str:
        """The text form of the holder, which older servers write and read as well."""
        if self.holder is None:
            return ""
        return f"{CANCELLED if self.is_cancelled else ''}{self.holder.turn}.{self.holder.server}"

    def check_available(self, lease: Lease, now: datetime) -> None:
        """Raises `AssistantBusy` if this lease keeps another one from being taken."""
        remaining = (self.until - now).total_seconds()
        if remaining > 0 and not self.is_cancelled and not lease.may_replace(self.holder):
            raise AssistantBusy("another turn of the assistant is running", retry_after=remaining)

    def is_held_by(self, holder: LeaseHolder | None) -> bool:
        """Returns whether the lease is still that of a holder."""
        return holder is not None and holder == self.holder and not self.is_cancelled

    def was_cancelled(self, holder: LeaseHolder | None) -> bool:
        """Returns whether the lease was that of a holder until it was cancelled."""
        return holder is not None and holder == self.holder and self.is_cancelled


def dump_parameters(parameters: GenerationParameters) -> str:
    """Returns the text form of the parameters of a turn."""
    return json.dumps({name: value for name, value in asdict(parameters).items() if value is not None})


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
    """Returns a turn from its stored columns; raises one of `DAMAGE` if they can't be read.

    `parameters` is None if the server that stored the turn did not store parameters yet.
    """
    return FoundTurn(
        assistant=assistant,
        messages=messages,
        request_hash=request_hash,
        finish_reason=FinishReason(finish_reason),
        usage=_load_usage(usage),
        chat_model=chat_model,
        parameters=None if parameters is None else _load_parameters(parameters),
    )


class PageBuilder:
    """Fills a page with messages, up to the limits of a page. A page has one message at least, if there is any."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._messages: list[Message] = []
        self._bytes = 0

    def add(self, message: Message) -> bool:
        """Adds a message, or returns False if the page is full."""
        self._bytes += message.content.utf8_bytes
        self._bytes += sum(len(call.arguments_json.encode()) for call in message.skill_calls)
        if self._messages and (len(self._messages) == self._limit or self._bytes > MAX_PAGE_BYTES):
            return False
        self._messages.append(message)
        return True

    def page(self, *, has_more: bool) -> Page:
        """Returns the page."""
        return Page(tuple(self._messages), has_more)


def page_of(messages: Iterable[Message], listing: Listing) -> Page:
    """Returns a page of messages, which are read only as far as needed."""
    builder = PageBuilder(listing.limit)
    return builder.page(has_more=not all(map(builder.add, messages)))
