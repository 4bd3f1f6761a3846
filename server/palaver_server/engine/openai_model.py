"""Any endpoint that speaks OpenAI's chat completions. This is the only module that imports the SDK."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, cast

import anyio
import httpx2
import openai
from openai import AsyncAPIResponse, AsyncAzureOpenAI, AsyncOpenAI, DefaultAioHttpClient

from palaver_server.engine.model import ModelDelta, Prompt
from palaver_server.engine.openai_stream import Chunk, ChunkReader, ErrorEvent, merge
from palaver_server.errors import (
    ContextLengthExceeded,
    ModelContentFiltered,
    ModelCredentialsRejected,
    ModelError,
    ModelNotFound,
    ModelQuotaExhausted,
    ModelRateLimited,
    ModelRejectedRequest,
    ModelStreamBroken,
    ModelUnavailable,
)
from palaver_server.models import Draft, Skill

CONNECT_TIMEOUT = 10.0
"""Seconds for the connection to the endpoint; the turn limits how long its answer may take."""

MAX_CONNECTIONS = 10_000
"""Without a number, aiohttp's own limit of 100 would make the 101st caller wait."""

DRAIN_TIMEOUT = 0.1
"""Seconds that the end of a finished stream may take, so that the connection can serve the next call."""

UNCOMPRESSED = {"Accept-Encoding": "identity"}
"""Compression would hold pieces back; without it the bytes of the connection are those of the stream."""

MAX_WORDS = 400
"""Characters of an endpoint's own words that are passed on."""

Body = dict[str, Any]


class OpenAIModel:
    """A `ChatModel` behind an endpoint that speaks OpenAI's protocol."""

    def __init__(
        self,
        *,
        api_key: str | Callable[[], Awaitable[str]],
        base_url: str | None = None,
        api_version: str | None = None,
    ) -> None:
        """Makes the one client that serves this connection for the life of the process.

        `api_key` may be what returns the token for each request. With an `api_version`, which only Azure OpenAI's older
        API has, `base_url` is the address of the resource, and models are called by the paths of their deployments.
        """
        options: dict[str, Any] = {
            "max_retries": 0,  # the engine retries, because it knows whether the reply has begun
            "timeout": httpx2.Timeout(None, connect=CONNECT_TIMEOUT),
            "http_client": DefaultAioHttpClient(limits=httpx2.Limits(max_connections=MAX_CONNECTIONS)),
        }
        if api_version is None:
            self._client = AsyncOpenAI(api_key=api_key, base_url=base_url, **options)
        elif isinstance(api_key, str):
            self._client = AsyncAzureOpenAI(
                azure_endpoint=base_url or "", api_version=api_version, api_key=api_key, **options
            )
        else:
            self._client = AsyncAzureOpenAI(
                azure_endpoint=base_url or "", api_version=api_version, azure_ad_token_provider=api_key, **options
            )
        self._secret = api_key if isinstance(api_key, str) else ""
        self._has_deployment_paths = api_version is not None
        self._dialects: dict[str, frozenset[str]] = {}

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.close()

    async def stream(self, prompt: Prompt) -> AsyncGenerator[ModelDelta, None]:
        """Makes a model call and yields what comes with each read of the connection."""
        reader = ChunkReader()
        try:
            async with self._open(prompt) as response:
                # What the transport reads, without the layers that decode and cut it again.
                reads = aiter(cast("httpx2.AsyncByteStream", response.http_response.stream))
                async for data in reads:
                    chunks: list[Chunk] = []
                    try:
                        for chunk in reader.feed(data):
                            chunks.append(chunk)  # noqa: PERF402 - the chunks before an error must not be lost
                    finally:
                        if chunks:
                            yield merge(chunks)
                    if reader.is_done:
                        await _drain(reads)
                        return
        except ErrorEvent as error:
            raise self._in_stream_error(error) from error
        except (openai.APIConnectionError, httpx2.RequestError) as error:
            raise ModelStreamBroken("the endpoint broke its reply off") from error

    @asynccontextmanager
    async def _open(self, prompt: Prompt) -> AsyncIterator[AsyncAPIResponse[Any]]:
        """Opens the request; what an endpoint refuses only in form is sent again in the form that it takes."""
        model = prompt.parameters.chat_model
        if self._has_deployment_paths and model in (".", ".."):
            # The SDK quotes whatever else a path can't hold, and refuses to make one of these.
            raise ModelNotFound("the endpoint does not know the model: no deployment can have this name")
        dialect = self._dialects.get(model, frozenset())
        while True:
            body = _body(prompt)
            for parameter in dialect & body.keys():
                DIALECTS[parameter].change(body)
            # The SDK walks through typed parameters to transform them, which cost a third of a turn with twenty
            # messages of history. An extra body is taken as it is.
            call = self._client.chat.completions.with_streaming_response.create(
                model=model, messages=[], stream=True, extra_body=body, extra_headers=UNCOMPRESSED
            )
            try:
                response = await call.__aenter__()
            except openai.APIStatusError as error:
                refused = _refused_parameter(error, body)
                if refused is None:
                    raise self._status_error(error) from error
                dialect |= {refused}
                continue
            except openai.APIConnectionError as error:
                raise ModelUnavailable("the endpoint can't be reached") from error
            self._dialects[model] = dialect
            try:
                yield response
            finally:
                await call.__aexit__(None, None, None)
            return

    def _status_error(self, error: openai.APIStatusError) -> ModelError:
        words = self._words(error.message if error.body is None else _message(error.body))
        code = _code(error.body)
        status = error.status_code
        if code in _BY_CODE:
            return _BY_CODE[code](words)
        if status in (401, 403):
            return ModelCredentialsRejected("the endpoint refused the server's credentials")
        if status == 404:
            return ModelNotFound(f"the endpoint does not know the model: {words}")
        if status == 429:
            return ModelRateLimited(
                "the endpoint limits the rate of calls", retry_after=_retry_after(error.response.headers)
            )
        if status in (408, 409) or status >= 500:
            return ModelUnavailable(
                f"the endpoint failed with HTTP status {status}",
                retry_after=_retry_after(error.response.headers),
            )
        return ModelRejectedRequest(f"the endpoint refused the request: {words}")

    def _in_stream_error(self, error: ErrorEvent) -> ModelError:
        code = _code(error.body)
        if code in _BY_CODE:
            return _BY_CODE[code](self._words(_message(error.body)))
        return ModelStreamBroken("the endpoint ended its reply with an error")

    def _words(self, text: str) -> str:
        """Makes the endpoint's words fit for callers: short, and without the key or an address."""
        text = text.replace(self._secret, "[key]") if self._secret else text
        text = re.sub(r"\b(sk|key)-[\w*-]+|\beyJ[\w.-]+", "[key]", text)
        text = re.sub(r"\b[a-z]+://\S+", "[address]", text)
        return text if len(text) <= MAX_WORDS else text[: MAX_WORDS - 1] + "…"


@dataclass(frozen=True, slots=True)
class Dialect:
    """A parameter that some endpoints refuse: the words of the refusal, and what to send instead."""

    refusal: re.Pattern[str]
    change: Callable[[Body], None]


def _rename_max_tokens(body: Body) -> None:
    body["max_completion_tokens"] = body.pop("max_tokens")


def _drop_stream_options(body: Body) -> None:
    del body["stream_options"]


DIALECTS = {
    # Newer models of OpenAI and Azure OpenAI; their refusal names the parameter that they take.
    "max_tokens": Dialect(re.compile("max_completion_tokens"), _rename_max_tokens),
    # Older servers. Without it they report no usage.
    "stream_options": Dialect(re.compile("stream_options"), _drop_stream_options),
}


def _refused_parameter(error: openai.APIStatusError, body: Body) -> str | None:
    if error.status_code not in (400, 422):
        return None
    words = _message(error.body)
    refused = (name for name, dialect in DIALECTS.items() if name in body and dialect.refusal.search(words))
    return next(refused, None)


def _body(prompt: Prompt) -> Body:
    parameters = prompt.parameters
    body: Body = {
        "model": parameters.chat_model,
        "messages": [_message_body(message) for message in prompt.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if prompt.skills:
        body["tools"] = [_tool(skill) for skill in prompt.skills]
    if parameters.temperature is not None:
        body["temperature"] = parameters.temperature
    if parameters.top_p is not None:
        body["top_p"] = parameters.top_p
    if parameters.max_tokens is not None:
        body["max_completion_tokens" if parameters.is_reasoning_model else "max_tokens"] = parameters.max_tokens
    return body


def _tool(skill: Skill) -> Body:
    function: Body = {"name": skill.name, "description": skill.description}
    if skill.parameters_json_schema:
        function["parameters"] = json.loads(skill.parameters_json_schema)
    return {"type": "function", "function": function}


def _message_body(message: Draft) -> Body:
    body: Body = {"role": message.role.value, "content": message.content}
    if message.skill_calls:
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments_json}}
            for call in message.skill_calls
        ]
    if message.skill_call_id:
        body["tool_call_id"] = message.skill_call_id
    return body


_BY_CODE: dict[str, Callable[[str], ModelError]] = {
    "content_filter": lambda words: ModelContentFiltered(f"the endpoint's content filter refused the prompt: {words}"),
    "context_length_exceeded": lambda words: ContextLengthExceeded(
        f"the conversation is too long for the model; set a smaller history.max_messages: {words}"
    ),
    "insufficient_quota": lambda _words: ModelQuotaExhausted("the account of the AI connection has no quota left"),
    "model_not_found": lambda words: ModelNotFound(f"the endpoint does not know the model: {words}"),
    "DeploymentNotFound": lambda words: ModelNotFound(f"the endpoint does not know the model: {words}"),
    "invalid_api_key": lambda _words: ModelCredentialsRejected("the endpoint refused the server's credentials"),
}


def _code(body: object) -> str:
    code = body.get("code") if isinstance(body, Mapping) else None
    return code if isinstance(code, str) else ""


def _message(body: object) -> str:
    if isinstance(body, Mapping):
        message = body.get("message")
        return message if isinstance(message, str) else ""
    return body if isinstance(body, str) else ""


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Reads `Retry-After`, in seconds or as a date, and the more exact header of OpenAI and Azure."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) * unit)
        except ValueError:
            pass
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            continue
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())
    return None


async def _drain(reads: AsyncIterator[bytes]) -> None:
    with anyio.move_on_after(DRAIN_TIMEOUT):
        async for _ in reads:
            await anyio.lowlevel.checkpoint()  # so that even a flood of buffered bytes meets the time limit
