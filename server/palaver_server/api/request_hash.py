"""Hashes of requests, which tell whether two requests are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from google.protobuf.message import Message


def request_hash(request: Message, without: Sequence[str]) -> bytes:
    """Returns a hash of a request as it was sent, without some fields. Fields that this version ignores count too."""
    rest = type(request)()
    rest.CopyFrom(request)
    for field in without:
        rest.ClearField(field)
    return hashlib.sha256(rest.SerializeToString(deterministic=True)).digest()
