"""Stores whose calls are observed."""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from palaver_server.domain.conversation import (
    Assistant,
    AssistantKey,
    AssistantPage,
    CollectionKey,
    IfExists,
    Listing,
    Page,
)
from palaver_server.domain.errors import ConcurrentWrite, ConversationFull, StoreError
from palaver_server.domain.limits import DEFAULT_HISTORY_BYTES
from palaver_server.domain.log_fields import fields
from palaver_server.domain.ports import Store
from palaver_server.domain.turns import (
    FinishedTurn,
    FoundTurn,
    Lease,
    LeaseHolder,
    StoredTurn,
    TurnKey,
    Version,
    Window,
)
from palaver_server.telemetry.causes import cause_of

logger = logging.getLogger(__name__)

EXPECTED = (ConcurrentWrite, ConversationFull)
"""The errors of a store that works."""


class StoreCalls(Protocol):
    """Observes the calls of one store."""

    def observe(self, operation: str) -> AbstractContextManager[None]:
        """Returns a block around a call. The operation is the name of the method."""


class LoggedCall:
    """A block around a call of a store, which logs a failure of the store."""

    __slots__ = ("_began_at", "connection", "operation")

    def __init__(self, connection: str, operation: str) -> None:
        self.connection = connection
        self.operation = operation
        self._began_at = time.monotonic()

    def __enter__(self) -> None:
        """Begins the call."""

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """Logs the error of the call, if the store has failed."""
        if isinstance(error, StoreError) and not isinstance(error, EXPECTED):
            logger.warning(
                "a store call failed",
                extra=fields(
                    storage_connection=self.connection,
                    operation=self.operation,
                    reason=error.reason,
                    cause=cause_of(error),
                    ms=round(self.seconds * 1000, 1),
                ),
            )

    @property
    def seconds(self) -> float:
        """The time since the call began."""
        return time.monotonic() - self._began_at


class LoggedCalls:
    """`StoreCalls` that logs failures."""

    def __init__(self, connection: str) -> None:
        """Takes the name of the storage connection."""
        self._connection = connection

    def observe(self, operation: str) -> AbstractContextManager[None]:
        """Returns a block around a call."""
        return LoggedCall(self._connection, operation)


class ObservedStore:
    """A `Store` that passes on each call, inside a block of its `StoreCalls`."""

    def __init__(self, store: Store, calls: StoreCalls) -> None:
        self._store = store
        self._observe = calls.observe

    @property
    def location(self) -> str:
        return self._store.location

    async def create_assistant(
        self, key: AssistantKey, instructions: str, if_exists: IfExists
    ) -> tuple[Assistant, bool]:
        with self._observe("create_assistant"):
            return await self._store.create_assistant(key, instructions, if_exists)

    async def get_assistant(self, key: AssistantKey) -> Assistant:
        with self._observe("get_assistant"):
            return await self._store.get_assistant(key)

    async def list_assistants(self, key: CollectionKey, limit: int, position: str) -> AssistantPage:
        with self._observe("list_assistants"):
            return await self._store.list_assistants(key, limit, position)

    async def list_messages(self, key: AssistantKey, listing: Listing) -> Page:
        with self._observe("list_messages"):
            return await self._store.list_messages(key, listing)

    async def delete_assistant(self, key: AssistantKey) -> None:
        with self._observe("delete_assistant"):
            await self._store.delete_assistant(key)

    async def read_window(
        self,
        key: AssistantKey,
        max_messages: int,
        lease: Lease | None = None,
        *,
        max_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> Window:
        with self._observe("read_window"):
            return await self._store.read_window(key, max_messages, lease, max_bytes=max_bytes)

    async def renew_lease(self, key: AssistantKey, version: Version, lease: Lease) -> Version:
        with self._observe("renew_lease"):
            return await self._store.renew_lease(key, version, lease)

    async def release_lease(self, key: AssistantKey, holder: LeaseHolder) -> None:
        with self._observe("release_lease"):
            await self._store.release_lease(key, holder)

    async def has_lease(self, turn: TurnKey) -> bool:
        with self._observe("has_lease"):
            return await self._store.has_lease(turn)

    async def cancel_lease(self, turn: TurnKey) -> bool:
        with self._observe("cancel_lease"):
            return await self._store.cancel_lease(turn)

    async def find_turn(self, turn: TurnKey) -> FoundTurn | None:
        with self._observe("find_turn"):
            return await self._store.find_turn(turn)

    async def commit_turn(self, key: AssistantKey, version: Version, turn: FinishedTurn) -> StoredTurn:
        with self._observe("commit_turn"):
            return await self._store.commit_turn(key, version, turn)

    async def close(self) -> None:
        await self._store.close()
