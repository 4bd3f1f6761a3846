"""A `Store` in Azure Table Storage or Cosmos DB for Table: a collection is a table, and an assistant a partition."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timezone
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

import aiohttp
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.pipeline.transport import AioHttpTransport
from azure.data.tables.aio import TableServiceClient

from palaver_server.domain.conversation import (
    Assistant,
    AssistantKey,
    AssistantPage,
    CollectionKey,
    IfExists,
    Listing,
    Page,
)
from palaver_server.domain.limits import DEFAULT_HISTORY_BYTES
from palaver_server.domain.stages import Observer, Observers
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
from palaver_server.stores.azure import assistants, commits, leases, reads, rows
from palaver_server.stores.azure.calls import CONNECT_TIMEOUT, RETRIES, RETRY_BACKOFF, call, refuse_long_wait
from palaver_server.stores.azure.requests import Table
from palaver_server.stores.azure.rows import AzureVersion
from palaver_server.stores.common import REPORTING_MARGIN, StoreTimeouts, stamped
from palaver_server.stores.leases import LeaseWatch

MAX_CONNECTIONS = 1000

P = ParamSpec("P")
T = TypeVar("T")


def _limited(
    method: Callable[Concatenate[AzureTablesStore, P], Awaitable[T]],
) -> Callable[Concatenate[AzureTablesStore, P], Coroutine[Any, Any, T]]:
    """Applies the time limit of a single request to all requests of a method together."""

    @wraps(method)
    async def limited(self: AzureTablesStore, /, *arguments: P.args, **named: P.kwargs) -> T:
        async with call(self._timeouts.call):
            return await method(self, *arguments, **named)

    return limited


class AzureTablesStore:
    """A `Store` in the tables of one account."""

    def __init__(
        self,
        *,
        connection_string: str = "",
        uri: str = "",
        credential: AsyncTokenCredential | None = None,
        timeouts: StoreTimeouts | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Takes a connection string, or a URI and a credential. The caller closes the credential."""
        self._timeouts = timeouts or StoreTimeouts()
        self._watch = LeaseWatch()
        self._observer = observer or Observers()
        self._connection_string = connection_string
        self._uri = uri
        self._credential = credential
        self._service: TableServiceClient

    async def open(self) -> None:
        """Creates the client of the service; raises `ValueError` if the connection string is invalid."""
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=True,
        )
        options: dict[str, Any] = {
            "transport": AioHttpTransport(session=session),
            "connection_timeout": min(CONNECT_TIMEOUT, self._timeouts.call / 2),
            "read_timeout": self._timeouts.call - REPORTING_MARGIN,
            "retry_total": RETRIES,
            "retry_backoff_factor": RETRY_BACKOFF,
            "raw_response_hook": refuse_long_wait,
        }
        try:
            if self._connection_string:
                self._service = TableServiceClient.from_connection_string(self._connection_string, **options)
            else:
                self._service = TableServiceClient(self._uri, credential=self._credential, **options)
        except ValueError:
            await session.close()
            raise

    @property
    def location(self) -> str:
        return urlsplit(self._service.url).netloc

    async def create_assistant(
        self, key: AssistantKey, instructions: str, if_exists: IfExists
    ) -> tuple[Assistant, bool]:
        table = self._table(key)

        async def create_table() -> None:
            async with call(table.timeout):
                await self._service.create_table_if_not_exists(key.collection)

        return await assistants.create(table, key, instructions, if_exists, create_table)

    async def get_assistant(self, key: AssistantKey) -> Assistant:
        return rows.assistant(await reads.state(self._table(key), key))

    async def list_assistants(self, key: CollectionKey, limit: int, position: str) -> AssistantPage:
        return await reads.assistants(self._table(key), limit, position)

    @_limited
    async def list_messages(self, key: AssistantKey, listing: Listing) -> Page:
        return await reads.page(self._table(key), key, listing)

    async def delete_assistant(self, key: AssistantKey) -> None:
        await assistants.delete(self._table(key), key)

    @_limited
    async def read_window(
        self,
        key: AssistantKey,
        max_messages: int,
        lease: Lease | None = None,
        *,
        max_bytes: int = DEFAULT_HISTORY_BYTES,
    ) -> Window:
        return await reads.window(self._table(key), key, max_messages, max_bytes, lease, self._watch)

    async def renew_lease(self, key: AssistantKey, version: Version, lease: Lease) -> Version:
        return await leases.renew(self._table(key), key.id, cast("AzureVersion", version), lease)

    @_limited
    async def release_lease(self, key: AssistantKey, holder: LeaseHolder) -> None:
        await leases.release(self._table(key), key.id, holder)

    @_limited
    async def has_lease(self, turn: TurnKey) -> bool:
        return await leases.is_in_force(self._table(turn.assistant), turn.assistant.id, turn.request_id, self._watch)

    @_limited
    async def cancel_lease(self, turn: TurnKey) -> bool:
        return await leases.cancel(self._table(turn.assistant), turn.assistant.id, turn.request_id)

    @_limited
    async def find_turn(self, turn: TurnKey) -> FoundTurn | None:
        return await reads.turn(self._table(turn.assistant), turn.assistant, turn.request_id)

    async def commit_turn(self, key: AssistantKey, version: Version, turn: FinishedTurn) -> StoredTurn:
        base = cast("AzureVersion", version)
        # The version may belong to another assistant. The commit then fails, because the ETag does not match.
        stored = stamped(replace(base.assistant, id=key.id), turn, datetime.now(timezone.utc))
        await commits.commit(
            self._table(key),
            base,
            TurnKey(key, turn.request_id),
            turn,
            stored,
            observer=self._observer,
            timeout=self._timeouts.commit,
        )
        return stored

    async def close(self) -> None:
        await self._service.close()

    def _table(self, key: AssistantKey | CollectionKey) -> Table:
        return Table(self._service.get_table_client(key.collection), self._timeouts.call)
