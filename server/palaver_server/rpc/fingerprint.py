"""Telling one request from another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from google.protobuf.message import Message


def fingerprint(request: Message, without: Sequence[str]) -> bytes:
    """Hashes a request as it was sent, but for some fields. Fields that this version does not know count too."""
    rest = type(request)()
    rest.CopyFrom(request)
    for field in without:
        rest.ClearField(field)
    return hashlib.sha256(rest.SerializeToString(deterministic=True)).digest()
