"""Who has a turn of an assistant, and until when: a lease in its `state` row, written only over what was read."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

from azure.data.tables import TableEntity

from palaver_server.errors import AssistantBusy, ConcurrentWrite, StoreUnavailable, TurnCancelled
from palaver_server.stores import azure_rows as rows
from palaver_server.stores.azure_calls import MAX_ATTEMPTS, Patience
from palaver_server.stores.azure_requests import Table
from palaver_server.stores.azure_rows import Version
from palaver_server.stores.store import CANCELLED, Lease

NOBODY = Lease("", 0)


async def take(table: Table, state: TableEntity, lease: Lease | None, patience: Patience) -> str | None:
    """Takes a lease, if there is one to take, and returns the ETag of the state then.

    None where the state must be looked at again. Raises `AssistantBusy`.
    """
    if lease is None:
        return None
    holder, until = rows.lease(state)
    remaining = (until - datetime.now(timezone.utc)).total_seconds()
    if remaining > 0 and not lease.may_follow(holder):
        raise AssistantBusy("another turn of the assistant runs", retry_after=remaining)
    try:
        return await write(table, state["PartitionKey"], state.metadata["etag"], lease)
    except StoreUnavailable as error:
        if not await patience.has_time_after(error):
            raise
        return None


async def write(table: Table, partition: str, etag: str | None, lease: Lease) -> str | None:
    """Puts a lease into a state that is as its ETag says, and returns the next one; None where it is not."""
    return await table.merge(
        rows.lease_update(partition, lease.holder, datetime.now(timezone.utc) + timedelta(seconds=lease.seconds)), etag
    )


async def renew(table: Table, partition: str, version: Version, lease: Lease) -> Version:
    """Renews the lease that a version was read with; raises `ConcurrentWrite` where it is lost."""
    etag = await write(table, partition, version.etag, lease)
    if etag is not None:
        return replace(version, etag=etag)
    newer = await renewed(table, partition, version)
    if newer is None:
        raise ConcurrentWrite("somebody else has a turn of the assistant")
    return await renew(table, partition, newer, lease)


async def renewed(table: Table, partition: str, version: Version) -> Version | None:
    """Returns what a version has become by renewing its lease, when the answer to that got lost.

    None where it is gone. Raises `TurnCancelled` where its lease was cancelled.
    """
    state = await table.get(partition, rows.STATE)
    holder = "" if state is None else rows.lease(state)[0]
    if version.holder and holder == CANCELLED + version.holder:
        raise TurnCancelled("the turn was cancelled")
    if state is None or not version.holder or holder != version.holder:
        return None
    newer = Version.of(rows.assistant(state), state.metadata["etag"], version.holder)
    return newer if replace(newer, etag=version.etag) == version and newer != version else None


async def release(table: Table, partition: str, lease: Lease) -> None:
    """Gives a lease back, if it is still there."""
    for _ in range(MAX_ATTEMPTS):
        state = await table.get(partition, rows.STATE)
        if state is None or rows.lease(state)[0] != lease.holder:
            return
        if await write(table, partition, state.metadata["etag"], NOBODY) is not None:
            return


async def cancel(table: Table, partition: str, turn: str) -> bool:
    """Takes the lease of a turn away from whoever has it; False where no such turn runs."""
    for _ in range(MAX_ATTEMPTS):
        state = await table.get(partition, rows.STATE)
        holder = "" if state is None else rows.lease(state)[0].removeprefix(CANCELLED)
        if state is None or not holder.startswith(turn):
            return False
        if await write(table, partition, state.metadata["etag"], Lease(CANCELLED + holder, 0)) is not None:
            return True
    raise ConcurrentWrite("others write to the conversation all the time")
