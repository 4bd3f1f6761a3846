"""Attacks by what model endpoints send."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from palaver.v1 import assistant_service_pb2 as pb
from tests.attack.attack import Attack
from tests.attack.callers import ASSISTANT, create
from tests.attack.target import Answer, Target, crowd, query
from tests.support.endpoint import USAGE, Call, Endpoint, Refusal, Stream, event

MIB = 2**20
BOMB = 100
"""The MiB that a bomb inflates to."""

FLOOD_SECONDS = 3.0


@dataclass(frozen=True)
class RawAnswer:
    """A response with any head and any body, after which the connection is closed."""

    body: bytes = b""
    status: str = "200 OK"
    headers: tuple[tuple[str, str], ...] = field(default=(("Content-Type", "text/event-stream"),))

    async def play(self, call: Call) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        call.writer.write(f"HTTP/1.1 {self.status}\r\n{lines}Connection: close\r\n\r\n".encode("latin-1") + self.body)
        await call.writer.drain()
        call.hang_up()


@dataclass(frozen=True)
class Numbered:
    """Answers each call with the answer whose number is the user's message."""

    answers: Sequence[Any]

    async def play(self, call: Call) -> None:
        await self.answers[int(call.body["messages"][-1]["content"])].play(call)


async def post_each(target: Target, answers: Mapping[str, Any], at_once: int) -> None:
    """Posts a query for each answer of the endpoint, some of them at once."""
    target.endpoint.default = Numbered([*answers.values()])
    numbers = iter(enumerate(answers))
    callers = itertools.count()

    async def caller() -> None:
        name = f"{ASSISTANT} {next(callers)}"
        await target.call("CreateAssistant", pb.CreateAssistantRequest(id=name, instructions=""))
        history = pb.History(max_messages=0)
        for number, what in numbers:
            await target.call("PostUserQuery", query(name, str(number), history=history), what=what)

    await crowd(at_once, caller)


async def post(target: Target, what: str, **fields: object) -> Answer:
    """Posts a query to the attacked assistant."""
    return await target.call("PostUserQuery", query(ASSISTANT, **fields), what=what)


def _bomb(begin: bytes, end: bytes = b"") -> bytes:
    return gzip.compress(begin + b"a" * (BOMB * MIB) + end, 9)


async def inflated_errors(target: Target) -> None:
    """Refuses calls with small bodies that inflate to large ones."""
    await create(target)
    bodies = {"JSON": _bomb(b'{"error": {"message": "', b'"}}'), "text": _bomb(b"")}
    for status in (400, 500):
        for what, body in bodies.items():
            target.endpoint.script(*[Refusal(status, body=body, headers={"Content-Encoding": "gzip"})] * 3)
            await post(target, f"an inflated error {status} of {what}")
            target.endpoint.forget()


async def large_errors(target: Target) -> None:
    """Refuses a call with a body of 100 MiB, and another one with a body that does not end."""
    await create(target)
    target.endpoint.script(RawAnswer(b"a" * (BOMB * MIB), "400 Bad Request", (("Content-Type", "text/plain"),)))
    await post(target, "a large error")
    target.endpoint.script(Drip("400 Bad Request"))
    await post(target, "an error that does not end")


@dataclass(frozen=True)
class Drip:
    """A response whose body is sent a byte at a time, for as long as the caller listens."""

    status: str

    async def play(self, call: Call) -> None:
        call.writer.write(f"HTTP/1.1 {self.status}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        while True:
            await call.send(b"x")
            await asyncio.sleep(0.01)  # the pace of the drip


async def redirects(target: Target) -> None:
    """Redirects calls to another server, which must not get the conversation."""
    await create(target)
    async with Endpoint() as elsewhere:
        for status in (301, 302, 303, 307, 308):
            for location in (f"{elsewhere.url}/chat/completions", f"//{elsewhere.url.split('//')[1]}/x"):
                target.endpoint.script(*[Refusal(status, headers={"Location": location})] * 3)
                await post(target, f"a redirect {status}")
                target.endpoint.forget()
        if elsewhere.calls:
            target.found(
                f"{len(elsewhere.calls)} of 10 redirects were followed, the first to {elsewhere.calls[0].path}"
            )


def flood(pieces: Callable[[Call], Iterator[bytes]]) -> Stream:
    """Returns a stream of many small events, written together, as fast as the server reads."""

    async def play(call: Call) -> None:
        waiting = bytearray()
        for piece in pieces(call):
            waiting += piece
            if len(waiting) > 65_536:
                await call.send(bytes(waiting))
                waiting.clear()
        await call.send(bytes(waiting) or b"\n")

    return Stream(play, finish="tool_calls")


def tool_call(call: Call, *parts: object) -> bytes:
    """Returns an event with parts of skill calls."""
    return call.chunk({"tool_calls": list(parts)})


async def small_arguments(target: Target) -> None:
    """Writes the arguments of a skill call in pieces of 8 bytes, with all the ways to say which call they belong to."""
    await create(target)
    ways: tuple[Callable[[int], dict[str, Any]], ...] = (
        lambda number: {"index": 0},
        lambda number: {"index": 0, "id": "call_1", "name": "s"},
        lambda number: {"index": 0, "id": f"call_{number}", "name": "s"},
        lambda number: {"id": "call_1"},
        lambda number: {},
    )
    for way in ways:

        def pieces(call: Call, way: Callable[[int], dict[str, Any]] = way) -> Iterator[bytes]:
            yield tool_call(call, {"index": 0, "id": "call_1", "function": {"name": "s", "arguments": '{"a": "'}})
            for number in range(55_000):
                part = way(number)
                name = {"name": part.pop("name")} if "name" in part else {}
                yield tool_call(call, {**part, "function": {**name, "arguments": "x" * 8}})
            yield tool_call(call, {"index": 0, "function": {"arguments": '"}'}})

        target.endpoint.script(flood(pieces))
        await post(target, f"small pieces of arguments with {way(1)}", caller_skills=[{"name": "s"}])
        target.endpoint.forget()


async def empty_calls(target: Target) -> None:
    """Writes hundreds of thousands of empty skill calls, at once and one by one."""
    await create(target)

    def together(call: Call) -> Iterator[bytes]:
        for number in range(600):
            yield tool_call(call, *({"index": number * 1_000 + part} for part in range(1_000)))

    def one_by_one(call: Call) -> Iterator[bytes]:
        for number in range(100_000):
            yield tool_call(call, {"index": number, "id": f"{number}", "function": {"name": "", "arguments": ""}})

    for pieces in (together, one_by_one):
        target.endpoint.script(flood(pieces))
        await post(target, "empty calls", caller_skills=[{"name": "s"}])
        target.endpoint.forget()


async def uncounted_text(target: Target) -> None:
    """Writes 100 MiB in each place that is not the text of the reply."""
    await create(target)
    text = "x" * 10_000
    deltas = (
        {"reasoning_content": text},
        {"reasoning": text},
        {"refusal": text},
        {"unknown": text},
        {"tool_calls": [{"index": 0, "id": text, "function": {"name": "s"}}]},
        {"tool_calls": [{"index": 0, "function": {"name": text}}]},
        {"tool_calls": [{"index": 0, "extra_content": {"google": {"thought_signature": text}}}]},
    )
    for delta in deltas:
        target.endpoint.script(flood(lambda call, delta=delta: iter([call.chunk(delta)] * (BOMB * 100))))
        await post(target, f"100 MiB of {str(delta)[:60]}", caller_skills=[{"name": "s"}])
        target.endpoint.forget()


async def idle_events(target: Target) -> None:
    """Sends what says nothing, as fast as the server reads: comments, blank lines, empty chunks, usage."""
    await create(target)
    chunks: tuple[Callable[[Call], bytes], ...] = (
        lambda call: b": x\n",
        lambda call: b"\n",
        lambda call: b"event: x\n\n",
        lambda call: b"data:\n\n",
        lambda call: call.chunk({}),
        lambda call: call.chunk({"content": ""}),
        lambda call: call.chunk(usage=USAGE),
        lambda call: event({}),
    )

    for chunk in chunks:

        async def play(call: Call, chunk: Callable[[Call], bytes] = chunk) -> None:
            data = chunk(call)
            data *= 65_536 // len(data)
            end = asyncio.get_running_loop().time() + target.seconds(FLOOD_SECONDS)
            while asyncio.get_running_loop().time() < end:
                await call.send(data)

        target.endpoint.script(Stream(play, "Hello"))
        await post(target, "events that say nothing")
        target.endpoint.forget()


HUGE = 3_900_000


async def huge_events(target: Target) -> None:
    """Sends single events just below the largest that is read, of every shape."""
    nested = HUGE // 2
    shapes: dict[str, bytes] = {
        "nested lists": b'{"choices": ' + b"[" * nested + b"]" * nested + b"}",
        "many choices": b'{"choices": [' + b"{}," * (HUGE // 3) + b"{}]}",
        "many calls": b'{"choices": [{"delta": {"tool_calls": [' + b"{}," * (HUGE // 3) + b"{}]}}]}",
        "many parts": b'{"choices": [{"delta": {"content": [' + b"{}," * (HUGE // 3) + b"{}]}}]}",
        "many names": b"{" + b",".join(b'"%d":1' % n for n in range(HUGE // 11)) + b"}",
        "a long number": b'{"created": ' + b"9" * HUGE + b"}",
        "surrogates": b'{"choices": [{"delta": {"content": "' + rb"\ud800" * (HUGE // 6) + b'"}}]}',
        "broken JSON": b"{" * HUGE,
        "many lines": b"data: x\n" * (HUGE // 8),
    }
    answers: dict[str, RawAnswer] = {}
    for what, data in shapes.items():
        body = (data if data.startswith(b"data") else b"data: " + data) + b"\n\ndata: [DONE]\n\n"
        answers[f"an event of {what}"] = RawAnswer(body)
        answers[f"a document of {what}"] = RawAnswer(data, headers=(("Content-Type", "application/json"),))
    await post_each(target, answers, at_once=2)


MAX_MODEL_NAME = 1_024
"""The characters of a model's name that may be stored. The longest real ones have about a hundred."""


async def huge_model_name(target: Target) -> None:
    """Reports a name of the model that is as long as an event may be."""
    await create(target)
    head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m" * HUGE}
    chunk = event({**head, "choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": "stop"}]})
    target.endpoint.script(Stream(chunk))
    answer = await post(target, "a long model name")
    if answer.responses:
        last = pb.PostUserQueryResponse.FromString(answer.responses[-1])
        if len(last.completed.chat_model) > MAX_MODEL_NAME:
            target.found(f"a model name of {len(last.completed.chat_model):,} characters is stored")


async def unfinished_ends(target: Target) -> None:
    """Ends replies with a finish reason, but without the end mark, on a connection that stays open."""
    await create(target)

    async def stay(call: Call) -> None:
        await call.send(call.chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage=USAGE))
        await asyncio.Event().wait()

    target.endpoint.script(*[Stream("Hello", stay)] * 3)
    answer = await post(target, "a finish reason without an end mark")
    if answer.status != "OK":
        target.found(f"a reply with a finish reason was lost: {answer.status} {answer.reason}: {answer.text}")


async def inflated_streams(target: Target) -> None:
    """Streams small bodies that inflate to large ones: an endless line, comments, text."""
    await create(target)
    chunk = event({"choices": [{"index": 0, "delta": {"content": "water " * 100}}]})
    bodies = (b"data: " + b"x" * (BOMB * MIB), b": x\n" * (BOMB * MIB // 4), chunk * (BOMB * MIB // len(chunk)))
    for body in bodies:
        headers = (("Content-Type", "text/event-stream"), ("Content-Encoding", "gzip"))
        target.endpoint.script(*[RawAnswer(gzip.compress(body, 9), headers=headers)] * 3)
        await post(target, "an inflated stream")
        target.endpoint.forget()


ODD_HEADERS = (
    ("Retry-After", "inf"),
    ("Retry-After", "1e300"),
    ("Retry-After", "nan"),
    ("Retry-After", "-1"),
    ("Retry-After", "9" * 400),
    ("Retry-After", "Fri, 31 Dec 99999 23:59:59 GMT"),
    ("retry-after-ms", "1e308"),
    ("X-Large", "x" * 20_000),
    ("Content-Length", "-1"),
    ("Content-Length", "1e3"),
    ("Content-Encoding", "gzip, gzip, br"),
    ("Transfer-Encoding", "gzip"),
    ("Bad name", "x"),
    ("Nul", "\0"),
    ("Location", "http://[::1"),
)
ODD_BODIES = (
    rb'{"error": {"message": "\ud800", "code": "\udfff"}}',
    b'{"error": {"message": 1e999, "code": NaN}}',
    b'{"error": {"retryDelay": "1e300s"}}',
    b'{"error": {"details": [{"retryDelay": "infs"}, {"retryDelay": "' + b"9" * 5_000 + b's"}]}}',
    b'{"error": ' + b"[" * 100_000,
    b'{"error": {"code": ' + b"9" * 5_000 + b"}}",
    rb'{"\ud800": 1}',
    b"\xff\xfe\x00",
    b"",
)


async def odd_errors(target: Target) -> None:
    """Refuses calls with odd headers and odd bodies."""
    json_type = ("Content-Type", "application/json")
    answers: dict[str, RawAnswer] = {}
    for status in ("400 Bad", "429 Slow", "503 Down", "200 OK", "999 Odd"):
        for name, value in ODD_HEADERS:
            body = b'{"error": {"message": "no"}}'
            answers[f"{status} with {name}: {value[:30]}"] = RawAnswer(body, status, (json_type, (name, value)))
        for body in ODD_BODIES:
            answers[f"{status} with {body[:60]!r}"] = RawAnswer(body, status, (json_type,))
    await post_each(target, answers, at_once=16)


ODD_ARGUMENTS = (
    r'{"\ud800": 1}',
    r'{"a": "\udfff"}',
    '{"a": ' + "9" * 4_000 + "}",
    '{"a": 1e999}',
    '{"a": NaN}',
    '{"a": ' + "[" * 50_000 + "]" * 50_000 + "}",
    '{"a": 1, "a": 2}',
    "[]",
    "",
    "\0",
)


async def odd_arguments(target: Target) -> None:
    """Calls a skill with arguments that JSON has no good answer for, and goes on with the conversation."""
    await create(target)
    for arguments in ODD_ARGUMENTS:
        for name in ("s", "\ud800", "x" * 10_000):

            async def play(call: Call, arguments: str = arguments, name: str = name) -> None:
                await call.send(
                    tool_call(call, {"index": 0, "id": "1", "function": {"name": name, "arguments": arguments}})
                )

            target.endpoint.script(Stream(play, finish="tool_calls"))
            skill = {"name": "s", "parameters_json_schema": json.dumps({"type": "object"})}
            await post(target, f"the arguments {arguments[:40]!r} of {name[:10]!r}", caller_skills=[skill])
            target.endpoint.forget()
    await target.call("ListMessages", pb.ListMessagesRequest(id=ASSISTANT))


SHORT_WAITS = {"PALAVER_FIRST_TOKEN_TIMEOUT": "3", "PALAVER_TOKEN_TIMEOUT": "2", "PALAVER_TURN_TIMEOUT": "20"}

ATTACKS = (
    Attack("endpoint: errors that inflate to 100 MiB", inflated_errors),
    Attack("endpoint: errors of 100 MiB and without end", large_errors, variables=SHORT_WAITS),
    Attack("endpoint: redirects", redirects),
    Attack("endpoint: arguments in pieces of 8 bytes", small_arguments),
    Attack("endpoint: empty skill calls", empty_calls),
    Attack("endpoint: 100 MiB beside the text", uncounted_text),
    Attack("endpoint: events that say nothing", idle_events, variables=SHORT_WAITS),
    Attack("endpoint: events of 4 MB", huge_events, max_growth=128, time_limit=120),
    Attack("endpoint: a model name of 4 MB", huge_model_name),
    Attack("endpoint: a reply without an end mark", unfinished_ends, variables=SHORT_WAITS),
    Attack("endpoint: streams that inflate to 100 MiB", inflated_streams, variables=SHORT_WAITS),
    Attack("endpoint: errors that make no sense", odd_errors, variables=SHORT_WAITS, time_limit=120),
    Attack("endpoint: arguments that make no sense", odd_arguments),
)
