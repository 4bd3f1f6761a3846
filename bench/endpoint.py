"""The model endpoint of the benchmark. It writes the reply that the model name asks for, such as "40x200" or "0x2000".

It runs in a process of its own and prepares every byte in advance, so that its cost does not count.
"""

from __future__ import annotations

import asyncio
import json
from functools import lru_cache

import uvloop

from bench.pace import Pace

WORD = "word "
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(choices: list[object], **fields: object) -> bytes:
    """Returns an HTTP chunk with one event of the same size as OpenAI's."""
    event = {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion.chunk",
        "created": 1741569952,
        "model": "gpt-4o-mini-2024-07-18",
        "service_tier": "default",
        "system_fingerprint": "fp_06737a9306",
        "choices": choices,
        "usage": None,
        **fields,
    }
    data = b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


PIECE = chunk([{"index": 0, "delta": {"content": WORD}, "logprobs": None, "finish_reason": None}])
USAGE = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
END = (
    chunk([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}])
    + chunk([], usage=USAGE)
    + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
)


@lru_cache
def whole_reply(pieces: int) -> bytes:
    """Returns all pieces of an unpaced reply."""
    return PIECE * pieces


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers the requests of a keep-alive connection until the client closes it."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            await answer(Pace.parse(body["model"]), writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def answer(pace: Pace, writer: asyncio.StreamWriter) -> None:
    """Writes a reply."""
    writer.write(HEAD)
    if pace.per_second:
        async for _ in pace.ticks():
            writer.write(PIECE)
    else:
        writer.write(whole_reply(pace.pieces))
    writer.write(END)
    await writer.drain()


async def main() -> None:
    """Serves until it is killed."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2000)
    print(f"endpoint listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
