"""Reading the responses with which an endpoint refuses a request, in bounded size and time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import anyio
import httpx2

from palaver_server.domain.errors import ModelStreamBroken
from palaver_server.domain.limits import MAX_REFUSAL_BYTES, REFUSAL_TIMEOUT
from palaver_server.llm.compression import decompressed

HEADERS_OF_BODY = (b"content-", b"transfer-encoding")
"""The beginnings of the headers that describe the body."""


async def read_refusal(response: httpx2.Response) -> httpx2.Response:
    """Returns a response with the beginning of the body, and closes the connection if there is more of it.

    The new response has no headers that describe the body: they could name a codec that fails, or that inflates the
    body without a limit.
    """
    body = bytearray()
    try:
        with anyio.move_on_after(REFUSAL_TIMEOUT):
            async for data in _reads(response):
                body += data
                if len(body) >= MAX_REFUSAL_BYTES:
                    break
    except (ModelStreamBroken, httpx2.RequestError):
        pass  # what has arrived counts, and if nothing has, the status
    finally:
        await response.aclose()
    headers = [header for header in response.headers.raw if not header[0].lower().startswith(HEADERS_OF_BODY)]
    content = bytes(body[:MAX_REFUSAL_BYTES])
    return httpx2.Response(response.status_code, headers=headers, content=content, request=response.request)


def _reads(response: httpx2.Response) -> AsyncIterator[bytes]:
    raw = aiter(cast("httpx2.AsyncByteStream", response.stream))
    return decompressed(raw, response.headers.get("content-encoding", ""))
