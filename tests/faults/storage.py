"""The stores of the servers under test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.azurite import Account, Azurite, why_missing

STORES = ("sqlite", "azure_tables")


@contextmanager
def storage(store: str) -> Iterator[Account | None]:
    """Yields an empty account of the emulator, or None for SQLite."""
    if store == "sqlite":
        yield None
        return
    if missing := why_missing():
        raise SystemExit(missing)
    with Azurite() as azurite:
        yield azurite.account()


def variables(account: Account | None) -> dict[str, str]:
    """Returns the environment of a server with this account, or without one, with SQLite in its folder."""
    return {} if account is None else {"AzureWebJobsStorage": account.connection_string}


def name(account: Account | None) -> str:
    """Returns the name of the store in the tables."""
    return "sqlite" if account is None else "azure_tables"
