"""The lease of an assistant, in its `state` row. Each write fails if the row has changed since it was read."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

from azure.data.tables import TableEntity

from palaver_server.domain.errors import ConcurrentWrite, StoreUnavailable, TurnCancelled
from palaver_server.domain.turns import Lease, LeaseHolder
from palaver_server.stores.azure import rows
from palaver_server.stores.azure.calls import MAX_ATTEMPTS, Patience
from palaver_server.stores.azure.requests import Table
from palaver_server.stores.azure.rows import AzureVersion
from palaver_server.stores.leases import LeaseWatch, StoredLease


async def take(
    table: Table, state: TableEntity, lease: Lease | None, watch: LeaseWatch, patience: Patience
) -> str | None:
    """Takes a lease, if one is given, and returns the new ETag of the state.

    Returns None if the state must be read again, or no lease is given. Raises `AssistantBusy`.
    """
    if lease is None:
        return None
    watch.check_available(rows.stored_lease(state), lease, datetime.now(timezone.utc))
    try:
        return await extend(table, state["PartitionKey"], state.metadata["etag"], lease)
    except StoreUnavailable as error:
        if not await patience.has_time_after(error):
            raise
        return None


async def extend(table: Table, partition: str, etag: str | None, lease: Lease) -> str | None:
    """Writes a lease that lasts from now on, and returns the new ETag of the state, or None if it has changed."""
    return await write(table, partition, etag, StoredLease.lasting(lease, datetime.now(timezone.utc)))


async def write(table: Table, partition: str, etag: str | None, lease: StoredLease) -> str | None:
    """Writes a lease, and returns the new ETag of the state, or None if it has changed."""
    return await table.merge(rows.lease_update(partition, lease), etag)


async def end(table: Table, partition: str, etag: str | None) -> bool:
    """Ends the current lease, whoever holds it; returns False if the state has changed."""
    return await write(table, partition, etag, StoredLease(None, datetime.now(timezone.utc))) is not None


async def renew(table: Table, partition: str, version: AzureVersion, lease: Lease) -> AzureVersion:
    """Extends the lease that a version was read with; raises `ConcurrentWrite` if it is lost."""
    etag = await extend(table, partition, version.etag, lease)
    if etag is not None:
        return replace(version, etag=etag)
    newer = await find_lost_renewal(table, partition, version)
    if newer is None:
        raise ConcurrentWrite("another turn has the lease of the assistant")
    return await renew(table, partition, newer, lease)


async def find_lost_renewal(table: Table, partition: str, version: AzureVersion) -> AzureVersion | None:
    """Returns the version after a renewal whose response was lost, or None if there was no such renewal.

    Raises `TurnCancelled` if the lease was cancelled.
    """
    state = await table.get(partition, rows.STATE)
    if state is None:
        return None
    lease = rows.stored_lease(state)
    if lease.was_cancelled(version.holder):
        raise TurnCancelled("the turn was cancelled")
    if not lease.is_held_by(version.holder):
        return None
    newer = AzureVersion(rows.assistant(state), state.metadata["etag"], version.holder)
    return newer if newer != version and replace(newer, etag=version.etag) == version else None


async def release(table: Table, partition: str, holder: LeaseHolder) -> None:
    """Ends the lease of a holder, if it still has one."""
    for _ in range(MAX_ATTEMPTS):
        state = await table.get(partition, rows.STATE)
        if state is None or not rows.stored_lease(state).is_held_by(holder):
            return
        if await end(table, partition, state.metadata["etag"]):
            return


async def is_in_force(table: Table, partition: str, request_id: str, watch: LeaseWatch) -> bool:
    """Returns whether a turn has a lease that has neither expired nor been cancelled."""
    state = await table.get(partition, rows.STATE)
    lease = None if state is None else rows.stored_lease(state)
    return lease is not None and lease.belongs_to(request_id) and watch.is_in_force(lease, datetime.now(timezone.utc))


async def cancel(table: Table, partition: str, request_id: str) -> bool:
    """Ends the lease of a turn, so that the turn can't be committed.

    Returns False if the turn has no lease.
    """
    for _ in range(MAX_ATTEMPTS):
        state = await table.get(partition, rows.STATE)
        if state is None:
            return False
        lease = rows.stored_lease(state)
        if not lease.belongs_to(request_id):
            return False
        cancelled = replace(lease, until=datetime.now(timezone.utc), is_cancelled=True)
        if await write(table, partition, state.metadata["etag"], cancelled) is not None:
            return True
    raise ConcurrentWrite("other writers keep changing the conversation")
