"""The cases that the clients of all languages share: `client/vectors`, whose README describes the fields."""

from __future__ import annotations

import asyncio
import json
import types
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from google.rpc import error_details_pb2

import palaver
from palaver import _responses
from palaver._resume import RetryBudget
from palaver.cli import printable
from palaver.v1 import assistant_service_pb2
from tests.support.scripted_server import Failure

NOT_A_BREAK = [Failure(grpc.StatusCode.FAILED_PRECONDITION, "there is one post too many")]
"""The answer that ends a reply whose client does not stop posting."""

VECTORS = Path(__file__).parents[2] / "client" / "vectors"


@dataclass(frozen=True, kw_only=True)
class Replay:
    name: str
    posts: list[dict[str, Any]]
    delivered: list[dict[str, Any]]
    error: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Break:
    name: str
    error: dict[str, Any]
    is_break: bool


@dataclass(frozen=True, kw_only=True)
class Pauses:
    name: str
    timeout_ms: int | None = None
    reconnect_timeout_ms: int
    steps: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Step:
    at_ms: int
    received: bool = False
    error: dict[str, Any] | None = None
    pause_ms: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    name: str
    target: str
    local: bool
    unsupported_in: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TerminalText:
    name: str
    text: str
    printed: str


Vector = TypeVar("Vector")


def load(file: str, vector: type[Vector]) -> list[Vector]:
    """Returns the vectors of a file. One with an unknown field is a TypeError."""
    vectors = [vector(**fields) for fields in json.loads((VECTORS / file).read_text("utf-8"))]
    assert vectors, file
    return vectors


def response(event: dict[str, Any]) -> assistant_service_pb2.PostUserQueryResponse:
    return ParseDict(event, assistant_service_pb2.PostUserQueryResponse())


def answer(*, events: list[dict[str, Any]], status: str = "OK", reason: str = "") -> list[Any]:
    """Returns what a scripted server answers to a post."""
    steps: list[Any] = [response(event) for event in events]
    if status != "OK":
        details = (error_details_pb2.ErrorInfo(domain="palaver.v1", reason=reason),) if reason else ()
        steps.append(Failure(grpc.StatusCode[status], "scripted", details))
    return steps


def error_of(
    *, status: str, reason: str = "", message: str = "", retry_delay_ms: int | None = None
) -> palaver.PalaverError:
    delay = None if retry_delay_ms is None else retry_delay_ms / 1000
    return palaver.PalaverError(message, grpc.StatusCode[status], reason, retry_delay=delay)


async def read(
    client: palaver.Client | palaver.AsyncClient,
) -> tuple[list[palaver.Event], palaver.PalaverError | None]:
    """Posts a query, and returns the events of the reply and the error that ended it."""
    reply = client.post_user_query("support", "Hello!")
    events: list[palaver.Event] = []
    try:
        if isinstance(reply, palaver.AsyncReply):
            async for event in reply:
                events.append(event)  # noqa: PERF401 - those before the error count
        else:
            await asyncio.to_thread(lambda: [events.append(event) for event in reply])
    except palaver.PalaverError as error:
        return events, error
    return events, None


def name_of(vector: Any) -> str:
    return str(vector.name)


@pytest.mark.parametrize("vector", load("replay.json", Replay), ids=name_of)
async def test_replay(driver, server, vector):
    server.script("PostUserQuery", *[answer(**post) for post in vector.posts], NOT_A_BREAK)
    events, error = await read(driver.client)
    assert events == [_responses.post_user_query(response(event)) for event in vector.delivered]
    assert (error and {"status": error.status.name, "reason": error.reason}) == vector.error
    assert len(server.calls) == len(vector.posts)


@pytest.mark.parametrize("vector", load("breaks.json", Break), ids=name_of)
def test_breaks(vector):
    pause = RetryBudget(None, reconnect_timeout=10).delay_after(error_of(**vector.error))
    assert (pause is not None) is vector.is_break


@pytest.mark.parametrize("vector", load("pauses.json", Pauses), ids=name_of)
def test_pauses(monkeypatch, vector):
    now = start = 1000.0
    monkeypatch.setattr("palaver._resume.time", types.SimpleNamespace(monotonic=lambda: now))
    timeout = None if vector.timeout_ms is None else vector.timeout_ms / 1000
    budget = RetryBudget(timeout, vector.reconnect_timeout_ms / 1000)
    for step in [Step(**fields) for fields in vector.steps]:
        now = start + step.at_ms / 1000
        assert step.received is (step.error is None)
        if step.error is None:
            budget.reset()
            continue
        pause = budget.delay_after(error_of(**step.error))
        if step.pause_ms is None or pause is None:
            assert pause is step.pause_ms, step
        else:
            shortest, longest = step.pause_ms
            assert shortest <= pause * 1000 <= longest, step


@pytest.mark.parametrize("vector", load("local_targets.json", Target), ids=name_of)
def test_local_targets(vector):
    if vector.local and "python" not in vector.unsupported_in:
        palaver.Client(vector.target, token="secret").close()
    else:
        with pytest.raises(ValueError, match="in the clear: use TLS"):
            palaver.Client(vector.target, token="secret")


@pytest.mark.parametrize("vector", load("terminal.json", TerminalText), ids=name_of)
def test_terminal(vector):
    assert printable(vector.text) == vector.printed


def test_the_service_config_is_the_shared_one():
    shipped = resources.files("palaver").joinpath("service_config.json").read_bytes()
    assert shipped == (VECTORS / "service_config.json").read_bytes()


def test_every_file_of_vectors_is_read():
    read = {
        "replay.json",
        "breaks.json",
        "pauses.json",
        "local_targets.json",
        "service_config.json",
        "terminal.json",
    }
    assert {path.name for path in VECTORS.glob("*.json")} == read
