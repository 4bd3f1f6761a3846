"""Reading conversations from Azure Table Storage.

The cost of a read depends on the rows that it returns, not on the length of the conversation.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta, timezone

from azure.data.tables import TableEntity

from palaver_server.domain.conversation import (
    AssistantKey,
    AssistantPage,
    Listing,
    Message,
    MessageBudget,
    Order,
    Page,
    Role,
)
from palaver_server.domain.errors import (
    AssistantNotFound,
    ConcurrentWrite,
    FieldViolation,
    InvalidFields,
    StoreUnavailable,
)
from palaver_server.domain.limits import NEXT_PAGE_RULE
from palaver_server.domain.turns import FoundTurn, Lease, Window
from palaver_server.stores.azure import leases, rows
from palaver_server.stores.azure.calls import MAX_ATTEMPTS, Patience
from palaver_server.stores.azure.requests import Table
from palaver_server.stores.azure.rows import AzureVersion, Row
from palaver_server.stores.common import PageBuilder, assistants_of, first_index
from palaver_server.stores.leases import LeaseWatch

CHUNK = 64
"""Messages that are read at a time: enough for most pages, and not too many if each has the maximum size."""

POSITION = re.compile("(?P<PartitionKey>[!-~]{1,4096}) (?P<RowKey>[!-~]{0,4096})")

FIRST_TIME = datetime(1602, 1, 1, tzinfo=timezone.utc)
"""The service has no times before 1601."""


async def state(table: Table, key: AssistantKey) -> TableEntity:
    """Returns the `state` row of an assistant, or raises `AssistantNotFound`."""
    row = await table.get(key.id, rows.STATE)
    if row is None:
        raise AssistantNotFound(key.id, key.collection)
    return row


async def assistants(table: Table, limit: int, position: str) -> AssistantPage:
    """Returns the first assistants of a table behind a position: two texts of the service's own, with a space between.

    Raises `InvalidFields` if the service can't have made the position.
    """
    form = POSITION.fullmatch(position)
    if position and form is None:
        raise InvalidFields(FieldViolation("page_token", NEXT_PAGE_RULE))
    try:
        found, continuation = await table.scan(rows.STATE, limit, form and form.groupdict())
    except ValueError as error:
        raise InvalidFields(FieldViolation("page_token", NEXT_PAGE_RULE)) from error
    return assistants_of(
        ((row["PartitionKey"], row) for row in found),
        rows.assistant,
        f"{continuation['PartitionKey']} {continuation['RowKey'] or ''}" if continuation else "",
    )


async def page(table: Table, key: AssistantKey, listing: Listing) -> Page:
    """Returns the first messages of a listing."""
    indexes: Sequence[int] = range(1, rows.assistant(await state(table, key)).total_messages + 1)
    condition, parameters = "", {}
    if listing.after_time is not None and listing.after_time > FIRST_TIME:
        # This may find a few messages too many: the extension's times are more precise than Palaver's, and emulators
        # compare less precise ones. `is_later` is exact.
        condition, parameters = "CreatedAt ge @from", {"from": listing.after_time - timedelta(milliseconds=1)}
        keys = await table.query(
            key.id, rows.FIRST_MESSAGE, rows.PAST_MESSAGES, condition, parameters, select=["RowKey"]
        )
        indexes = rows.indexes(keys)
    if listing.order is Order.NEWEST_FIRST:
        indexes = indexes[::-1]
    builder = PageBuilder(listing.limit)
    chunk = min(CHUNK, listing.limit + 1)
    async for message in _messages(table, key.id, _remaining(indexes, listing), chunk, condition, parameters):
        is_later = listing.after_time is None or message.create_time > listing.after_time
        if is_later and not builder.add(message):
            return builder.page(has_more=True)
    return builder.page(has_more=False)


async def window(
    table: Table, key: AssistantKey, max_messages: int, max_bytes: int, lease: Lease | None, watch: LeaseWatch
) -> Window:
    """Returns the instructions and the newest messages, and takes the lease if one is given."""
    before = await state(table, key)
    patience = Patience(table.timeout)
    for _ in range(MAX_ATTEMPTS):
        lowest = rows.assistant(before).total_messages - min(max_messages, CHUNK) + 1
        taking = asyncio.ensure_future(leases.take(table, before, lease, watch, patience))
        try:
            found, first, etag = await asyncio.gather(
                table.query(key.id, rows.message_key(max(lowest, 1)), rows.STATE),
                table.get(key.id, rows.FIRST_MESSAGE),
                taking,
            )
        except StoreUnavailable:
            await asyncio.wait([taking])
            if not taking.cancelled() and taking.exception() is None and taking.result() is not None:
                await leases.end(table, key.id, taking.result())
            raise
        newest = next((row for row in found if row["RowKey"] == rows.STATE), None)
        if newest is None:
            raise AssistantNotFound(key.id, key.collection)
        # If the assistant was reset in the meantime, the first message may belong to the old conversation.
        if (etag is not None or lease is None) and rows.identity(newest) == rows.identity(before):
            version = AzureVersion(
                rows.assistant(newest), etag or newest.metadata["etag"], lease.holder if lease else None
            )
            instructions = _instructions(first)
            indexes = range(
                version.assistant.total_messages, first_index(version.assistant, instructions, max_messages) - 1, -1
            )
            newest_rows = [row for row in found if row["RowKey"] < rows.PAST_MESSAGES]
            messages = await _newest(table, key.id, newest_rows, indexes, MessageBudget(max_messages, max_bytes))
            return Window(version.assistant, version, instructions, messages)
        before = await state(table, key)
    raise ConcurrentWrite("other writers keep changing the conversation")


async def turn(table: Table, key: AssistantKey, request_id: str) -> FoundTurn | None:
    """Returns a stored turn, or None."""
    row = await table.get(key.id, rows.turn_key(request_id))
    if row is None:
        return None
    first, last = rows.turn_indexes(row)
    assistant_row, found = await asyncio.gather(
        table.get(key.id, rows.STATE),
        table.query(key.id, rows.message_key(first), rows.message_key(last)),
    )
    # Without a state row, the turn is a remnant of an interrupted deletion.
    return None if assistant_row is None else rows.found_turn(row, rows.assistant(assistant_row), _sorted(found))


def _instructions(first: TableEntity | None) -> Message | None:
    """Returns the first message of a conversation if it has the instructions."""
    message = None if first is None else rows.message(first)
    return message if message is not None and message.role is Role.SYSTEM else None


async def _newest(
    table: Table, partition: str, found: Iterable[Row], indexes: range, budget: MessageBudget
) -> tuple[Message, ...]:
    """Returns the newest messages with these descending indexes, as many as fit. Some rows of them were found before.

    Older messages don't change, and a reset of the conversation makes the commit fail. They may be read afterwards.
    """
    messages: list[Message] = []
    for message in reversed(_sorted(found)):
        if message.index in indexes:
            if not budget.takes(message):
                return tuple(reversed(messages))
            messages.append(message)
    async for message in _messages(table, partition, indexes[len(messages) :], CHUNK, "", {}):
        if not budget.takes(message):
            break
        messages.append(message)
    return tuple(reversed(messages))


def _sorted(found: Iterable[Row]) -> tuple[Message, ...]:
    return tuple(sorted(map(rows.message, found), key=lambda message: message.index))


def _remaining(indexes: Sequence[int], listing: Listing) -> Sequence[int]:
    """Returns the indexes that follow the earlier pages of a listing."""
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
    condition: str,
    parameters: Mapping[str, object],
) -> AsyncIterator[Message]:
    """Yields the messages with these indexes, in this order. The service may return rows in any order."""
    while indexes:
        chunk, indexes = indexes[:chunk_size], indexes[chunk_size:]
        lowest, highest = rows.message_key(min(chunk)), rows.message_key(max(chunk))
        found = await table.query(partition, lowest, highest, condition, parameters)
        by_index = {message.index: message for message in map(rows.message, found)}
        for index in chunk:
            if index in by_index:
                yield by_index[index]
        # A range without rows is cheap to read, so the next one may be wider.
        chunk_size = CHUNK if found else chunk_size * 4
