"""Palaver, except that it reads the reply of the endpoint with the typed stream of the SDK."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import uvloop
from openai import AsyncOpenAI

from bench.processes import STORE_TIMEOUT
from palaver_server.api.service import AssistantApi
from palaver_server.domain.ports import ModelDelta, Prompt
from palaver_server.domain.turns import FinishReason, Usage
from palaver_server.engine.chat import ChatEngine
from palaver_server.llm.connections import NamedModels
from palaver_server.skills.catalogue import SkillCatalogue
from palaver_server.stores.common import StoreTimeouts
from palaver_server.stores.sqlite import SqliteStore
from palaver_server.transports.grpc import listener
from palaver_server.transports.handlers import assistant_service


class TypedModel:
    """A `ChatModel` that reads a stream as the examples of the SDK do."""

    def __init__(self, base_url: str) -> None:
        self._client = AsyncOpenAI(api_key="none", base_url=base_url)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[ModelDelta, None]:
        """Makes a model call."""
        stream = await self._client.chat.completions.create(
            model=prompt.parameters.chat_model,
            messages=[{"role": "user", "content": message.content.text} for message in prompt.messages],
            stream=True,
            stream_options={"include_usage": True},
        )
        async for chunk in stream:
            delta = ModelDelta(chat_model=chunk.model)
            if chunk.usage:
                delta.usage = Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens, chunk.usage.total_tokens)
            if chunk.choices:
                delta.text = chunk.choices[0].delta.content or ""
                if chunk.choices[0].finish_reason:
                    delta.finish_reason = FinishReason(chunk.choices[0].finish_reason)
            yield delta


async def main(base_url: str, folder: Path) -> None:
    """Serves until it is killed."""
    models = NamedModels({"OPENAI": TypedModel(base_url)}, "OPENAI")
    store = SqliteStore(folder / "typed.db", StoreTimeouts(call=STORE_TIMEOUT))
    engine = ChatEngine({"AzureWebJobsStorage": store}, models, SkillCatalogue())
    async with listener([assistant_service(AssistantApi(engine))], "127.0.0.1:0") as listening:
        print(f"typed listening on 127.0.0.1:{listening.port}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], Path(sys.argv[2])))
