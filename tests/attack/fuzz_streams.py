"""Generated responses of a model endpoint: chunks with odd values, damaged bytes, odd heads and broken connections."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import random
import re
from collections.abc import Callable
from typing import Any

from palaver.v1 import assistant_service_pb2 as pb
from tests.attack.attack import Attack
from tests.attack.endpoints import ODD_BODIES, ODD_HEADERS, SHORT_WAITS
from tests.attack.fuzz_requests import damaged
from tests.attack.skill_hosts import GOOD, LISTING_WAIT, listing
from tests.attack.target import Target, crowd, query
from tests.support.endpoint import USAGE, Call, event
from tests.support.skill_host import SkillHost, content

STREAMS = 100_000
CALLERS = 24
NUMBER = re.compile(r"stream (\d+)")

ODD_JSON = (
    "null", "true", "0", "-1", "1e999", "NaN", "9" * 400, "9" * 5_000, '""', '"x"', r'"\ud800"', r'"\udfff\ud800"',
    r'"\u0000"', "[]", "{}", "[[]]", '{"a": 1}', '"' + "x" * 20_000 + '"', "[" * 2_000, '"\U0001f30a"', "1.5", '"1"',
)  # fmt: skip

STATUSES = (
    200, 201, 204, 206, 301, 304, 307, 400, 400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 429, 500, 502, 503, 504,
    529, 599, 600, 999,
)  # fmt: skip

REASONS = ("stop", "length", "tool_calls", "content_filter", "function_call", "", "error", "made_up")
FUNCTIONS = (GOOD, "bad_0", "mine", "unknown", "")
ARGUMENTS = ("{}", '{"a": "b"}', '{"a"', '": "b"}', r'{"\ud800": 1}', "[]", "", "NaN", '{"a": 1e999}', "9" * 4_000)


def _text(choices: random.Random) -> Any:
    return choices.choice(["Hello", " ", "", "\u6c34", "\U0001f30a", "x" * 300, "\ud83c", "\udf0a"])


def _call_part(choices: random.Random) -> dict[str, Any]:
    part: dict[str, Any] = {"index": choices.choice([0, 0, 1, 2, -1, 10**9])}
    if choices.random() < 0.6:
        part["id"] = choices.choice(["call_1", "call_2", "", "x" * 300])
    if choices.random() < 0.9:
        part["function"] = {"name": choices.choice(FUNCTIONS), "arguments": choices.choice(ARGUMENTS)}
    return part


def _delta(choices: random.Random) -> dict[str, Any]:
    fields: dict[str, Callable[[], Any]] = {
        "content": lambda: _text(choices),
        "role": lambda: "assistant",
        "reasoning_content": lambda: _text(choices),
        "refusal": lambda: _text(choices),
        "tool_calls": lambda: [_call_part(choices) for _ in range(choices.randrange(1, 4))],
        "function_call": lambda: {"name": GOOD, "arguments": "{}"},
    }
    weights = (10, 2, 1, 1, 4, 1)
    names = choices.choices([*fields], weights, k=choices.randrange(1, 3))
    return {name: fields[name]() for name in names}


def _chunk(delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
        **more,
    }


def _event(choices: random.Random, data: dict[str, Any], oddness: float) -> bytes:
    """Returns an event with a chunk, in which one value may be replaced by an odd one."""
    if choices.random() >= oddness:
        return event(data)
    text = json.dumps(data)
    values = [match.span() for match in re.finditer(r'(?<=: )("[^"]*"|[\d.]+|null|\[\]|\{\})', text)]
    begin, end = choices.choice(values)
    odd = choices.choice(ODD_JSON)
    return b"data: " + (text[:begin] + odd + text[end:]).encode() + choices.choice([b"\n\n", b"\n", b"\r\n\r\n", b"\r"])


def _body(choices: random.Random) -> bytes:
    """Returns the bytes of a stream."""
    oddness = choices.choice([0, 0, 0.1, 0.5])
    events = [_event(choices, _chunk(_delta(choices)), oddness) for _ in range(choices.randrange(6))]
    if choices.random() < 0.9:
        reason = choices.choice(REASONS) if choices.random() < 0.5 else "stop"
        events.append(_event(choices, _chunk({}, reason, usage=USAGE), oddness))
    if choices.random() < 0.1:
        events.insert(choices.randrange(len(events) + 1), b"data: " + choices.choice(ODD_BODIES)[:3_000] + b"\n\n")
    if choices.random() < 0.9:
        events.append(b"data: [DONE]\n\n")
    data = b"".join(events)
    return damaged(choices, data) if choices.random() < 0.1 else data


def _document(choices: random.Random) -> bytes:
    """Returns a body that is no stream: an error or a completion."""
    message = {"role": "assistant", "content": _text(choices), "tool_calls": [_call_part(choices)]}
    completion = {"id": "1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    error = {"error": {"message": "no", "code": choices.choice(["rate_limit_exceeded", "x", None, 429]), "type": "x"}}
    bodies = [json.dumps(completion).encode(), json.dumps(error).encode(), *ODD_BODIES]
    data = choices.choice(bodies)
    return damaged(choices, data) if choices.random() < 0.2 else data


def generated_response(choices: random.Random) -> bytes:
    """Returns a response: its head and its body."""
    status = 200 if choices.random() < 0.7 else choices.choice(STATUSES)
    is_stream = choices.random() < (0.9 if status == 200 else 0.2)
    body = _body(choices) if is_stream else _document(choices)
    headers = [("Content-Type", "text/event-stream" if is_stream else "application/json")]
    if choices.random() < 0.1:
        body = gzip.compress(body)
        headers.append(("Content-Encoding", choices.choice(["gzip", "gzip", "deflate", "br", "x"])))
    if choices.random() < 0.15:
        headers.append(choices.choice(ODD_HEADERS))
    if choices.random() < 0.5:
        headers.append(("Content-Length", str(len(body) + choices.choice([0, 0, 0, 0, 1, -1]))))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    data = f"HTTP/1.1 {status} Status\r\n{head}Connection: close\r\n\r\n".encode("latin-1") + body
    return damaged(choices, data) if choices.random() < 0.02 else data


class Generated:
    """Answers each model call with a response that depends only on the seed and on the numbers of stream and call."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._calls: dict[str, int] = {}
        self.count = 0

    async def play(self, call: Call) -> None:
        """Sends the response in a few pieces and closes or resets the connection."""
        self.count += 1
        call.headers.clear()
        numbers = NUMBER.findall(json.dumps(call.body["messages"]))
        number = numbers[-1] if numbers else "none"
        place = self._calls[number] = self._calls.get(number, -1) + 1
        choices = self._target.choices(f"stream {number}, call {place}")
        data = generated_response(choices)
        while data:
            size = choices.choice([len(data), 1 + len(data) // 3])
            call.writer.write(data[:size])
            await call.writer.drain()
            data = data[size:]
        if choices.random() < 0.002:
            await asyncio.Event().wait()  # the server has to give up
        call.hang_up(reset=choices.random() < 0.05)


MINE = {"name": "mine", "parameters_json_schema": '{"type": "object", "properties": {"a": {"type": "string"}}}'}


async def fuzz(target: Target) -> None:
    """Posts queries until the endpoint has sent enough generated responses."""
    replies = Generated(target)
    target.endpoint.default = replies
    numbers = itertools.count() if target.size.replay is None else iter([target.size.replay])
    names = itertools.count()

    async def caller() -> None:
        # Each turn has a conversation of its own, so that no stream depends on the ones before it.
        for number in numbers:
            if replies.count >= target.count(STREAMS):
                return
            name = f"stream {number} {next(names)}"
            target.endpoint.calls.clear()
            await target.call("CreateAssistant", pb.CreateAssistantRequest(id=name, instructions=""))
            skills = [MINE] if number % 3 else []
            request = query(name, f"stream {number}", caller_skills=skills, skill_names=[GOOD] if number % 2 else [])
            await target.call("PostUserQuery", request, what=f"stream {number}")

    async with SkillHost(address=target.skill_host, good=lambda request: content("ok")) as host:
        host.listing = listing('{"type": "object", "properties": {"a": {"type": "string"}}}')
        await asyncio.wait_for(host.listed.wait(), LISTING_WAIT)
        await crowd(CALLERS, caller)
    target.notes.append(f"{replies.count:,} streams")


ATTACKS = (Attack("fuzz: generated endpoint streams", fuzz, max_growth=256, variables=SHORT_WAITS, time_limit=7_200),)
