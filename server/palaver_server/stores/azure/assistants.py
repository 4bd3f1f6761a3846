"""Creating and deleting assistants in Azure Table Storage.

An assistant exists if its `state` row does. Creating an assistant writes this row last, and deleting one removes it
first. Rows without it are remnants, which the next creation or deletion removes.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone

from azure.core.exceptions import ResourceNotFoundError

from palaver_server.domain.conversation import Assistant, AssistantKey, IfExists
from palaver_server.domain.errors import AssistantExists, AssistantNotFound, ConcurrentWrite, StoreUnavailable
from palaver_server.stores.azure import rows
from palaver_server.stores.azure.calls import MAX_ATTEMPTS, Patience
from palaver_server.stores.azure.requests import Operation, Table, deletion
from palaver_server.stores.common import new_assistant

MAX_OPERATIONS = 100
"""The maximum number of operations in a transaction. The response to a larger one can't be parsed."""


async def create(
    table: Table,
    key: AssistantKey,
    instructions: str,
    if_exists: IfExists,
    create_table: Callable[[], Awaitable[None]],
) -> tuple[Assistant, bool]:
    """Creates an assistant, and its table if that does not exist; see `AssistantStore.create_assistant`."""
    creation_id = uuid.uuid4().hex
    attempts, patience = 0, Patience(table.timeout)
    while attempts < MAX_ATTEMPTS:
        found = await table.get(key.id, rows.STATE)
        if found is not None:
            if found.get(rows.CREATION_ID) == creation_id or if_exists is IfExists.KEEP:
                return rows.assistant(found), found.get(rows.CREATION_ID) == creation_id
            if if_exists is IfExists.FAIL:
                raise AssistantExists(key.id, key.collection)
            if not await table.delete(found):
                attempts += 1
                continue
        if not await _purge(table, key.id):
            attempts += 1
            continue
        try:
            return await _insert(table, key.id, instructions, creation_id, create_table), True
        except ConcurrentWrite:
            attempts += 1  # another writer was faster, or the response was lost; the state row shows which
        except StoreUnavailable as error:
            if not await patience.has_time_after(error):
                raise
    raise ConcurrentWrite("other writers keep creating and deleting the assistant")


async def delete(table: Table, key: AssistantKey) -> None:
    """Deletes an assistant and its messages, or raises `AssistantNotFound`."""
    for _ in range(MAX_ATTEMPTS):
        state = await table.get(key.id, rows.STATE)
        if state is None:
            await _purge(table, key.id)
            raise AssistantNotFound(key.id, key.collection)
        if await table.delete(state):
            await _purge(table, key.id)
            return
    raise ConcurrentWrite("other writers keep changing the conversation")


async def _insert(
    table: Table, assistant_id: str, instructions: str, creation_id: str, create_table: Callable[[], Awaitable[None]]
) -> Assistant:
    """Inserts the rows of a new assistant, and creates the table if necessary."""
    assistant, messages = new_assistant(assistant_id, instructions, datetime.now(timezone.utc))
    operations: list[Operation] = [
        *(("create", rows.message_row(assistant_id, message)) for message in messages),
        ("create", rows.state_row(assistant, creation_id)),
    ]
    try:
        await table.submit(operations)
    except ResourceNotFoundError:
        await create_table()
        try:
            await table.submit(operations)
        except ResourceNotFoundError as error:
            # The table is being deleted, or an emulator has it with another letter case.
            raise StoreUnavailable("the table of the collection was created but can't be found") from error
    return assistant


async def _purge(table: Table, partition: str) -> bool:
    """Removes the rows of an assistant that does not exist; returns False if it does exist.

    The rows are read first, then the assistant is seen not to exist, and then the rows are deleted if they have not
    changed. If an assistant with the same id is created in the meantime, it therefore loses nothing.
    """
    attempts, patience = 0, Patience(table.timeout)
    while attempts < MAX_ATTEMPTS:
        found = await table.first_keys(partition)
        if not found:
            return True
        if await table.get(partition, rows.STATE) is not None:
            return False
        try:
            for start in range(0, len(found), MAX_OPERATIONS):
                await table.submit([deletion(row) for row in found[start : start + MAX_OPERATIONS]])
                attempts, patience = 0, Patience(table.timeout)
        except (ConcurrentWrite, ResourceNotFoundError):
            attempts += 1  # another writer is removing them too, or the response was lost
        except StoreUnavailable as error:
            if not await patience.has_time_after(error):
                raise
    raise ConcurrentWrite("other writers keep creating and deleting the assistant")
