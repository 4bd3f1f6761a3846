from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.azurite import Azurite
from tests.support.endpoint import Endpoint
from tests.support.palaver_server import Replicas


@pytest.fixture(params=["sqlite", "azure_tables"])
def variables(request: pytest.FixtureRequest) -> dict[str, str]:
    """The environment of servers with an empty store of each kind."""
    if request.param == "sqlite":
        return {}
    azurite: Azurite = request.getfixturevalue("azurite")
    return {"AzureWebJobsStorage": azurite.account().connection_string}


@pytest.fixture
def replicas(tmp_path: Path, endpoint: Endpoint, variables: dict[str, str]) -> Replicas:
    """Servers that share a store of each kind."""
    return Replicas(tmp_path, endpoint.url, variables)
