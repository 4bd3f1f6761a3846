"""What an endpoint sends in place of a stream is read in bounded size, and has a status, whatever it is."""

from __future__ import annotations

import asyncio
import gzip
import logging
import zlib
from pathlib import Path

import grpc
import pytest

from palaver_server.llm import refusals
from tests.support.calls import query
from tests.support.endpoint import Endpoint, Raw, Refusal
from tests.support.palaver_server import Served, server_with_assistant
from tests.support.statuses import Failure, failure_of

QUERY = query()

MIB = 1024 * 1024
BUFFERS = 16 * MIB
"""More than the sockets of both sides hold. An endpoint that has sent more was read on."""


def response(status: int, *headers: str) -> bytes:
    """Returns the head of a response whose body ends with the connection."""
    return "\r\n".join([f"HTTP/1.1 {status} Status", "Content-Type: application/json", *headers, "", ""]).encode()


async def refused(served: Served, endpoint: Endpoint, answer: Raw | Refusal) -> Failure:
    """Returns the failure that a response leads to, after the next turn has succeeded."""
    endpoint.script(*[answer] * 3)
    failure = await failure_of(served.stub.PostUserQueryUnary(QUERY, timeout=30))
    for call in endpoint.calls:
        await asyncio.wait_for(call.finished.wait(), 5)
        assert call.sent < BUFFERS
    endpoint._answers.clear()
    await served.stub.PostUserQueryUnary(QUERY)
    return failure


def flood_of_gzip(text: bytes) -> tuple[bytes, bytes]:
    """Returns the beginning of a compressed text, and a piece that inflates to a MiB each time it is sent."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = compressor.compress(text) + compressor.flush(zlib.Z_FULL_FLUSH)
    block = compressor.compress(b" " * MIB) + compressor.flush(zlib.Z_FULL_FLUSH)
    return head, block


ERROR = b'{"error": {"message": "top_p is odd"}}'


async def test_an_error_that_does_not_end_is_read_in_part(served: Served, endpoint: Endpoint):
    failure = await refused(served, endpoint, Raw(response(400) + b"top_p is odd ", b"x" * MIB))
    assert (failure.reason, failure.code) == ("MODEL_REJECTED_REQUEST", grpc.StatusCode.INVALID_ARGUMENT)
    assert "top_p is odd" in failure.text


async def test_a_compressed_error_is_inflated_in_part(served: Served, endpoint: Endpoint):
    head, block = flood_of_gzip(b"top_p is odd ")
    failure = await refused(served, endpoint, Raw(response(400, "Content-Encoding: gzip") + head, block))
    assert failure.reason == "MODEL_REJECTED_REQUEST"
    assert "top_p is odd" in failure.text


async def test_a_compressed_error_of_usual_size_is_understood(served: Served, endpoint: Endpoint):
    headers = {"Content-Encoding": "gzip"}
    failure = await refused(served, endpoint, Refusal(400, body=gzip.compress(ERROR), headers=headers))
    assert "top_p is odd" in failure.text


async def test_an_error_that_drips_is_used_as_far_as_it_came(
    served: Served, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(refusals, "REFUSAL_TIMEOUT", 0.2)
    failure = await refused(served, endpoint, Refusal(400, body=ERROR, headers={"Content-Length": "100"}))
    assert (failure.reason, "top_p is odd" in failure.text) == ("MODEL_REJECTED_REQUEST", True)


@pytest.mark.parametrize("charset", ["zlib_codec", "hex", "bz2", "rot13", "undefined", "utf-16", "idna", "nonsense"])
async def test_the_charset_of_an_error_is_ignored(served: Served, endpoint: Endpoint, charset: str):
    headers = {"Content-Type": f"application/json; charset={charset}"}
    failure = await refused(served, endpoint, Refusal(400, body=ERROR, headers=headers))
    assert (failure.reason, "top_p is odd" in failure.text) == ("MODEL_REJECTED_REQUEST", True)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip", "deflate", "gzip, gzip", "\xff"])
async def test_an_error_that_can_not_be_inflated_has_its_status(served: Served, endpoint: Endpoint, encoding: str):
    failure = await refused(served, endpoint, Refusal(400, body=ERROR, headers={"Content-Encoding": encoding}))
    assert failure.reason == "MODEL_REJECTED_REQUEST"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(
    served: Served, endpoint: Endpoint, status: int, caplog: pytest.LogCaptureFixture
):
    async with Endpoint() as other:
        with caplog.at_level(logging.WARNING):
            failure = await refused(served, endpoint, Refusal(status, headers={"Location": f"{other.url}/elsewhere"}))
        assert other.calls == []
    assert (failure.reason, failure.code) == ("MODEL_REJECTED_REQUEST", grpc.StatusCode.INVALID_ARGUMENT)
    assert f"HTTP status {status}, a redirect" in failure.text
    assert "127.0.0.1" not in failure.text
    assert "redirects to the host '127.0.0.1'" in caplog.text


@pytest.mark.parametrize(
    "location", ["", "/v2", "http://[", "//\xff\x7f", "nonsense:", "http://user:word@127.0.0.1:1/"]
)
async def test_any_location_of_a_redirect_is_logged_by_its_host(
    served: Served, endpoint: Endpoint, location: str, caplog: pytest.LogCaptureFixture
):
    failure = await refused(served, endpoint, Refusal(307, headers={"Location": location}))
    assert failure.reason == "MODEL_REJECTED_REQUEST"
    assert "word" not in caplog.text


HEADS = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "a reason that is no text": b"HTTP/1.1 400 \xff\xfe\r\n\r\n",
    "a header that is too long": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 100_000 + b"\r\n",
    "a header without a name": b"HTTP/1.1 200 OK\r\n: x\r\n\r\n",
    "a header with a zero byte": b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n",
    "a length that is no number": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "a chunk without a size": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    "a huge chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\n",
    "another protocol": b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "a status beyond all": b"HTTP/1.1 999 Status\r\nContent-Length: 0\r\n\r\n",
    "a status below all": b"HTTP/1.1 000 Status\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
async def test_a_malformed_response_is_a_fault_of_the_endpoint(served: Served, endpoint: Endpoint, head: bytes):
    failure = await refused(served, endpoint, Raw(head))
    assert failure.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT), failure.text
    assert failure.reason in ("MODEL_UNAVAILABLE", "MODEL_STREAM_BROKEN", "MODEL_REJECTED_REQUEST")


async def test_no_cookie_is_kept(tmp_path: Path, endpoint: Endpoint):
    cookie = {"Set-Cookie": "session=of-one-caller; Path=/"}
    async with server_with_assistant(tmp_path, endpoint.url.replace("127.0.0.1", "localhost")) as served:
        endpoint.script(Refusal(400, headers=cookie), Refusal(307, headers={**cookie, "Location": "/"}))
        for _ in range(2):
            await failure_of(served.stub.PostUserQueryUnary(QUERY))
        await served.stub.PostUserQueryUnary(QUERY)
    assert [call.headers.get("cookie") for call in endpoint.calls] == [None] * 3


async def test_early_hints_are_passed_over(served: Served, endpoint: Endpoint):
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3
    failure = await refused(served, endpoint, Raw(hints + response(400) + ERROR))
    assert "top_p is odd" in failure.text


FLOODS = {
    "early hints": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 10_000),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: x\r\n" * 10_000),
    "a header": (b"HTTP/1.1 200 OK\r\nX: ", b"x" * MIB),
    "an extension of a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * MIB),
    "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: x\r\n" * 10_000),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS.keys())
async def test_a_head_that_does_not_end_is_given_up(tmp_path: Path, endpoint: Endpoint, flood: tuple[bytes, bytes]):
    async with server_with_assistant(tmp_path, endpoint.url, first_token_timeout=1) as served:
        endpoint.script(*[Raw(*flood)] * 3)
        failure = await failure_of(served.stub.PostUserQueryUnary(QUERY, timeout=60))
        assert failure.reason in ("MODEL_UNAVAILABLE", "MODEL_STREAM_BROKEN", "MODEL_TIMEOUT")
        assert failure.reason == "MODEL_UNAVAILABLE" or not flood[1].startswith(b"HTTP")
        for call in endpoint.calls:
            await asyncio.wait_for(call.finished.wait(), 5)
