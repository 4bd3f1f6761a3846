"""A chat engine without a server, with a SQLite file and the test's endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from palaver_server.domain.ports import SkillSource
from palaver_server.domain.stages import Observer
from palaver_server.engine.chat import ChatEngine
from palaver_server.engine.options import EngineOptions
from palaver_server.llm.connections import NamedModels
from palaver_server.llm.openai import OpenAIModel
from palaver_server.skills.catalogue import SkillCatalogue
from palaver_server.stores.sqlite import SqliteStore
from tests.support.conversations import key
from tests.support.endpoint import Endpoint

Engine = TypeVar("Engine", bound=ChatEngine)


@asynccontextmanager
async def chat_engine(
    folder: Path,
    endpoint: Endpoint,
    skills: SkillSource | None = None,
    *,
    options: EngineOptions | None = None,
    observer: Observer | None = None,
    kind: type[Engine] = ChatEngine,
) -> AsyncIterator[Engine]:
    """Runs an engine of a kind for the time of the block. Its database is in the folder."""
    store = SqliteStore(folder / "palaver.db", observer=observer)
    model = OpenAIModel(api_key="x", base_url=endpoint.url)
    models = NamedModels({"OPENAI": model}, "OPENAI")
    engine = kind({key().connection: store}, models, skills or SkillCatalogue(), options, observer)
    try:
        yield engine
    finally:
        await engine.drain(grace=0)
        await model.close()
        await store.close()
