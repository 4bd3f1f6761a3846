"""Endpoints that speak OpenAI's chat completions. This is the only module that imports the SDK."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import anyio
import httpx2
import openai
from anyio.lowlevel import checkpoint
from openai import AsyncAzureOpenAI, AsyncOpenAI, DefaultAioHttpClient, RequestOptions

from palaver_server.domain.errors import ContextLengthExceeded, ModelNotFound, ModelStreamBroken, ModelUnavailable
from palaver_server.domain.limits import END_TIMEOUT
from palaver_server.domain.ports import ModelDelta, Prompt, TraceHeaders, no_trace_headers
from palaver_server.domain.turns import FinishReason
from palaver_server.llm import model_lists, quirks
from palaver_server.llm.compression import decompressed
from palaver_server.llm.deltas import DeltaMerger
from palaver_server.llm.endpoint_errors import EndpointError, read_error
from palaver_server.llm.error_meanings import model_error
from palaver_server.llm.http_session import session
from palaver_server.llm.openai_chunks import Chunk, ErrorEvent
from palaver_server.llm.openai_requests import chat_completion
from palaver_server.llm.openai_stream import ChunkReader
from palaver_server.llm.quirks import Quirk
from palaver_server.llm.refusals import read_refusal

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
"""Seconds to connect to the endpoint. The turn limits how long the response may take."""

DRAIN_TIMEOUT = 0.1
"""Seconds that the end of a finished stream may take, so that the connection can be used again."""

MAX_END_CHUNKS = 1_000
"""The most chunks that are read behind the finish reason. The usage is one."""

MAX_BYTES_AT_ONCE = 64 * 1024
"""The bytes of full reads after which other calls get their turn. Fewer would split replies into more messages."""

FULL_READ = 16 * 1024
"""The bytes of a read behind which the transport has more."""

UNCOMPRESSED = {"Accept-Encoding": "identity"}
"""Compression would delay pieces. Without it, the bytes of the connection are those of the stream."""


# Without the latter, the SDK could send an administrator's key that it has found in the environment.
OPTIONS: RequestOptions = {"headers": UNCOMPRESSED, "security": {"bearer_auth": True}}


class HttpClient(DefaultAioHttpClient):
    """The SDK's HTTP client, with limits, and without cookies.

    The SDK reads the body of every error itself, whole and inflated, so it gets no more than the beginning of it.
    """

    def _init_transport(self, *arguments: Any, **options: Any) -> httpx2.AsyncBaseTransport:
        return _with_own_session(super()._init_transport(*arguments, **options))

    def _init_proxy_transport(self, *arguments: Any, **options: Any) -> httpx2.AsyncBaseTransport:
        return _with_own_session(super()._init_proxy_transport(*arguments, **options))

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Sends a request; raises `httpx2.RequestError` for a response that can't be read as HTTP."""
        try:
            response = await super().send(request, **{**options, "stream": True})
        except (aiohttp.ClientError, ValueError) as error:
            # The transport passes these on: a head that is too large or malformed, and text in it that is no text.
            raise httpx2.RemoteProtocolError("the response is not HTTP", request=request) from error
        self.cookies.clear()
        return response if response.is_success else await read_refusal(response)


def _with_own_session(transport: Any) -> httpx2.AsyncBaseTransport:
    """Returns the SDK's transport over aiohttp, which will open our session in place of its own."""
    transport.client = partial(session, transport.ssl_context, transport.limits.keepalive_expiry)
    return cast("httpx2.AsyncBaseTransport", transport)


class OpenAIModel:
    """A `ChatModel` behind an endpoint that speaks OpenAI's protocol."""

    def __init__(
        self,
        *,
        api_key: str | Callable[[], Awaitable[str]],
        name: str = "",
        base_url: str | None = None,
        api_version: str | None = None,
        trace_headers: TraceHeaders = no_trace_headers,
    ) -> None:
        """Makes the one client that serves this connection for the life of the process.

        `name` is that of the connection, for the log. `api_key` may be a function that returns the token for each
        request. `api_version` selects the older API of Azure OpenAI: `base_url` is then the address of the resource,
        and models are called by deployment paths.
        """
        options: dict[str, Any] = {
            "max_retries": 0,  # the engine retries, because it knows whether the reply has begun
            "timeout": httpx2.Timeout(None, connect=CONNECT_TIMEOUT),
            # A redirect would send the conversation to an address that nobody has configured.
            "http_client": HttpClient(follow_redirects=False),
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
        self._name = name
        self._trace_headers = trace_headers
        self._quirks: dict[str, tuple[Quirk, ...]] = {}

    async def close(self) -> None:
        """Closes all connections."""
        await self._client.close()

    async def lists_models(self) -> bool:
        """Asks the endpoint for its models. Returns False if it has no list of them; raises a `ModelError`."""
        try:
            response = await self._client.get(model_lists.PATH, cast_to=httpx2.Response, options=OPTIONS, stream=True)
        except openai.APIStatusError as error:
            meaning = model_error(_refusal(error), status=error.status_code, secret=self._secret)
            if (refused := model_lists.error_of_refusal(meaning, error.status_code)) is not None:
                raise refused from error
            return False
        except openai.APIConnectionError as error:
            raise ModelUnavailable("the endpoint can't be reached") from error
        return model_lists.is_list((await read_refusal(response)).content)

    async def stream(self, prompt: Prompt) -> AsyncGenerator[ModelDelta, None]:
        """Makes a model call and yields the output of each read from the connection."""
        reader, merger = ChunkReader(), DeltaMerger([skill.name for skill in prompt.skills])
        with self._explained(merger):
            async with self._open(prompt) as response:
                # The reads of the transport, without the layers that decode and split them again.
                raw = aiter(cast("httpx2.AsyncByteStream", response.stream))
                reads = decompressed(raw, response.headers.get("content-encoding", ""))
                at_once = 0
                async for data in reads:
                    chunks: list[Chunk] = []
                    try:
                        for chunk in reader.feed(data):
                            chunks.append(chunk)  # noqa: PERF402 - the chunks before an error must not be lost
                    finally:
                        if chunks:
                            yield merger.merge(chunks)
                    if reader.is_done:
                        await _drain(reads)
                        break
                    at_once = at_once + len(data) if len(data) >= FULL_READ else 0
                    if at_once >= MAX_BYTES_AT_ONCE:
                        await checkpoint()  # there is more at once, and other calls wait
                        at_once = 0
                    if merger.is_finished:
                        yield merger.merge(await _end(reads, reader))
                        if merger.is_finished:
                            break
                if chunks := list(reader.finish()):
                    yield merger.merge(chunks)
                if reader.is_done and merger.has_output and not merger.has_finish_reason:
                    # The endpoint ended its reply in order. The reply is paid for, so it counts without a reason.
                    yield ModelDelta(finish_reason=FinishReason.UNKNOWN)

    @contextmanager
    def _explained(self, merger: DeltaMerger) -> Iterator[None]:
        """Raises what an error of the endpoint means, unless the reply is whole: then it is paid for, and counts."""
        try:
            yield
        except ErrorEvent as error:
            if not merger.is_finished:
                raise model_error(read_error(error.body), secret=self._secret) from error
        except (openai.APIConnectionError, httpx2.RequestError, aiohttp.ClientError) as error:
            if not merger.is_finished:
                raise ModelStreamBroken("the endpoint ended its reply early") from error
        except ModelStreamBroken:
            if not merger.is_finished:
                raise

    @asynccontextmanager
    async def _open(self, prompt: Prompt) -> AsyncIterator[httpx2.Response]:
        """Opens the request. If the endpoint refuses its form and a quirk explains why, it is sent in another form."""
        model = prompt.parameters.chat_model
        if self._has_deployment_paths and model in (".", ".."):
            # The SDK quotes everything else that a path can't contain, and fails on these.
            raise ModelNotFound("the endpoint does not know the model: no deployment can have this name")
        known, defaults = self._quirks.get(model, ()), prompt.parameters.defaulted
        while True:
            body = chat_completion(prompt)
            quirks.apply(known, body, defaults)
            # The method for chat completions transforms its typed parameters one by one: a tenth of the processor time
            # of a turn, even for a body beside them. The method for any path sends the body as it is.
            try:
                response = await self._client.post(
                    "/chat/completions",
                    cast_to=httpx2.Response,
                    body=body,
                    options={**OPTIONS, "headers": {**UNCOMPRESSED, **self._trace_headers()}},
                    stream=True,
                )
            except openai.APIStatusError as error:
                if error.response.has_redirect_location:
                    logger.warning("%s: the endpoint redirects to %s", self._name, _host(error.response))
                refusal = _refusal(error)
                meaning = model_error(refusal, status=error.status_code, secret=self._secret)
                # vLLM blames `max_tokens` if a conversation is too long. A shorter one may have it.
                is_of_form = error.status_code in (400, 422) and not isinstance(meaning, ContextLengthExceeded)
                quirk = quirks.find(refusal, body, defaults, known) if is_of_form else None
                if quirk is None:
                    raise meaning from error
                known = (*known, quirk)
                continue
            except openai.APIConnectionError as error:
                raise ModelUnavailable("the endpoint can't be reached") from error
            self._learn(model, known)
            try:
                yield response
            finally:
                await response.aclose()
            return

    def _learn(self, model: str, known: tuple[Quirk, ...]) -> None:
        """Remembers the quirks with which an endpoint has accepted a request."""
        learnt = [quirk.name for quirk in known if quirk not in self._quirks.get(model, ())]
        if learnt:
            logger.warning("%s: the endpoint of %s wants %s; this is remembered", self._name, model, ", ".join(learnt))
            self._quirks[model] = known


def _refusal(error: openai.APIStatusError) -> EndpointError:
    return read_error(error.response.content, error.response.headers)


def _host(redirect: httpx2.Response) -> str:
    """Returns the host that a response redirects to, for the log."""
    try:
        return f"the host {urlsplit(redirect.headers['location']).hostname or 'of the endpoint'!r:.100}"
    except ValueError:
        return "an address that can't be read"


async def _end(reads: AsyncIterator[bytes], reader: ChunkReader) -> list[Chunk]:
    """Returns what follows a finish reason: the usage, as a rule. Some endpoints never end their stream."""
    chunks: list[Chunk] = []
    with anyio.move_on_after(END_TIMEOUT):
        async for data in reads:
            new = list(reader.feed(data))
            chunks += new
            if reader.is_done or any(choice.has_output for chunk in new for choice in chunk.choices or ()):
                break
            if len(chunks) > MAX_END_CHUNKS:
                break
            await checkpoint()
    return chunks


async def _drain(reads: AsyncIterator[bytes]) -> None:
    """Reads the rest of a finished stream, within a time limit."""
    with anyio.move_on_after(DRAIN_TIMEOUT):
        async for _ in reads:
            await checkpoint()  # so that even a flood of buffered bytes meets the time limit
