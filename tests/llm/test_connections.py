"""AI connections: which one serves a name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from palaver_server.domain.errors import ConnectionNotConfigured
from palaver_server.llm.connections import NamedModels
from palaver_server.llm.openai import OpenAIModel


@pytest.fixture
async def models() -> AsyncIterator[Sequence[OpenAIModel]]:
    """Three models; the endpoints are never called."""
    made = [OpenAIModel(api_key="k", base_url="http://127.0.0.1:9/v1") for _ in range(3)]
    yield made
    for model in made:
        await model.close()


def test_a_connection_is_found_by_its_exact_name(models: Sequence[OpenAIModel]):
    sweden, france, fallback = models
    connections = NamedModels({"Sweden": sweden, "France": france, "OPENAI": fallback}, "OPENAI")
    assert connections.resolve("Sweden") == ("Sweden", sweden)
    assert connections.resolve("France") == ("France", france)


@pytest.mark.parametrize("name", ["", "sweden", "Sweden ", "Norway", "OPENAI", "\n"])
def test_any_other_name_is_served_by_the_fallback(models: Sequence[OpenAIModel], name: str):
    sweden, _, fallback = models
    connections = NamedModels({"Sweden": sweden, "OPENAI": fallback}, "OPENAI")
    assert connections.resolve(name) == ("OPENAI", fallback)


@pytest.mark.parametrize(("name", "words"), [("", "no AI connection, and"), ("Norway", "no AI connection 'Norway'")])
def test_without_a_fallback_an_unknown_name_is_refused(models: Sequence[OpenAIModel], name: str, words: str):
    connections = NamedModels({"Sweden": models[0]}, None)
    assert connections.resolve("Sweden") == ("Sweden", models[0])
    with pytest.raises(ConnectionNotConfigured, match=words) as caught:
        connections.resolve(name)
    assert "OPENAI_API_KEY" in str(caught.value)


def test_a_server_without_any_connection_refuses_every_name():
    for name in ("", "Sweden"):
        with pytest.raises(ConnectionNotConfigured):
            NamedModels({}, None).resolve(name)
