"""Requests to a table of Azure Table Storage, each with a time limit and with the errors of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import (
    HttpResponseError,
    ResourceExistsError,
    ResourceModifiedError,
    ResourceNotFoundError,
)
from azure.data.tables import TableEntity, TableErrorCode, UpdateMode
from azure.data.tables.aio import TableClient

from palaver_server.domain.errors import ConcurrentWrite
from palaver_server.stores.azure.calls import SCAN_TIMEOUT, call
from palaver_server.stores.azure.rows import Row

PAGE_ROWS = 1000
"""The maximum number of rows in a response of the service."""

Operation = tuple[str, Mapping[str, Any]] | tuple[str, Mapping[str, Any], Mapping[str, Any]]


def if_unchanged(etag: str | None) -> dict[str, Any]:
    """Returns the options of a write that fails if the row has changed since its ETag was read."""
    return {"etag": etag, "match_condition": MatchConditions.IfNotModified}


def deletion(row: TableEntity) -> Operation:
    """Returns the deletion of a row, which fails if the row has changed since it was read."""
    return ("delete", row, if_unchanged(row.metadata["etag"]))


@dataclass(frozen=True, slots=True)
class Table:
    """A table. It may not exist."""

    client: TableClient
    timeout: float
    """The time limit of a request with all its retries, in seconds."""

    async def get(self, partition: str, key: str) -> TableEntity | None:
        """Returns a row, or None if there is none."""
        async with call(self.timeout):
            try:
                return await self.client.get_entity(partition, key)
            except ResourceNotFoundError:
                return None

    async def query(
        self,
        partition: str,
        first: str,
        last: str,
        condition: str = "",
        parameters: Mapping[str, object] | None = None,
        select: list[str] | None = None,
    ) -> list[TableEntity]:
        """Returns the rows of a partition with keys from `first` to `last` that meet a condition, in any order.

        Returns nothing if the table does not exist.
        """
        keys = "PartitionKey eq @partition and RowKey ge @first and RowKey le @last"
        async with call(self.timeout):
            found = self.client.query_entities(
                f"{keys} and {condition}" if condition else keys,
                parameters={"partition": partition, "first": first, "last": last, **(parameters or {})},
                select=select,
            )
            try:
                return [row async for row in found]
            except ResourceNotFoundError:
                return []

    async def first_keys(self, partition: str) -> list[TableEntity]:
        """Returns the keys and ETags of up to `PAGE_ROWS` rows of a partition, or nothing if the partition is empty."""
        async with call(self.timeout):
            found = self.client.query_entities(
                "PartitionKey eq @partition",
                parameters={"partition": partition},
                select=["PartitionKey", "RowKey"],
                results_per_page=PAGE_ROWS,
            )
            try:
                async for page in found.by_page():
                    if some := [row async for row in page]:
                        return some
            except ResourceNotFoundError:
                pass
            return []

    async def scan(
        self, key: str, limit: int, continuation: Mapping[str, str] | None
    ) -> tuple[list[TableEntity], Mapping[str, str] | None]:
        """Returns rows with a key, of all partitions, and the continuation if there may be more.

        It makes one query, for which the service reads the table from the continuation on, up to a limit of rows or of
        time. Returns nothing if the table does not exist. Raises `ValueError` for an invalid continuation.
        """
        async with call(max(self.timeout, SCAN_TIMEOUT)):
            query = self.client.query_entities("RowKey eq @key", parameters={"key": key}, results_per_page=limit)
            pages: Any = query.by_page(continuation)  # type: ignore[arg-type]  # the SDK's continuations are not text
            try:
                found = [row async for row in await anext(pages)]
            except ResourceNotFoundError:
                return [], None
            except HttpResponseError as error:
                if continuation and error.status_code == 400:
                    raise ValueError("the store refused the continuation") from error
                raise
            return found, pages.continuation_token

    async def submit(self, operations: Sequence[Operation]) -> None:
        """Performs all of the operations or none.

        Raises `ResourceNotFoundError` or `ConcurrentWrite` if a row is not as expected. The operations may have been
        performed despite an error, because the SDK may have sent them more than once.
        """
        async with call(self.timeout):
            try:
                await self.client.submit_transaction(operations)
            except (ResourceExistsError, ResourceModifiedError) as error:
                raise ConcurrentWrite("another writer changed the conversation during the turn") from error
            except HttpResponseError as error:
                # The SDK has exceptions for some codes only if the transaction as a whole was refused.
                code = getattr(error, "error_code", None)
                if error.status_code in (409, 412) and code != TableErrorCode.TABLE_BEING_DELETED:
                    raise ConcurrentWrite("another writer changed the conversation during the turn") from error
                if error.status_code == 404:
                    raise ResourceNotFoundError(response=error.response) from error
                raise

    async def merge(self, row: Row, etag: str | None) -> str | None:
        """Changes columns of a row. Returns the row's new ETag, or None if the row has changed since it was read."""
        async with call(self.timeout):
            try:
                written = await self.client.update_entity(row, mode=UpdateMode.MERGE, **if_unchanged(etag))
                return str(written["etag"])
            except (ResourceModifiedError, ResourceNotFoundError):
                return None

    async def delete(self, row: TableEntity) -> bool:
        """Deletes a row, or returns False if it has changed since it was read. A missing row counts as deleted."""
        async with call(self.timeout):
            try:
                await self.client.delete_entity(row, **if_unchanged(row.metadata["etag"]))
            except ResourceModifiedError:
                return False
        return True
