"""Creating and deleting assistants in Azure Table Storage.

An assistant exists if its `state` row does. That row is the last one that creating writes and the first one that
deleting removes. Rows without it are remnants, which the next creation or deletion removes.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone

from azure.core.exceptions import ResourceNotFoundError

from palaver_server.domain.conversation import Assistant, AssistantKey, Content, IfExists, Message, Role
from palaver_server.domain.errors import AssistantExists, AssistantNotFound, ConcurrentWrite, StoreUnavailable
from palaver_server.stores.azure import rows
from palaver_server.stores.azure.calls import MAX_ATTEMPTS, Patience
from palaver_server.stores.azure.requests import Operation, Table, deletion

MAX_OPERATIONS = 100
"""The most operations of a transaction. The response to a larger one can't be parsed."""


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
            attempts += 1  # another writer was faster, or the response was lost: the state row will tell
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
    now = datetime.now(timezone.utc)
    has_instructions = bool(instructions.strip())
    assistant = Assistant(assistant_id, now, now, total_messages=int(has_instructions), total_tokens=0)
    operations: list[Operation] = []
    if has_instructions:
        message = Message(Role.SYSTEM, Content(instructions), index=1, create_time=now)
        operations.append(("create", rows.message_row(assistant_id, message)))
    operations.append(("create", rows.state_row(assistant, creation_id)))
    try:
        await table.submit(operations)
    except ResourceNotFoundError:
        await create_table()
        try:
            await table.submit(operations)
        except ResourceNotFoundError as error:
            # The table is being deleted, or an emulator has it in another letter case.
            raise StoreUnavailable("the table of the collection was created but can't be found") from error
    return assistant


async def _purge(table: Table, partition: str) -> bool:
    """Removes the rows of an assistant that does not exist; returns False if it does exist.

    A row is deleted only in the state in which it was read before the assistant was seen not to exist. A new assistant
    with the same id therefore loses nothing.
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
            attempts += 1  # another writer removes them as well, or the response was lost
        except StoreUnavailable as error:
            if not await patience.has_time_after(error):
                raise
    raise ConcurrentWrite("other writers keep creating and deleting the assistant")
