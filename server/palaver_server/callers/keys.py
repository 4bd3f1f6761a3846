"""Keys: how they are made, and how they are recognised without being kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from palaver_server.callers.blocks import CallerBlock

KEY_BYTES = 32
"""The random bytes of a key. With this many, a plain SHA-256 digest can't be reversed."""

PREFIX = "plv_"
"""The beginning of every key, by which scanners for leaked secrets find them."""


def new_key() -> str:
    """Returns a new random key."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def digest_of(key: str) -> bytes:
    """Returns the digest by which a key is recognised."""
    return hashlib.sha256(key.encode(errors="replace")).digest()


@dataclass(frozen=True, slots=True)
class Keys:
    """The digests of all keys, with the blocks of their callers."""

    _digests: tuple[tuple[bytes, CallerBlock], ...]

    @classmethod
    def of(cls, blocks: Iterable[CallerBlock]) -> Keys:
        """Returns the keys of the blocks."""
        return cls(tuple((digest, block) for block in blocks for digest in block.key_digests))

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner_of(self, key: str) -> CallerBlock | None:
        """Returns the block of a key's caller, or None. The time does not depend on which key it is."""
        given, owner = digest_of(key), None
        for digest, block in self._digests:
            if hmac.compare_digest(digest, given):
                owner = block
        return owner
