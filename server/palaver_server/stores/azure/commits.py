"""Committing turns to Azure Table Storage.

A turn is one transaction, which succeeds only if the `state` row is unchanged. Its response can be lost, and the SDK
retries it after a 5xx status. After an error, the table is therefore read to see whether the transaction succeeded.
"""

from __future__ import annotations

import stamina
from azure.core.exceptions import ResourceNotFoundError
from azure.data.tables import UpdateMode

from palaver_server.domain.errors import ConcurrentWrite, StoreError
from palaver_server.domain.stages import Observer, Stage
from palaver_server.domain.turns import FinishedTurn, StoredTurn, TurnKey
from palaver_server.stores.azure import leases, rows
from palaver_server.stores.azure.calls import RETRY_BACKOFF, commit_backoff
from palaver_server.stores.azure.requests import Operation, Table, if_unchanged
from palaver_server.stores.azure.rows import AzureVersion

LONGEST_BACKOFF = 2.0


async def commit(
    table: Table,
    version: AzureVersion,
    key: TurnKey,
    turn: FinishedTurn,
    stored: StoredTurn,
    *,
    observer: Observer,
    timeout: float,
) -> None:
    """Stores a turn, with retries for `timeout` seconds."""
    # It is safe to send the transaction repeatedly, because only one attempt can find the `state` row unchanged.
    async for attempt in stamina.retry_context(
        on=commit_backoff(timeout),
        attempts=None,
        timeout=timeout,
        wait_initial=RETRY_BACKOFF,
        wait_max=LONGEST_BACKOFF,
    ):
        with attempt:
            observer.reached(Stage.WRITTEN, key)
            await _submit(table, version, turn, stored)


async def _submit(table: Table, version: AzureVersion, turn: FinishedTurn, stored: StoredTurn) -> None:
    """Sends the transaction of a turn. After an error, returns normally if the turn is stored all the same.

    If only a lost renewal of the lease has changed the `state` row, the transaction is sent again.
    """
    partition, messages = stored.assistant.id, stored.messages
    operations: list[Operation] = [
        *(("create", rows.message_row(partition, message)) for message in messages),
        ("create", rows.turn_row(partition, turn, messages[0].index, messages[-1].index)),
        ("update", rows.commit_update(stored.assistant), {"mode": UpdateMode.MERGE, **if_unchanged(version.etag)}),
    ]
    try:
        await table.submit(operations)
    except (StoreError, ResourceNotFoundError) as error:
        first = await table.get(partition, rows.message_key(messages[0].index))
        if first is not None and first.get(rows.REQUEST_ID) == turn.request_id:
            return
        if isinstance(error, ResourceNotFoundError):
            raise ConcurrentWrite("the assistant was deleted during the turn") from error
        if isinstance(error, ConcurrentWrite):
            renewed = await leases.find_lost_renewal(table, partition, version)
            if renewed is not None:
                await _submit(table, renewed, turn, stored)
                return
        raise
