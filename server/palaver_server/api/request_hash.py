"""Hashes of requests, to detect whether two requests are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from google.protobuf.message import Message


def request_hash(request: Message, without: Sequence[str]) -> bytes:
    """Returns a hash of a request, without some fields. It includes fields that this version does not know."""
    rest = type(request)()
    rest.CopyFrom(request)
    for field in without:
        rest.ClearField(field)
    return hashlib.sha256(rest.SerializeToString(deterministic=True)).digest()
