"""Requests to a table of Azure Table Storage: each limited in time, and with our words for what went wrong."""

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

from palaver_server.errors import ConcurrentWrite
from palaver_server.stores.azure_calls import call
from palaver_server.stores.azure_rows import Row

PAGE_ROWS = 1000
"""The most rows of an answer of the service."""

Operation = tuple[str, Mapping[str, Any]] | tuple[str, Mapping[str, Any], Mapping[str, Any]]


def unchanged(etag: str | None) -> dict[str, Any]:
    """Lets a write hold only if the row is as it was then."""
    return {"etag": etag, "match_condition": MatchConditions.IfNotModified}


def deletion(row: TableEntity) -> Operation:
    """Deletes a row as it was seen."""
    return ("delete", row, unchanged(row.metadata["etag"]))


@dataclass(frozen=True, slots=True)
class Table:
    """A table, which need not exist."""

    client: TableClient
    timeout: float
    """Seconds for a request with all its retries."""

    async def get(self, partition: str, key: str) -> TableEntity | None:
        """Returns a row, or None where there is none."""
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
        filters: str = "",
        parameters: Mapping[str, object] | None = None,
        select: list[str] | None = None,
    ) -> list[TableEntity]:
        """Returns the rows of a partition with keys from `first` to `last`, in no certain order."""
        async with call(self.timeout):
            found = self.client.query_entities(
                f"PartitionKey eq @partition and RowKey ge @first and RowKey le @last{filters}",
                parameters={"partition": partition, "first": first, "last": last, **(parameters or {})},
                select=select,
            )
            try:
                return [row async for row in found]
            except ResourceNotFoundError:
                return []

    async def some_keys(self, partition: str) -> list[TableEntity]:
        """Returns keys and ETags of rows of a partition: a page of them, and none only where there are none."""
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

    async def submit(self, operations: Sequence[Operation]) -> None:
        """Does all of the operations or none.

        Raises `ResourceNotFoundError` or `ConcurrentWrite` where a row is not as expected. They and any other error
        leave open which of the two it was, because the SDK may have sent the operations more than once.
        """
        async with call(self.timeout):
            try:
                await self.client.submit_transaction(operations)
            except (ResourceExistsError, ResourceModifiedError) as error:
                raise ConcurrentWrite("somebody else wrote to the conversation during the turn") from error
            except HttpResponseError as error:
                # The SDK has names for some of the codes only if the transaction as a whole was refused.
                code = getattr(error, "error_code", None)
                if error.status_code in (409, 412) and code != TableErrorCode.TABLE_BEING_DELETED:
                    raise ConcurrentWrite("somebody else wrote to the conversation during the turn") from error
                if error.status_code == 404:
                    raise ResourceNotFoundError(response=error.response) from error
                raise

    async def merge(self, row: Row, etag: str | None) -> str | None:
        """Changes columns of a row and returns its ETag then; None where the row is not as it was."""
        async with call(self.timeout):
            try:
                written = await self.client.update_entity(row, mode=UpdateMode.MERGE, **unchanged(etag))
                return str(written["etag"])
            except (ResourceModifiedError, ResourceNotFoundError):
                return None

    async def delete(self, row: TableEntity) -> bool:
        """Deletes a row; False where it is not as it was seen. One that is gone counts as deleted."""
        async with call(self.timeout):
            try:
                await self.client.delete_entity(row, **unchanged(row.metadata["etag"]))
            except ResourceModifiedError:
                return False
        return True
