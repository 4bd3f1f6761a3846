"""The page of errors, from the comments of `ErrorReason`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tools.reference.contract import ENUMS, VALUES, File
from tools.reference.markdown import code, document, sentence, table

ENUM = "ErrorReason"
PREFIX = "ERROR_REASON_"

INTRODUCTION = """\
An error is a gRPC status. Its details hold a `google.rpc.ErrorInfo` whose domain is "palaver.v1" and whose `reason` is
one of those below. Decide by the reason, and fall back to the status if your client does not know the reason. The
message is for people. It has at most 1,000 bytes, and never contains a key, the address of an endpoint or a traceback.

`INVALID_FIELD` comes with a `google.rpc.BadRequest` that lists all invalid fields at once. An error that is worth
retrying comes with a `google.rpc.RetryInfo`. The clients expose both in their typed errors.

An error without a reason comes not from Palaver but from gRPC itself or from a proxy: a deadline that passed
(`DEADLINE_EXCEEDED`), a caller that cancelled (`CANCELLED`), a request larger than 2 MiB (`RESOURCE_EXHAUSTED`) or a
connection that broke (usually `UNAVAILABLE`). It does not tell whether the turn is stored, so
[post it again](../concepts.md#posting-again-is-safe) with the same `request_id`."""


@dataclass(frozen=True)
class Reason:
    """A reason, and what the contract says about it."""

    name: str
    status: str
    meaning: str


def reasons(files: Sequence[File]) -> list[Reason]:
    """Returns the reasons of the contract. The comment of each begins with its status."""
    return [
        _reason(value.name, file.comment(ENUMS, position, VALUES, number))
        for file in files
        for position, enum in file.enums()
        if enum.name == ENUM
        for number, value in enumerate(enum.value)
        if value.number != 0
    ]


def page(files: Sequence[File]) -> str:
    """Returns the page."""
    rows = ((code(reason.name), code(reason.status), reason.meaning) for reason in reasons(files))
    return document(
        "Errors",
        "protos/palaver/v1/error_reason.proto",
        INTRODUCTION,
        table(("reason", "status", "meaning and remedy"), rows),
    )


def _reason(name: str, comment: str) -> Reason:
    match = re.fullmatch(r"`([A-Z_]+)`: (.+)", comment, re.DOTALL)
    if match is None:
        raise ValueError(f"{name}: its comment must begin with the status in backticks and a colon")
    return Reason(name.removeprefix(PREFIX), match[1], sentence(match[2]))
