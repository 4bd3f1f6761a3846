"""Generated requests: valid and broken fields of every request, and bytes that are no request at all."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.attack.attack import Attack
from tests.attack.callers import ODD_SCHEMAS
from tests.attack.target import METHODS, Target, crowd
from tests.support.endpoint import Call, Stream, skill_calls

REQUESTS = 100_000
CALLERS = 24

SCHEMAS = ("", "{}", '{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}')

VALID: dict[str, Sequence[Any]] = {
    "id": [f"assistant {number}" for number in range(40)],
    "collection_name": ["", "", "", "ChatState", "Other"],
    "chat_storage_connection_setting": ["", "", "", "AzureWebJobsStorage"],
    "ai_connection_name": ["", "", "", "Spare"],
    "instructions": ["", "Be brief.", "\u6c34\U0001f30a" * 50],
    "user_message": ["Hello", "", "\u6c34\U0001f30a" * 50, "x" * 5_000],
    "chat_model": ["", "gpt-4o", "../admin"],
    "temperature": [0.0, 0.5, 2.0],
    "top_p": [0.1, 1.0],
    "max_tokens": [1, 100, 2**31 - 1],
    "max_messages": [0, 1, 100, 65_535],
    "request_id": ["", "", "", *(f"request-{number}" for number in range(100))],
    "page_size": [0, 1, 7, 1_000],
    "limit": [0, 1, 1_000],
    "page_token": ["", "", "", "AAAB", "e30="],
    "name": ["a", "look_up", "s" * 64],
    "description": ["", "A skill."],
    "parameters_json_schema": SCHEMAS,
    "skill_names": ["a", "*"],
    "content": ["ok", ""],
    "error": ["failed"],
    "seconds": [0, 1_700_000_000],
    "nanos": [0, 1],
}
"""Values that a field may have, by its name."""

ODD_TEXTS = (
    "",
    " ",
    "\0",
    "..",
    "/",
    "a/b\\c#d?e",
    "x" * 256,
    "x" * 70_000,
    "\u202e\u2066\U000e0041",
    "\U0001f30a" * 129,
    "\x1b[2J\x9b31m",
    "'; drop table messages; --",
    "%s%n{0}${HOME}",
    "Vault",
    "Spare",
    "Spare__Key",
    "OPENAI_API_KEY",
    "tables",
    "\ufeff",
    "NaN",
    *ODD_SCHEMAS,
)
ODD_NUMBERS = (0, 1, -1, 2, 99, 999, 2**31 - 1, -(2**31))
ODD_LARGE_NUMBERS = (*ODD_NUMBERS, 253_402_300_800, -62_135_596_801, 2**63 - 1, -(2**63))
ODD_FLOATS = (math.nan, math.inf, -math.inf, -0.0, 5e-324, 1e308, -1.0, 2.0000001)

ODD: dict[int, Sequence[Any]] = {
    FieldDescriptor.CPPTYPE_STRING: ODD_TEXTS,
    FieldDescriptor.CPPTYPE_DOUBLE: ODD_FLOATS,
    FieldDescriptor.CPPTYPE_INT32: ODD_NUMBERS,
    FieldDescriptor.CPPTYPE_ENUM: ODD_NUMBERS,
    FieldDescriptor.CPPTYPE_INT64: ODD_LARGE_NUMBERS,
    FieldDescriptor.CPPTYPE_BOOL: (False, True),
}
"""Values that a field should not have, by its type."""

METADATA: Sequence[tuple[str, str | bytes]] = (
    ("authorization", "Bearer \x7e"),
    ("authorization", "Basic " + "x" * 1_000),
    ("traceparent", "00-" + "f" * 32 + "-" + "f" * 16 + "-ff"),
    ("x-bin", b"\x00\xff" * 100),
    ("grpc-accept-encoding", "gzip, x"),
    ("grpc-encoding", "identity"),
    ("content-language", "%%%"),
)


def generated_message(choices: random.Random, descriptor: Descriptor, oddness: float) -> Message:
    """Returns a message whose fields have generated values. `oddness` is the share of odd ones."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if choices.random() < (0.98 if field.name == "id" else 0.35):
            _set(choices, message, field, oddness)
    return message


def _set(choices: random.Random, message: Message, field: FieldDescriptor, oddness: float) -> None:
    if field.message_type is not None and field.is_repeated:
        count = choices.choice([1, 1, 2, 3, 130 if choices.random() < oddness else 4])
        parts = (generated_message(choices, field.message_type, oddness) for _ in range(count))
        getattr(message, field.name).extend(parts)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(generated_message(choices, field.message_type, oddness))
    elif field.is_repeated:
        getattr(message, field.name).extend(_value(choices, field, oddness) for _ in range(choices.randrange(1, 4)))
    else:
        setattr(message, field.name, _value(choices, field, oddness))


def _value(choices: random.Random, field: FieldDescriptor, oddness: float) -> Any:
    if choices.random() >= oddness:
        if field.name in VALID:
            return choices.choice(VALID[field.name])
        if field.enum_type is not None:
            return choices.choice([value.number for value in field.enum_type.values])
    return choices.choice(ODD[field.cpp_type])


def damaged(choices: random.Random, data: bytes) -> bytes:
    """Returns bytes with a few defects."""
    damage = bytearray(data)
    for _ in range(choices.randrange(1, 5)):
        place = choices.randrange(len(damage) + 1)
        match choices.randrange(6):
            case 0:
                del damage[place : place + choices.randrange(1, 9)]
            case 1:
                damage[place:place] = choices.randbytes(choices.randrange(1, 9))
            case 2 if place < len(damage):
                damage[place] ^= 1 << choices.randrange(8)
            case 3:
                damage[place:place] = b"\xed\xa0\x80"  # a surrogate in UTF-8
            case 4:
                damage += b"\xff" * 9 + b"\x7f"  # a key with the largest number
            case _:
                damage += b"\x0b" * choices.choice([1, 200])  # groups that begin and never end
    return bytes(damage)


def generated_request(choices: random.Random) -> tuple[str, bytes]:
    """Returns a method and a request for it."""
    method = choices.choice([*METHODS.values()])
    if choices.random() < 0.05:
        return method.name, choices.randbytes(choices.choice([0, 1, 10, 1_000]))
    message = generated_message(choices, method.input_type, choices.choice([0, 0, 0.05, 0.3]))
    data = message.SerializeToString()
    return method.name, damaged(choices, data) if choices.random() < 0.15 else data


async def _reply(call: Call) -> None:
    """Answers a model call: with a skill call if there are skills, and no results yet."""
    tools = call.body.get("tools") or []
    has_results = any(message["role"] == "tool" for message in call.body["messages"][-1:])
    if tools and not has_results and len(call.body["messages"]) % 2:
        answer = skill_calls((tools[0]["function"]["name"], json.dumps({"a": "b"})))
    else:
        answer = Stream("Hello", " world")
    await answer.play(call)


class _Replies:
    async def play(self, call: Call) -> None:
        await _reply(call)


async def fuzz(target: Target) -> None:
    """Makes the generated calls."""
    target.endpoint.default = _Replies()
    numbers = target.numbers(REQUESTS)

    async def caller() -> None:
        for number in numbers:
            target.endpoint.calls.clear()
            choices = target.choices(f"request {number}")
            method, data = generated_request(choices)
            metadata = tuple(choices.sample(METADATA, 2)) if choices.random() < 0.1 else ()
            await target.call(method, data, what=f"request {number}, {method}", metadata=metadata)

    await crowd(CALLERS, caller)


ATTACKS = (Attack("fuzz: generated requests", fuzz, max_growth=256, time_limit=3_600),)
