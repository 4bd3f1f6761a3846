from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.azurite import Azurite
from tests.support.endpoint import Endpoint
from tests.support.palaver_server import Replicas, Served, server_with_assistant


@pytest.fixture
async def served(tmp_path: Path, endpoint: Endpoint) -> AsyncIterator[Served]:
    """A server with SQLite, and with the assistant `a`, whose instructions are "Be brief."."""
    async with server_with_assistant(tmp_path, endpoint.url, instructions="Be brief.") as running:
        yield running


@pytest.fixture(params=["sqlite", "azure_tables"])
def variables(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of servers with an empty store, for each kind of store."""
    if request.param == "sqlite":
        return {}
    azurite: Azurite = request.getfixturevalue("azurite")
    return {"AzureWebJobsStorage": azurite.account().connection_string}


@pytest.fixture
def replicas(tmp_path: Path, endpoint: Endpoint, variables: dict[str, str]) -> Replicas:
    """Servers that share an empty store, for each kind of store."""
    return Replicas(tmp_path, endpoint.url, variables)
