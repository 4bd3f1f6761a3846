"""A runner: its process, its calls, and what they have reported so far."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import Self

LIMIT = 64 * 1024 * 1024  # a line may contain a page of messages
DEAD_PROXIES = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
"""Unreachable proxies, which clients must not use for this machine."""


@dataclass
class Call:
    """A call, as reported by the runner."""

    changed: asyncio.Condition
    request_id: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    """The events, with consecutive pieces of text joined, because how a text is split has no meaning."""
    progress: list[dict[str, Any]] = field(default_factory=list)
    """The progress events, apart from the others, because their number depends on the time."""
    text: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def is_over(self) -> bool:
        return self.response is not None or self.error is not None

    def add(self, line: dict[str, Any]) -> None:
        for key in ("request_id", "response", "error"):
            if key in line:
                setattr(self, key, line[key])
        if "message" in line:
            self.messages.append(line["message"])
        self.text += line.get("text", "")
        if "event" in line:
            self._add_event(line["event"])

    def _add_event(self, event: dict[str, Any]) -> None:
        if "progress" in event:
            self.progress.append(event["progress"])
            return
        if "text_delta" not in event:
            self.events.append(event)
            return
        piece = event["text_delta"]["text"]
        self.text += piece
        if self.events and "text" in self.events[-1]:
            self.events[-1]["text"] += piece
        else:
            self.events.append({"text": piece})

    async def wait_for_text(self, text: str) -> None:
        """Waits until this text has arrived or the call has ended."""
        async with self.changed:
            await self.changed.wait_for(lambda: text in self.text or self.is_over)

    async def wait_for_progress(self, phase: str) -> None:
        """Waits until another progress event of this phase has arrived, or the call has ended."""
        before = len(self.progress)
        async with self.changed:
            await self.changed.wait_for(
                lambda: any(event.get("phase") == phase for event in self.progress[before:]) or self.is_over
            )

    async def finish(self) -> None:
        """Waits until the call has ended."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.is_over)


class Runner:
    """The process, which runs during the `async with` block."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command = command
        self._stderr_path = folder / "stderr"
        self._changed = asyncio.Condition()
        self._calls: dict[str, Call] = {}
        self._clients = 0
        self._client = ""
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def changed(self) -> asyncio.Condition:
        """The condition that is notified of each report."""
        return self._changed

    @property
    def characters(self) -> int:
        """The number of characters that all calls of the current client have received."""
        return sum(len(call.text) for call in self._calls.values())

    @property
    def stderr(self) -> str:
        """The standard error of the runner."""
        return self._stderr_path.read_text("utf-8", "replace")

    @property
    def is_gone(self) -> bool:
        """True if the process has ended."""
        return self._reading is not None and self._reading.done()

    async def __aenter__(self) -> Self:
        with self._stderr_path.open("wb") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=os.environ | DEAD_PROXIES,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                limit=LIMIT,
            )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._reading is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 10)
        except asyncio.TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reading

    async def client(self, **options: Any) -> str:
        """Creates another client; returns "ready" or "refused", or "gone" if the runner has ended."""
        self._calls = {}
        self._clients += 1  # part of each id, to ignore late reports of an earlier client
        self._client = ""
        await self._send({"client": options})
        async with self._changed:
            await self._changed.wait_for(lambda: self._client or self.is_gone)
        return self._client or "gone"

    async def call(self, name: str, method: str, request: dict[str, Any], timeout: float | None) -> Call:
        """Starts a call."""
        call = self._calls[self._id(name)] = Call(self._changed)
        limit = {} if timeout is None else {"timeout": timeout}
        await self._send({"id": self._id(name), "call": method, "request": request, **limit})
        return call

    async def cancel(self, name: str) -> None:
        """Cancels a call."""
        await self._send({"cancel": self._id(name)})

    def _id(self, name: str) -> str:
        return f"{self._clients}.{name}"

    async def _send(self, command: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        await self._process.stdin.drain()

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            report = json.loads(line)
            async with self._changed:
                if "client" in report:
                    self._client = report["client"]
                elif call := self._calls.get(report["id"]):
                    call.add(report)
                self._changed.notify_all()
        async with self._changed:
            for call in self._calls.values():
                if not call.is_over:
                    call.error = {"status": "THE RUNNER HAS ENDED", "message": self.stderr[-2000:]}
            self._client = self._client or "gone"
            self._changed.notify_all()
