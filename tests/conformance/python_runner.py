"""The runner for Python: `python -m tests.conformance.python_runner client` or `… async-client`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import is_dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

import palaver

_EVENTS = {
    palaver.TurnStarted: "started",
    palaver.TextDelta: "text_delta",
    palaver.SkillCall: "skill_call",
    palaver.SkillResult: "skill_result",
    palaver.Progress: "progress",
    palaver.TurnCompleted: "completed",
}
_METHODS = {
    "CreateAssistant": "create_assistant",
    "GetAssistant": "get_assistant",
    "DeleteAssistant": "delete_assistant",
    "PostUserQueryUnary": "post_user_query_unary",
    "CancelTurn": "cancel_turn",
}
_QUERY = {"user_message": ""}
_REQUIRED = {
    "CancelTurn": {"request_id": ""},
    "PostUserQuery": _QUERY,
    "PostUserQueryText": _QUERY,
    "PostUserQueryUnary": _QUERY,
}
_PREFIXES = {
    "role": "ROLE_",
    "finish_reason": "FINISH_REASON_",
    "phase": "PROGRESS_PHASE_",
    "if_exists": "IF_EXISTS_",
    "order": "ORDER_",
    "on_disconnect": "ON_DISCONNECT_",
}
_PRESENT_AT_ZERO = {"temperature", "top_p", "max_tokens", "content", "error"}


class SyncAsAsync:
    """Runs the blocking client in threads, so that one runner serves both clients."""

    def __init__(self, client: palaver.Client) -> None:
        self._client = client

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            return await asyncio.to_thread(getattr(self._client, name), *arguments, **options)

        return call

    def list_messages(self, *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        return _in_threads(self._client.list_messages(*arguments, **options))

    def post_user_query(self, *arguments: Any, **options: Any) -> SyncReplyAsAsync:
        return SyncReplyAsAsync(self._client.post_user_query(*arguments, **options))


class SyncReplyAsAsync:
    def __init__(self, reply: palaver.Reply) -> None:
        self._reply = reply
        self.request_id = reply.request_id
        self.cancel = reply.cancel

    def __aiter__(self) -> AsyncIterator[Any]:
        return _in_threads(self._reply)

    @property
    def text(self) -> AsyncIterator[Any]:
        return _in_threads(self._reply.text)


async def _in_threads(iterator: Iterator[Any]) -> AsyncIterator[Any]:
    end = object()
    while (item := await asyncio.to_thread(next, iterator, end)) is not end:
        yield item


def _arguments(request: dict[str, Any]) -> dict[str, Any]:
    """Converts a request of the contract to the keyword arguments of a method."""
    arguments = dict(request)
    if history := arguments.pop("history", None):
        arguments["max_history_messages"] = history["max_messages"]
    for name, prefix in _PREFIXES.items():
        if name in arguments:
            arguments[name] = arguments[name].removeprefix(prefix).lower()
    if "after_time" in arguments:
        arguments["after_time"] = datetime.fromisoformat(arguments["after_time"].replace("Z", "+00:00"))
    for name, kind in {"caller_skills": palaver.Skill, "skill_results": palaver.SkillResult}.items():
        if name in arguments:
            arguments[name] = [kind(**{"description": "", **item} if kind is palaver.Skill else item)
                               for item in arguments[name]]  # fmt: skip
    return arguments


def _message(value: Any, name: str = "") -> Any:
    """Converts a value of the library to Protobuf's JSON mapping."""
    if isinstance(value, Enum):
        unknown = value.value == "unknown"
        return f"{_PREFIXES[name]}UNSPECIFIED" if unknown else f"{_PREFIXES[name]}{value.name}"
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        duration = Duration()
        duration.FromTimedelta(value)
        return duration.ToJsonString()
    if is_dataclass(value) and not isinstance(value, type):
        value = {key: getattr(value, key) for key in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {
            key: _message(item, key)
            for key, item in value.items()
            if item or (item is not None and key in _PRESENT_AT_ZERO and name not in {"messages", "message"})
        }
    if isinstance(value, tuple | list):
        return [_message(item, name) for item in value]
    return value


def _error(error: palaver.PalaverError) -> dict[str, Any]:
    return {
        "status": error.status.name,
        "reason": error.reason,
        "message": error.message,
        "field_violations": [violation._asdict() for violation in error.field_violations],
        "retry_delay": error.retry_delay,
    }


def _report(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def _token_function(tokens: list[str]) -> Callable[[], str]:
    remaining = iter(tokens)

    def token() -> str:
        for next_one in remaining:
            return next_one
        raise RuntimeError("no token left")

    return token


def _async_token_function(tokens: list[str]) -> Callable[[], Awaitable[str]]:
    function = _token_function(tokens)

    async def token() -> str:
        await asyncio.sleep(0)
        return function()

    return token


class Session:
    """The client and its calls."""

    def __init__(self, is_async: bool) -> None:
        self._is_async = is_async
        self._client: Any = None
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._replies: dict[str, Any] = {}

    async def run(self, command: dict[str, Any]) -> None:
        if "client" in command:
            await self._make_client(command["client"])
        elif "cancel" in command:
            await self._cancel(command["cancel"])
        else:
            self._calls[command["id"]] = asyncio.create_task(self._call(command))

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    async def _cancel(self, name: str) -> None:
        if name in self._replies:
            self._replies[name].cancel()
        elif self._is_async:
            self._calls[name].cancel()
        else:
            await self._client.close()  # the only way to cancel a blocking call

    async def _make_client(self, options: dict[str, Any]) -> None:
        await self.close()
        self._replies = {}
        tokens = options.pop("tokens", None)
        if "certificate" in options:
            options["client_certificate"], options["client_key"] = options.pop("certificate"), options.pop("key")
        try:
            if tokens is not None:
                options["token"] = _async_token_function(tokens) if self._is_async else _token_function(tokens)
            if self._is_async:
                self._client = palaver.AsyncClient(**options)
            else:
                self._client = SyncAsAsync(palaver.Client(**options))
        except ValueError:
            self._client = None
            _report(client="refused")
        else:
            _report(client="ready")

    async def _call(self, command: dict[str, Any]) -> None:
        name, method = command["id"], command["call"]
        arguments = {**_REQUIRED.get(method, {}), **_arguments(command["request"])}
        if "timeout" in command:
            arguments["timeout"] = command["timeout"]
        try:
            if method.startswith("PostUserQuery") and method != "PostUserQueryUnary":
                await self._stream(name, arguments, text_only=method == "PostUserQueryText")
                _report(id=name, response={})
            elif method == "ListMessages":
                async for message in self._client.list_messages(**arguments):
                    _report(id=name, message=_message(message, "message"))
                _report(id=name, response={})
            else:
                response = await getattr(self._client, _METHODS[method])(**arguments)
                _report(id=name, response=_response(method, response))
        except palaver.PalaverError as error:
            _report(id=name, error=_error(error))
        except asyncio.CancelledError:
            cancelled = palaver.CanceledError("the call was cancelled", grpc.StatusCode.CANCELLED)
            _report(id=name, error=_error(cancelled))

    async def _stream(self, name: str, arguments: dict[str, Any], *, text_only: bool) -> None:
        reply = self._replies[name] = self._client.post_user_query(**arguments)
        _report(id=name, request_id=reply.request_id)
        if text_only:
            async with aclosing(reply.text) as pieces:
                async for piece in pieces:
                    _report(id=name, text=piece)
        else:
            async for event in reply:
                _report(id=name, event={_EVENTS[type(event)]: _message(event)})


def _response(method: str, response: Any) -> dict[str, Any]:
    if method == "GetAssistant":
        return {"assistant": _message(response)}
    if method == "PostUserQueryUnary":
        return {"completed": _message(response)}
    return {} if response is None else dict(_message(response))


async def main() -> None:
    session = Session(is_async=sys.argv[1:] == ["async-client"])
    while line := await asyncio.to_thread(sys.stdin.readline):
        await session.run(json.loads(line))
    await session.close()


if __name__ == "__main__":
    asyncio.run(main())
