"""The interface of a store, which `tests/stores` holds every implementation to.

A store keeps the conversations of one storage connection. All of its methods raise `StoreUnavailable`,
`StoreCredentialsRejected` or `StoreCorrupt` as things are, and `AssistantNotFound` where they say so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from palaver_server.models import Assistant, Draft, FinishReason, IfExists, Message, Order, Usage

MAX_MESSAGES = 0xFFFF
"""The most messages of a conversation: the extension's row keys, `msg-0001` to `msg-FFFF`, sort only so far."""

MAX_TURN_MESSAGES = 98
"""The most messages of a turn: of the 100 operations of a transaction in Azure, two are for other rows."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a store may take, in seconds."""

    call: float = 4.5
    """Of a call with all its retries, so that a caller hears of a store that hangs within 5 seconds."""
    commit: float = 15.0
    """In which a commit is tried again where the way to the store may lose it: the model is paid for by then."""


TIME_TO_TELL = 0.5
"""Seconds of a call's time that are left to say that the store did not answer."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a turn reads of a conversation, as it was at one moment."""

    assistant: Assistant
    version: str
    """Names this state of this conversation; `commit_turn` refuses to write over any other."""
    instructions: Message | None
    """The system message that the conversation begins with, if it has one."""
    messages: tuple[Message, ...]
    """The newest messages besides the instructions, oldest first."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to an assistant's next turn, for a while."""

    holder: str
    """Whose it is: a turn, by which `cancel_lease` knows it, a dot, and the server that runs the turn."""
    seconds: float
    """How long it lasts when it is not renewed, by the clock of the one who takes it."""

    def may_follow(self, holder: str) -> bool:
        """Whether it may be taken although the lease of this holder has not run out.

        A server runs the turns of an assistant one after the other. So a lease that another turn of it has left behind,
        because the store failed, does not keep it waiting.
        """
        return not holder or holder.rpartition(".")[2] == self.holder.rpartition(".")[2]


CANCELLED = "cancelled "
"""What the name of a holder begins with once its lease was cancelled, so that it can tell that from another's lease."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Which messages to list."""

    order: Order = Order.OLDEST_FIRST
    after_time: datetime | None = None
    """Only messages with a later `create_time`."""
    after_index: int | None = None
    """Go on behind the message with this index, in the given order."""
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the messages that a listing asks for."""

    messages: tuple[Message, ...]
    has_more: bool


MAX_PAGE_BYTES = 3 * 1024 * 1024
"""A page stays below this in UTF-8, so that it fits into a gRPC message of 4 MiB, the limit of most clients."""


class PageBuilder:
    """Fills a page message by message; it has one at least if there is any."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._messages: list[Message] = []
        self._bytes = 0

    def add(self, message: Message) -> bool:
        """Takes a message; False if the page is full without it."""
        self._bytes += len(message.content.encode())
        self._bytes += sum(len(call.arguments_json.encode()) for call in message.skill_calls)
        if self._messages and (len(self._messages) == self._limit or self._bytes > MAX_PAGE_BYTES):
            return False
        self._messages.append(message)
        return True

    def page(self, *, has_more: bool) -> Page:
        """Returns the page."""
        return Page(tuple(self._messages), has_more)


def page(messages: Iterable[Message], limit: int) -> Page:
    """Takes a page from messages that are read lazily."""
    builder = PageBuilder(limit)
    return builder.page(has_more=not all(map(builder.add, messages)))


@dataclass(frozen=True, slots=True)
class FinishedTurn:
    """A turn that is ready to be stored."""

    request_id: str
    request_hash: str
    """Tells a repeated request from another one with the same `request_id`."""
    messages: tuple[Draft, ...]
    finish_reason: FinishReason
    usage: Usage
    total_tokens: int
    """The `total_tokens` of the latest model call, which becomes the assistant's."""
    chat_model: str


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """What a turn looks like once it is stored."""

    assistant: Assistant
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class FoundTurn:
    """A turn that was stored at any time before."""

    assistant: Assistant
    """The state of the assistant as it is now."""
    messages: tuple[Message, ...]
    request_hash: str
    finish_reason: FinishReason
    usage: Usage
    chat_model: str


class Store(Protocol):
    """The conversations of one storage connection."""

    async def create_assistant(
        self, collection: str, assistant_id: str, instructions: str, if_exists: IfExists
    ) -> tuple[Assistant, bool]:
        """Creates an assistant, and the collection where needed; blank instructions make no message.

        Returns the assistant, and whether its conversation is new. Raises `AssistantExists` as `if_exists` says.
        """

    async def get_assistant(self, collection: str, assistant_id: str) -> Assistant:
        """Returns the state of an assistant, or raises `AssistantNotFound`."""

    async def list_messages(self, collection: str, assistant_id: str, listing: Listing) -> Page:
        """Returns the first messages that the listing asks for, or raises `AssistantNotFound`."""

    async def delete_assistant(self, collection: str, assistant_id: str) -> None:
        """Deletes an assistant whole, or raises `AssistantNotFound`."""

    async def read_window(
        self, collection: str, assistant_id: str, max_messages: int, lease: Lease | None = None
    ) -> Window:
        """Reads the instructions and at most so many of the newest messages, or raises `AssistantNotFound`.

        Its cost does not depend on the length of the conversation. With a lease it also takes that, or raises
        `AssistantBusy` while another holder has one. The next commit ends every lease.
        """

    async def renew_lease(self, collection: str, assistant_id: str, version: str, lease: Lease) -> str:
        """Lets a lease last from now on; returns the version that names the conversation then.

        Raises `ConcurrentWrite` when the lease is another holder's by now, or the conversation has gone on, and
        `TurnCancelled` when the lease was cancelled.
        """

    async def release_lease(self, collection: str, assistant_id: str, lease: Lease) -> None:
        """Ends a lease, unless it is another holder's by now."""

    async def cancel_lease(self, collection: str, assistant_id: str, turn: str) -> bool:
        """Takes the assistant away from the holder whose name begins so, which can't commit then any more.

        False where it is nobody's whose name does.
        """

    async def find_turn(self, collection: str, assistant_id: str, request_id: str) -> FoundTurn | None:
        """Returns the stored turn of this name; None where there is none, or no such assistant."""

    async def commit_turn(self, collection: str, assistant_id: str, version: str, turn: FinishedTurn) -> StoredTurn:
        """Appends a turn in one transaction.

        Its messages get the next indexes and strictly growing times. Raises `ConcurrentWrite` when the conversation is
        not the one that `version` names any more or has a turn of this `request_id`, `TurnCancelled` when its lease was
        cancelled, `ConversationFull`, `TurnTooLarge` or `StoreFull`; then nothing is stored.
        """

    async def close(self) -> None:
        """Ends the calls under way and releases everything. No call may follow."""
