from __future__ import annotations

from collections.abc import Iterator

import pytest

from palaver.v1 import assistant_service_pb2
from tests.support import replies
from tests.support.scripted_server import ScriptedServer


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        running.script(
            "CreateAssistant",
            assistant_service_pb2.CreateAssistantResponse(assistant=replies.assistant("support"), created=True),
        )
        running.script("PostUserQuery", replies.turn("Hi ", "there"))
        yield running


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = ("SERVER", "TOKEN", "CA", "CLIENT_CERTIFICATE", "CLIENT_KEY")
    for name in (*(f"PALAVER_{variable}" for variable in variables), "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
