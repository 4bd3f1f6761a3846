"""The server under attack, as an attack sees it. Every answer of the server is judged here."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from palaver.v1 import admin_service_pb2
from palaver.v1 import assistant_service_pb2 as pb
from tests.support.endpoint import Endpoint
from tests.support.server_process import ServerProcess
from tests.support.statuses import failure

SERVICES = (
    pb.DESCRIPTOR.services_by_name["AssistantService"],
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"],
)
METHODS = {method.name: method for service in SERVICES for method in service.methods}
FORBIDDEN = ("UNKNOWN", "INTERNAL")
CALL_TIMEOUT = 30.0
"""The seconds after which a call without an answer counts as hanging."""

MAX_FINDINGS = 100
LARGE_MESSAGES = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))

KEY = "sk-canary-of-the-fallback-0f4e1c"
SPARE_KEY = "canary-of-a-connection-77ab31"
PRIVATE_TEXT = "canary in the text of another assistant 5d20e9"
CANARIES = (KEY, SPARE_KEY, PRIVATE_TEXT)
"""Secrets that no answer and no line of the log may contain: keys in the settings, and the text of an assistant whose
name no attacker knows."""


@dataclass(frozen=True)
class Size:
    """The size of a run."""

    times: float = 1.0
    """The multiple of the full size."""
    seed: int = 1
    replay: int | None = None
    """The number of the only generated input to send, or None for all."""


@dataclass(frozen=True)
class Answer:
    """The answer to a call: its status, its reason if it failed, and the serialized responses."""

    status: str
    reason: str
    text: str
    responses: tuple[bytes, ...]


@dataclass(frozen=True)
class Target:
    """A server in a process of its own, its model endpoint in this process, and what was found wrong so far."""

    server: ServerProcess
    endpoint: Endpoint
    skill_host: str
    """The address at which the server looks for its skill host. An attack may start one there."""
    folder: Path
    size: Size = field(default_factory=Size)
    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the report says about the attack, besides the measurements."""
    answers: Counter[str] = field(default_factory=Counter)
    """The number of answers with each reason or status."""

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port of the server."""
        host, _, port = self.server.address.rpartition(":")
        return host, int(port)

    def count(self, full: int) -> int:
        """Returns a number in proportion to the size of the run."""
        return max(1, round(full * self.size.times))

    def seconds(self, full: float) -> float:
        """Returns a time in proportion to the size of the run, and half a second at least."""
        return max(0.5, full * min(1.0, self.size.times))

    def numbers(self, full: int) -> Iterator[int]:
        """Returns the numbers of the generated inputs."""
        return iter(range(self.count(full)) if self.size.replay is None else [self.size.replay])

    def choices(self, number: object) -> random.Random:
        """Returns the random choices for one generated input, which depend only on the seed and its number."""
        return random.Random(f"{self.size.seed}/{number}")

    def found(self, finding: str) -> None:
        """Records that the server broke a promise."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)

    def channel(self) -> grpc.aio.Channel:
        """Returns a new connection to the server."""
        return grpc.aio.insecure_channel(self.server.address, LARGE_MESSAGES)

    async def call(
        self,
        method: str,
        request: Message | bytes,
        *,
        what: str = "",
        channel: grpc.aio.Channel | None = None,
        metadata: tuple[tuple[str, str | bytes], ...] = (),
        timeout: float = CALL_TIMEOUT,
    ) -> Answer:
        """Calls a method and judges the answer."""
        data = request if isinstance(request, bytes) else request.SerializeToString()
        path = f"/{METHODS[method].containing_service.full_name}/{method}"
        caller = self.server.channel if channel is None else channel
        open_call = caller.unary_stream if METHODS[method].server_streaming else caller.unary_unary
        call: Any = open_call(path)(data, metadata=metadata, timeout=timeout)
        responses: list[bytes] = []
        try:
            if METHODS[method].server_streaming:
                async for response in call:
                    responses.append(response)  # noqa: PERF401 - those before an error are judged too
            else:
                responses.append(await call)
            answer = Answer("OK", "", "", tuple(responses))
        except grpc.aio.AioRpcError as error:
            failed = failure(error)
            answer = Answer(failed.code.name, failed.reason, failed.text, tuple(responses))
            trailers = [str(pair).encode() for pair in error.trailing_metadata() or ()]
            self.judge(what or method, error.debug_error_string().encode(), *trailers)
        self.answers[answer.reason or answer.status] += 1
        self.judge(what or method, answer.text.encode(errors="replace"), *responses)
        if answer.status in FORBIDDEN:
            self.found(f"{what or method}: {answer.status} {answer.text}")
        if answer.status == "DEADLINE_EXCEEDED" and not answer.reason:
            self.found(f"{what or method}: no answer within {timeout:g} s")
        return answer

    def judge(self, what: str, *texts: bytes) -> None:
        """Records a secret in something that callers or operators can read."""
        for text in texts:
            for canary in CANARIES:
                if canary.encode() in text:
                    self.found(f"{what}: the secret {canary!r} in {text[:300]!r}")


async def crowd(count: int, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a function a number of times at once."""
    await asyncio.gather(*(run() for _ in range(count)))


def query(assistant: str, text: str = "Hello", **fields: Any) -> pb.PostUserQueryRequest:
    """Returns a user query."""
    return pb.PostUserQueryRequest(id=assistant, user_message=text, **fields)
