"""The offline model: a small endpoint on loopback that speaks OpenAI's protocol and needs no key.

It is for trying Palaver out. The server calls it like any other endpoint, and each of its replies says that no AI is at
work. For a message `/NAME {"argument": "value"}`, it calls the skill with that name, if there is one.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from aiohttp import web
from typing_extensions import Self

PIECES_PER_SECOND = 30.0
"""About the speed at which a person reads."""

MODEL = "offline"
"""The name of the model in its replies."""

MAX_QUOTE = 200
"""The maximum length of a message that a reply quotes, in characters."""


class OfflineModel:
    """The endpoint, which serves within its `async with` block."""

    def __init__(self, pieces_per_second: float = PIECES_PER_SECOND) -> None:
        self._pause = 1 / pieces_per_second
        self._runner: web.AppRunner | None = None
        self.base_url = ""

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_post("/v1/chat/completions", self._chat_completions)
        application.router.add_get("/v1/models", _models)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.base_url = f"{site.name}/v1".replace(":0/", f":{self._runner.addresses[0][1]}/")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _chat_completions(self, request: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = await request.json()
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        call = _skill_call(body)
        pieces = [] if call else list(_pieces(_reply(body["messages"])))
        written = pieces[:limit]
        chunk = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": MODEL,
        }
        finish_reason = "tool_calls" if call else "stop" if len(written) == len(pieces) else "length"
        prompt_tokens = sum(len(list(_pieces(message["content"] or ""))) for message in body["messages"])
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(written),
            "total_tokens": prompt_tokens + len(written),
        }
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        # A caller that cancels the reply closes the connection, which is not an error.
        with suppress(ConnectionResetError):
            await response.prepare(request)
            for piece in written:
                await asyncio.sleep(self._pause)
                choice = {"index": 0, "delta": {"role": "assistant", "content": piece}, "finish_reason": None}
                await _send(response, {**chunk, "choices": [choice]})
            if call:
                choice = {"index": 0, "delta": {"role": "assistant", "tool_calls": [call]}, "finish_reason": None}
                await _send(response, {**chunk, "choices": [choice]})
            await _send(response, {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]})
            await _send(response, {**chunk, "choices": [], "usage": usage})
            await response.write(b"data: [DONE]\n\n")
        return response


async def _models(_request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "palaver"}]})


async def _send(response: web.StreamResponse, chunk: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def _pieces(text: str) -> Iterator[str]:
    """Yields the words of a text, each with the space before it, which resembles a model's tokens."""
    return (match.group() for match in re.finditer(r"\s*\S+|\s+\Z", text))


def _skill_call(body: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the skill call that the newest message asks for, or None."""
    newest = body["messages"][-1]
    command = re.fullmatch(r"/([\w-]+)\s*(.*)", newest["content"] or "", re.DOTALL)
    if newest["role"] != "user" or command is None:
        return None
    name, arguments = command.groups()
    if name not in {tool["function"]["name"] for tool in body.get("tools", [])}:
        return None
    function = {"name": name, "arguments": arguments or "{}"}
    return {"index": 0, "id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}


def _reply(messages: list[dict[str, Any]]) -> str:
    if messages[-1]["role"] == "tool":
        return f"I am Palaver's **offline model**. The skill answered: {messages[-1]['content']}"
    said = [message["content"] for message in messages if message["role"] == "user"]
    lines = [
        "I am Palaver's **offline model**: no AI is at work here, but everything else is the real thing.",
        f"You said: “{_quoted(said[-1])}”",
    ]
    if len(said) > 1:
        lines.append(
            f"The conversation was kept: this is message {len(said)} from you, and it began with “{_quoted(said[0])}”."
        )
    lines.append("Set `OPENAI_API_KEY` to talk to a model.")
    return "\n\n".join(lines)


def _quoted(text: str) -> str:
    return text if len(text) <= MAX_QUOTE else text[: MAX_QUOTE - 1] + "…"
