"""The store that replicas share: Azure Table Storage, or Cosmos DB for Table.

A collection is a table and an assistant a partition of it (`azure_rows`). An assistant exists if its `state` row does:
that row is the last thing that creating makes and the first that deleting takes away, and whoever finds rows without it
removes them. A turn is one transaction that holds only if `state` is as it was read. An answer can get lost on its way
back, and the SDK repeats what failed with a 5xx, so after an error the store is asked what has become of the write.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import aiohttp
import stamina
from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import ResourceNotFoundError
from azure.core.pipeline.transport import AioHttpTransport
from azure.data.tables import TableEntity, UpdateMode
from azure.data.tables.aio import TableServiceClient

from palaver_server.errors import (
    AssistantExists,
    AssistantNotFound,
    ConcurrentWrite,
    ConversationFull,
    StoreError,
    StoreUnavailable,
    TurnTooLarge,
)
from palaver_server.failpoints import Failpoint, reach
from palaver_server.models import Assistant, IfExists, Message, Order, Role
from palaver_server.stores import azure_leases as leases
from palaver_server.stores import azure_rows as rows
from palaver_server.stores.azure_calls import (
    CONNECT_TIMEOUT,
    MAX_ATTEMPTS,
    RETRIES,
    RETRY_BACKOFF,
    Patience,
    call,
    refuse_long_wait,
    wait_before_retry,
)
from palaver_server.stores.azure_requests import Operation, Table, deletion, unchanged
from palaver_server.stores.azure_rows import Row, Version
from palaver_server.stores.store import (
    MAX_MESSAGES,
    MAX_TURN_MESSAGES,
    TIME_TO_TELL,
    FinishedTurn,
    FoundTurn,
    Lease,
    Limits,
    Listing,
    Page,
    PageBuilder,
    StoredTurn,
    Window,
)

MAX_OPERATIONS = 100
"""The most operations of a transaction; beyond it the service's answer can't be read."""

MAX_CONNECTIONS = 1000
CHUNK = 64
"""Messages that a listing reads at a time: enough for most pages, and not too many where each has full size."""

TICK = timedelta(microseconds=1)
FIRST_TIME = datetime(1602, 1, 1, tzinfo=timezone.utc)
"""The service knows no times before 1601."""


P = ParamSpec("P")
T = TypeVar("T")


def _limited(
    method: Callable[Concatenate[AzureTablesStore, P], Awaitable[T]],
) -> Callable[Concatenate[AzureTablesStore, P], Coroutine[Any, Any, T]]:
    """Gives the requests of a method as much time together as one of them may take."""

    @wraps(method)
    async def limited(self: AzureTablesStore, /, *arguments: P.args, **named: P.kwargs) -> T:
        async with call(self._limits.call):
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
        limits: Limits | None = None,
    ) -> None:
        """Takes a connection string, or a URI and a credential, which stays its owner's."""
        self._limits = limits or Limits()
        self._connection_string = connection_string
        self._uri = uri
        self._credential = credential
        self._service: TableServiceClient

    async def open(self) -> None:
        """Makes the one client that serves until `close`; raises `ValueError` where the connection string is wrong."""
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=True,
        )
        options: dict[str, Any] = {
            "transport": AioHttpTransport(session=session),
            "connection_timeout": min(CONNECT_TIMEOUT, self._limits.call / 2),
            "read_timeout": self._limits.call - TIME_TO_TELL,
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

    async def create_assistant(
        self, collection: str, assistant_id: str, instructions: str, if_exists: IfExists
    ) -> tuple[Assistant, bool]:
        table = self._table(collection)
        creation_id = uuid.uuid4().hex
        attempts, patience = 0, Patience(table.timeout)
        while attempts < MAX_ATTEMPTS:
            found = await table.get(assistant_id, rows.STATE)
            if found is not None:
                if found.get(rows.CREATION_ID) == creation_id or if_exists is IfExists.KEEP:
                    return rows.assistant(found), found.get(rows.CREATION_ID) == creation_id
                if if_exists is IfExists.FAIL:
                    raise AssistantExists(assistant_id, collection)
                if not await table.delete(found):
                    attempts += 1
                    continue
            if not await _purge(table, assistant_id):
                attempts += 1
                continue
            try:
                return await self._insert(table, assistant_id, instructions, creation_id), True
            except ConcurrentWrite:
                attempts += 1  # somebody else was faster, or the answer to ours got lost: the state tells
            except StoreUnavailable as error:
                if not await patience.has_time_after(error):
                    raise
        raise ConcurrentWrite("others create and delete the assistant at the same time")

    async def _insert(self, table: Table, assistant_id: str, instructions: str, creation_id: str) -> Assistant:
        now = _now()
        assistant = Assistant(assistant_id, now, now, total_messages=0, total_tokens=0)
        operations: list[Operation] = []
        if instructions.strip():
            message = Message(Role.SYSTEM, instructions, index=1, create_time=now)
            assistant = Assistant(assistant_id, now, now, total_messages=1, total_tokens=0)
            operations.append(("create", rows.message_row(assistant_id, message)))
        operations.append(("create", rows.state_row(assistant, creation_id)))
        try:
            await table.submit(operations)
        except ResourceNotFoundError:
            async with call(table.timeout):
                await self._service.create_table_if_not_exists(table.client.table_name)
            try:
                await table.submit(operations)
            except ResourceNotFoundError as error:
                # Somebody deletes the table, or an emulator has it with other upper and lower case.
                raise StoreUnavailable("the table of the collection is not there although it was created") from error
        return assistant

    async def get_assistant(self, collection: str, assistant_id: str) -> Assistant:
        return rows.assistant(await self._state(collection, assistant_id))

    @_limited
    async def list_messages(self, collection: str, assistant_id: str, listing: Listing) -> Page:
        state = await self._state(collection, assistant_id)
        table = self._table(collection)
        indexes: Sequence[int] = range(1, rows.assistant(state).total_messages + 1)
        filters, parameters = "", {}
        if listing.after_time is not None and listing.after_time > FIRST_TIME:
            # The extension's times are finer than ours and those that emulators compare coarser; `is_later` is exact.
            filters, parameters = " and CreatedAt ge @from", {"from": listing.after_time - timedelta(milliseconds=1)}
            keys = await table.query(
                assistant_id, rows.message_key(1), rows.PAST_MESSAGES, filters, parameters, select=["RowKey"]
            )
            indexes = sorted(map(rows.index, keys))
        if listing.order is Order.NEWEST_FIRST:
            indexes = indexes[::-1]
        builder = PageBuilder(listing.limit)
        chunk = min(CHUNK, listing.limit + 1)
        async for message in _messages(table, assistant_id, _behind(indexes, listing), chunk, filters, parameters):
            is_later = listing.after_time is None or message.create_time > listing.after_time
            if is_later and not builder.add(message):
                return builder.page(has_more=True)
        return builder.page(has_more=False)

    async def delete_assistant(self, collection: str, assistant_id: str) -> None:
        table = self._table(collection)
        for _ in range(MAX_ATTEMPTS):
            state = await table.get(assistant_id, rows.STATE)
            if state is None:
                await _purge(table, assistant_id)
                raise AssistantNotFound(assistant_id, collection)
            if await table.delete(state):
                await _purge(table, assistant_id)
                return
        raise ConcurrentWrite("others write to the conversation all the time")

    @_limited
    async def read_window(
        self, collection: str, assistant_id: str, max_messages: int, lease: Lease | None = None
    ) -> Window:
        table = self._table(collection)
        state = await self._state(collection, assistant_id)
        patience = Patience(table.timeout)
        for _ in range(MAX_ATTEMPTS):
            lowest = rows.assistant(state).total_messages - max_messages + 1
            taking = asyncio.ensure_future(leases.take(table, state, lease, patience))
            try:
                found, first, etag = await asyncio.gather(
                    table.query(assistant_id, rows.message_key(max(lowest, 1)), rows.STATE),
                    table.get(assistant_id, rows.message_key(1)),
                    taking,
                )
            except StoreUnavailable:
                await asyncio.wait([taking])
                if not taking.cancelled() and taking.exception() is None and taking.result() is not None:
                    await leases.write(table, assistant_id, taking.result(), leases.NOBODY)
                raise
            newest = next((row for row in found if row["RowKey"] == rows.STATE), None)
            if newest is None:
                raise AssistantNotFound(assistant_id, collection)
            assistant = rows.assistant(newest)
            # The first message must not be that of a conversation which has been started over since.
            if (etag is not None or lease is None) and rows.creation(newest) == rows.creation(state):
                version = Version.of(assistant, etag or newest.metadata["etag"], lease.holder if lease else "")
                messages = (row for row in found if row["RowKey"] < rows.PAST_MESSAGES)
                return _window(assistant, version, first, messages, max_messages)
            state = await self._state(collection, assistant_id)
        raise ConcurrentWrite("others write to the conversation all the time")

    async def renew_lease(self, collection: str, assistant_id: str, version: str, lease: Lease) -> str:
        return str(await leases.renew(self._table(collection), assistant_id, Version.parse(version), lease))

    @_limited
    async def release_lease(self, collection: str, assistant_id: str, lease: Lease) -> None:
        await leases.release(self._table(collection), assistant_id, lease)

    @_limited
    async def cancel_lease(self, collection: str, assistant_id: str, turn: str) -> bool:
        return await leases.cancel(self._table(collection), assistant_id, turn)

    @_limited
    async def find_turn(self, collection: str, assistant_id: str, request_id: str) -> FoundTurn | None:
        table = self._table(collection)
        turn = await table.get(assistant_id, rows.turn_key(request_id))
        if turn is None:
            return None
        first, last = rows.turn_indexes(turn)
        state, found = await asyncio.gather(
            table.get(assistant_id, rows.STATE),
            table.query(assistant_id, rows.message_key(first), rows.message_key(last)),
        )
        messages = tuple(sorted(map(rows.message, found), key=lambda message: message.index))
        # What an interrupted deletion has left is no turn of anybody.
        return None if state is None else rows.found_turn(turn, rows.assistant(state), messages)

    async def commit_turn(self, collection: str, assistant_id: str, version: str, turn: FinishedTurn) -> StoredTurn:
        table = self._table(collection)
        base = Version.parse(version)
        stored = _stored_turn(assistant_id, base, turn)
        if stored.assistant.total_messages > MAX_MESSAGES:
            raise ConversationFull(f"a conversation holds {MAX_MESSAGES:,} messages at most")
        if len(stored.messages) > MAX_TURN_MESSAGES:
            raise TurnTooLarge(f"a turn holds {MAX_TURN_MESSAGES} messages at most")
        # The same transaction can be sent again and again, because only one of them can find the state as it was.
        async for attempt in stamina.retry_context(
            on=wait_before_retry(self._limits.commit),
            attempts=None,
            timeout=self._limits.commit,
            wait_initial=RETRY_BACKOFF,
            wait_max=2,
        ):
            with attempt:
                await _submit_turn(table, base, stored, turn)
        return stored

    async def close(self) -> None:
        await self._service.close()

    def _table(self, collection: str) -> Table:
        return Table(self._service.get_table_client(collection), self._limits.call)

    async def _state(self, collection: str, assistant_id: str) -> TableEntity:
        state = await self._table(collection).get(assistant_id, rows.STATE)
        if state is None:
            raise AssistantNotFound(assistant_id, collection)
        return state


def _stored_turn(assistant_id: str, base: Version, turn: FinishedTurn) -> StoredTurn:
    # A clock that was set back must not hide the messages from callers that poll by time.
    start = max(_now(), base.update_time + TICK)
    messages = tuple(
        Message(
            draft.role,
            draft.content,
            draft.skill_calls,
            draft.skill_call_id,
            draft.is_error,
            index=base.total_messages + number,
            create_time=start + (number - 1) * TICK,
            request_id=turn.request_id,
        )
        for number, draft in enumerate(turn.messages, start=1)
    )
    last = messages[-1]
    assistant = Assistant(assistant_id, base.create_time, last.create_time, last.index, turn.total_tokens)
    return StoredTurn(assistant, messages)


def _window(
    assistant: Assistant, version: Version, first: TableEntity | None, found: Iterable[Row], max_messages: int
) -> Window:
    instructions = None if first is None else rows.message(first)
    if instructions is not None and instructions.role is not Role.SYSTEM:
        instructions = None
    lowest = max(assistant.total_messages - max_messages, 0 if instructions is None else 1) + 1
    messages = sorted(map(rows.message, found), key=lambda message: message.index)
    return Window(
        assistant=assistant,
        version=str(version),
        instructions=instructions,
        messages=tuple(message for message in messages if lowest <= message.index <= assistant.total_messages),
    )


def _behind(indexes: Sequence[int], listing: Listing) -> Sequence[int]:
    """Leaves out what a listing has had already."""
    after = listing.after_index
    if after is None:
        return indexes
    if listing.order is Order.OLDEST_FIRST:
        return [index for index in indexes if index > after]
    return [index for index in indexes if index < after]


async def _messages(
    table: Table,
    partition: str,
    indexes: Sequence[int],
    chunk_size: int,
    filters: str,
    parameters: Mapping[str, object],
) -> AsyncIterator[Message]:
    """Yields the messages with these indexes, in this order; the service itself may return them in any."""
    while indexes:
        chunk, indexes = indexes[:chunk_size], indexes[chunk_size:]
        lowest, highest = rows.message_key(min(chunk)), rows.message_key(max(chunk))
        found = await table.query(partition, lowest, highest, filters, parameters)
        by_index = {message.index: message for message in map(rows.message, found)}
        for index in chunk:
            if index in by_index:
                yield by_index[index]
        # Where rows are missing, a wider range holds no more of them.
        chunk_size = CHUNK if found else chunk_size * 4


async def _submit_turn(table: Table, base: Version, stored: StoredTurn, turn: FinishedTurn) -> None:
    """Stores a turn, or raises what kept it from being stored."""
    partition, messages = stored.assistant.id, stored.messages
    operations: list[Operation] = [
        *(("create", rows.message_row(partition, message)) for message in messages),
        ("create", rows.turn_row(partition, turn, messages[0].index, messages[-1].index)),
        ("update", rows.turn_end(stored.assistant), {"mode": UpdateMode.MERGE, **unchanged(base.etag)}),
    ]
    reach(Failpoint.TURN_WRITTEN)
    try:
        await table.submit(operations)
    except (StoreError, ResourceNotFoundError) as error:
        first = await table.get(partition, rows.message_key(messages[0].index))
        if first is not None and first.get(rows.REQUEST_ID) == turn.request_id:
            return
        if isinstance(error, ResourceNotFoundError):
            raise ConcurrentWrite("somebody deleted the assistant during the turn") from error
        if isinstance(error, ConcurrentWrite):
            renewed = await leases.renewed(table, partition, base)
            if renewed is not None:
                await _submit_turn(table, renewed, stored, turn)
                return
        raise


async def _purge(table: Table, partition: str) -> bool:
    """Removes the rows of an assistant that does not exist; False where it does exist.

    A row is deleted only as it was seen before its assistant was seen not to exist, so a new assistant loses none.
    """
    attempts, patience = 0, Patience(table.timeout)
    while attempts < MAX_ATTEMPTS:
        found = await table.some_keys(partition)
        if not found:
            return True
        if await table.get(partition, rows.STATE) is not None:
            return False
        try:
            for start in range(0, len(found), MAX_OPERATIONS):
                await table.submit([deletion(row) for row in found[start : start + MAX_OPERATIONS]])
                attempts, patience = 0, Patience(table.timeout)
        except (ConcurrentWrite, ResourceNotFoundError):
            attempts += 1  # somebody else removes them as well, or the answer got lost
        except StoreUnavailable as error:
            if not await patience.has_time_after(error):
                raise
    raise ConcurrentWrite("others create and delete the assistant at the same time")


def _now() -> datetime:
    return datetime.now(timezone.utc)
