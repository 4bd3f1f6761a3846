"""The stores that the servers under fault share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.azurite import Account, Azurite, why_missing

STORES = ("sqlite", "azure_tables")


@contextmanager
def storage(store: str) -> Iterator[Account | None]:
    """Makes an empty account of the emulator for the time of the block; None is SQLite."""
    if store == "sqlite":
        yield None
        return
    if missing := why_missing():
        raise SystemExit(missing)
    with Azurite() as azurite:
        yield azurite.account()


def variables(account: Account | None) -> dict[str, str]:
    """Makes the environment that tells a server of its store; without an account it uses SQLite in its folder."""
    return {} if account is None else {"AzureWebJobsStorage": account.connection_string}


def name(account: Account | None) -> str:
    """Names a store for the reader of a table."""
    return "sqlite" if account is None else "azure_tables"
