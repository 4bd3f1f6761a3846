"""Attacks by what callers send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import cycle, islice

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from palaver.v1 import assistant_pb2
from palaver.v1 import assistant_service_pb2 as pb
from tests.attack.attack import Attack
from tests.attack.http2 import ATTACKERS, RawConnection, connection, grpc_frame
from tests.attack.target import METHODS, Target, query
from tests.support.endpoint import Call, Stream, skill_calls

ASSISTANT = "attacked"
PATH = "/palaver.v1.AssistantService"
LARGEST_MESSAGE = 450_000
NEARLY_A_REQUEST = 2 * 1024 * 1024 - 1024


async def create(target: Target, instructions: str = "") -> None:
    """Creates the assistant that the attack uses."""
    await target.call("CreateAssistant", pb.CreateAssistantRequest(id=ASSISTANT, instructions=instructions))


async def distinct_skill_results(target: Target) -> None:
    """Posts many results of skill calls that nobody asked for."""
    await create(target)
    results = [assistant_pb2.SkillResult(id=f"{number:x}", content="") for number in range(25_000)]
    await target.call("PostUserQuery", pb.PostUserQueryRequest(id=ASSISTANT, skill_results=results))


async def distinct_caller_skills(target: Target) -> None:
    """Posts many more skills than a request may have."""
    await create(target)
    skills = [assistant_pb2.Skill(name=f"s{number:x}") for number in range(40_000)]
    await target.call("PostUserQuery", query(ASSISTANT, caller_skills=skills))


async def full_fields(target: Target) -> None:
    """Fills one field after the other of every request with as much as a request may have."""
    await create(target)
    for method in METHODS.values():
        for path, request in _filled(method.input_type, NEARLY_A_REQUEST):
            await target.call(method.name, request, what=f"{method.name} with a full {path}")


def _filled(descriptor: Descriptor, size: int) -> Iterator[tuple[str, Message]]:
    """Yields messages with one field each, which is as large as the size allows. Elements of a list are distinct."""
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for path, part in _filled(field.message_type, size if not field.is_repeated else 12):
                message = GetMessageClass(descriptor)()
                if field.is_repeated:
                    [(inner, _)] = part.ListFields()
                    elements = (_numbered(field.message_type, inner, number) for number in range(size // 12))
                    getattr(message, field.name).extend(elements)
                else:
                    getattr(message, field.name).MergeFrom(part)
                yield f"{field.name}.{path}", _named(message)
        elif field.type == FieldDescriptor.TYPE_STRING:
            message = GetMessageClass(descriptor)()
            if field.is_repeated:
                getattr(message, field.name).extend(f"{number:x}" for number in range(size // 8))
            else:
                setattr(message, field.name, "x" * size)
            yield field.name, _named(message)


def _named(message: Message) -> Message:
    if "id" in message.DESCRIPTOR.fields_by_name and message.DESCRIPTOR.name.endswith("Request") and not message.id:
        message.id = ASSISTANT
    return message


def _numbered(descriptor: Descriptor, field: FieldDescriptor, number: int) -> Message:
    return GetMessageClass(descriptor)(**{field.name: f"{number:x}"})


SLOW_SCHEMAS = {
    "a pattern of character ranges": json.dumps({"pattern": "[\u0100-\uffff0]" * 1_500}),
    "a pattern of nested repeats": json.dumps({"pattern": "((((a{1,50}){1,50}){1,50}){1,50}){1,50}"}),
    "many empty schemas": json.dumps({"allOf": [{}] * 10_900}, separators=(",", ":")),
    "many properties": json.dumps({"properties": {f"{n:x}": {} for n in range(3_000)}}, separators=(",", ":")),
    "deep nesting": '{"not":' * 3_000 + "{}" + "}" * 3_000,
    "many definitions": json.dumps({"$defs": {f"{n:x}": {"$ref": f"#/$defs/{n + 1:x}"} for n in range(900)}}),
}
"""Schemas within the limit of a request that are expensive to check or to compile."""


async def slow_schemas(target: Target) -> None:
    """Posts skills whose schemas are expensive."""
    await create(target)
    for what, schema in SLOW_SCHEMAS.items():
        skill = assistant_pb2.Skill(name="slow", parameters_json_schema=schema)
        await target.call("PostUserQuery", query(ASSISTANT, caller_skills=[skill]), what=f"a schema with {what}")


ODD_SCHEMAS = (
    '{"maximum": NaN}',
    '{"maximum": -Infinity}',
    '{"maximum": 1e999}',
    '{"maximum": ' + "9" * 5_000 + "}",
    r'{"title": "\ud800"}',
    r'{"\udfff": {}}',
    r'{"pattern": "\ud800"}',
    '{"$schema": []}',
    '{"$schema": {}}',
    '{"$schema": "http://127.0.0.1:9/schema"}',
    '{"$id": 1}',
    '{"$id": "http://[::1", "$ref": "x"}',
    '{"$ref": "#/$defs/missing"}',
    '{"$ref": "http://127.0.0.1:9/"}',
    '{"$ref": "#"}',
    '{"$dynamicRef": "#a", "$dynamicAnchor": "a"}',
    '{"pattern": "("}',
    '{"patternProperties": {"(": {}}}',
    '{"multipleOf": 1e-320, "type": "object"}',
    '{"type": "object", "type": 5}',
    "[]",
    "null",
    '"',
    "[" * 30_000,
    "\ufeff{}",
    "{}\x00",
)
"""Schemas that JSON, JSON Schema or a validator has no good answer for."""


async def odd_schemas(target: Target) -> None:
    """Posts skills with odd schemas, which the model then calls."""
    await create(target)
    for schema in ODD_SCHEMAS:
        target.endpoint.script(skill_calls(("odd", '{"a": 1e999, "b": [NaN]}')))
        skill = assistant_pb2.Skill(name="odd", parameters_json_schema=schema)
        await target.call("PostUserQuery", query(ASSISTANT, caller_skills=[skill]), what=f"the schema {schema[:60]!r}")
        target.endpoint.forget()


SLOW_CHECKS = {
    "a pattern that backtracks": (
        {"properties": {"text": {"pattern": "^(a+)+$"}}},
        {"text": "a" * 27 + "!"},
    ),
    "a pattern of names that backtracks": (
        {"patternProperties": {"^(a|aa)+$": {}}},
        {"a" * 38 + "!": 1},
    ),
    "unique items": (
        {"properties": {"items": {"uniqueItems": True}}},
        {"items": [{"n": number} for number in range(4_000)]},
    ),
    "many wrong items": (
        {"properties": {"items": {"items": {"type": "string"}}}},
        {"items": [1] * 200_000},
    ),
    "one wrong large item": (
        {"properties": {"items": {"type": "string"}}},
        {"items": [1] * 200_000},
    ),
    "a reference to itself": (
        {"properties": {"child": {"$ref": "#"}}},
        {},
    ),
    "many alternatives": (
        {"properties": {"items": {"items": {"anyOf": [{"const": number} for number in range(200)]}}}},
        {"items": ["x"] * 2_000},
    ),
    "alternatives of alternatives": (
        {
            "$defs": {str(n): {"anyOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(16)} | {"16": False},
            "properties": {"text": {"$ref": "#/$defs/0"}},
        },
        {"text": "x"},
    ),
}
"""Schemas and arguments whose check is expensive."""

MAX_COMPLAINT = 4_096
"""The characters that a complaint about arguments may have: five, each with an excerpt of the value."""


async def slow_checks(target: Target) -> None:
    """Posts skills whose schemas are harmless by themselves. The model calls them with expensive arguments."""
    await create(target)
    for what, (schema, arguments) in SLOW_CHECKS.items():
        target.endpoint.script(skill_calls(("slow", json.dumps(arguments))))
        skill = assistant_pb2.Skill(name="slow", parameters_json_schema=json.dumps({"type": "object", **schema}))
        answer = await target.call("PostUserQuery", query(ASSISTANT, caller_skills=[skill]), what=what)
        check_complaints(target, what, answer.responses)
        target.endpoint.forget()


def check_complaints(target: Target, what: str, responses: tuple[bytes, ...]) -> None:
    """Records results of skills that quote too much of the arguments that they complain about."""
    for response in responses:
        error = pb.PostUserQueryResponse.FromString(response).skill_result.error
        if len(error) > MAX_COMPLAINT:
            target.found(f"{what}: a complaint of {len(error):,} characters is stored")


async def huge_window(target: Target) -> None:
    """Stores large messages and asks for all of them in one prompt."""
    await create(target)
    text = "\u6c34" * LARGEST_MESSAGE
    none = pb.History(max_messages=0)
    for _ in range(max(50, target.count(100))):
        await target.call("PostUserQueryUnary", query(ASSISTANT, text, history=none))
    for _ in range(2):
        await target.call("PostUserQuery", query(ASSISTANT, "all", history=pb.History(max_messages=65_535)))


async def store_page(target: Target) -> None:
    """Fills the assistant with messages that make a page as large as pages get."""
    await create(target, "x" * LARGEST_MESSAGE)
    for _ in range(6):
        await target.call(
            "PostUserQueryUnary", query(ASSISTANT, "x" * LARGEST_MESSAGE, history=pb.History(max_messages=0))
        )


async def unread_pages(target: Target, sources: Sequence[str]) -> None:
    """Asks for pages on connections whose window is 0, and waits for a while."""
    await store_page(target)
    request = pb.ListMessagesRequest(id=ASSISTANT, page_size=1_000).SerializeToString()

    async def caller(source: str) -> None:
        async with connection(target.address, source=source, window=0) as raw:
            for _ in range(200 // CONNECTIONS):
                if raw.is_closed.is_set():
                    break
                raw.post(f"{PATH}/ListMessages", request)
                await raw.flush()
                await asyncio.sleep(0.02)  # the pace of the attack
            await asyncio.sleep(target.seconds(5))  # the time for which the pages are not read

    await asyncio.gather(*(caller(source) for source in _spread(sources)))


CONNECTIONS = 16


def _spread(sources: Sequence[str]) -> Iterator[str]:
    """Returns the source of each connection."""
    return islice(cycle(sources), CONNECTIONS)


async def unread_reply(target: Target) -> None:
    """Asks for endless replies on a connection whose window is 0."""
    for number in range(20):
        await target.call("CreateAssistant", pb.CreateAssistantRequest(id=f"{ASSISTANT} {number}", instructions=""))

    async def pour(call: Call) -> None:
        data = call.chunk({"content": "water " * 200})
        for _ in range(20_000):
            await call.send(data)

    target.endpoint.default = Stream(pour)
    async with connection(target.address, window=0) as raw:
        for number in range(20):
            raw.post(f"{PATH}/PostUserQuery", query(f"{ASSISTANT} {number}").SerializeToString())
        await raw.flush()
        await asyncio.sleep(target.seconds(5))  # the time for which the replies are not read


async def stalled_uploads(target: Target, sources: Sequence[str]) -> None:
    """Sends requests up to their last bytes, and waits for a while."""
    message = b"x" * NEARLY_A_REQUEST
    sent = 0

    async def caller(source: str) -> None:
        nonlocal sent
        async with connection(target.address, source=source) as raw:
            streams = {raw.open(f"{PATH}/GetAssistant"): grpc_frame(message)[:-8] for _ in range(20)}
            for _ in range(100):
                for stream, rest in list(streams.items()):
                    done = await _upload(raw, stream, rest)
                    sent += done
                    streams[stream] = rest[done:]
                if raw.is_closed.is_set() or not any(streams.values()):
                    break
                await asyncio.sleep(0.05)  # the server's window grows as it reads
            await asyncio.sleep(target.seconds(3))  # the time for which the uploads are stalled

    await asyncio.gather(*(caller(source) for source in _spread(sources)))
    target.notes.append(f"{sent / 2**20:,.0f} MiB uploaded")


async def _upload(raw: RawConnection, stream: int, data: bytes) -> int:
    """Uploads a part of the data. A stream that the server has refused takes no more."""
    try:
        return await raw.upload(stream, data)
    except Exception:  # whatever h2 or the socket says, this stream is over
        return 0


async def abandoned_turns(target: Target) -> None:
    """Posts turns that continue without their callers, and hangs up. Then another caller posts one."""
    await create(target)
    target.endpoint.default = Stream("Hello", asyncio.Event())
    for number in range(4):
        async with connection(target.address) as raw:
            for turn in range(250):
                name = f"left {number} {turn}"
                creating = pb.CreateAssistantRequest(id=name, instructions="")
                await target.call("CreateAssistant", creating)
                request = query(name, "x", on_disconnect=pb.ON_DISCONNECT_CONTINUE)
                raw.post(f"{PATH}/PostUserQuery", request.SerializeToString())
                await raw.flush()
    target.endpoint.default = Stream("Hello")
    answer = await target.call("PostUserQueryUnary", query(ASSISTANT))
    if answer.status != "OK":
        target.found(f"another caller's turn was refused: {answer.status} {answer.reason}: {answer.text}")


FOLLOWERS = 1_000


async def followers(target: Target) -> None:
    """Lets a thousand callers follow one turn."""
    await create(target)

    async def write(call: Call) -> None:
        # A piece for 1,000 followers takes the server about 100 ms, so it can't keep up with this pace.
        for number in range(120):
            await call.send(call.chunk({"content": f"word {number} "}))
            await asyncio.sleep(0.05)  # the pace of the model

    target.endpoint.default = Stream(write)
    whole = 0

    async def follow(place: int) -> None:
        nonlocal whole
        await asyncio.sleep(2 * place / FOLLOWERS)  # they come within two seconds
        answer = await target.call("PostUserQuery", query(ASSISTANT, request_id="followed"), channel=channel)
        events = [pb.PostUserQueryResponse.FromString(response) for response in answer.responses]
        whole += bool(events) and events[-1].WhichOneof("event") == "completed"

    # A connection may have 1,000 calls, and the second caller's is another one.
    async with target.channel() as channel:
        await asyncio.gather(*(follow(place) for place in range(FOLLOWERS)))
    if whole < FOLLOWERS:
        target.found(f"only {whole} of {FOLLOWERS:,} followers got the whole turn")


ATTACKS = (
    Attack("callers: 25,000 skill_results", distinct_skill_results),
    Attack("callers: 40,000 caller_skills", distinct_caller_skills),
    Attack("callers: every field as full as it gets", full_fields, max_growth=128),
    Attack("callers: schemas that are slow to check", slow_schemas),
    Attack("callers: schemas that make no sense", odd_schemas),
    Attack("callers: arguments that are slow to check", slow_checks, max_growth=96),
    Attack("callers: a window of 100 large messages", huge_window, max_growth=192),
    Attack("callers: pages that one address does not read", partial(unread_pages, sources=ATTACKERS[:1]), 192),
    Attack("callers: pages that nobody reads", partial(unread_pages, sources=ATTACKERS), max_growth=384),
    Attack("callers: replies that nobody reads", unread_reply),
    Attack("callers: uploads of one address that stall", partial(stalled_uploads, sources=ATTACKERS[:1]), 192),
    Attack("callers: uploads that stall near their end", partial(stalled_uploads, sources=ATTACKERS), max_growth=384),
    Attack("callers: 1,000 turns that nobody waits for", abandoned_turns, max_growth=192),
    Attack("callers: 1,000 followers of one turn", followers, max_growth=192),
)
