"""Callers with keys, and a callers' file that names them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palaver_server.callers.keys import digest_of, new_key

Metadata = tuple[tuple[str, str], ...]


def bearer(credential: str) -> Metadata:
    """Returns the metadata that presents a key or a token."""
    return (("authorization", f"Bearer {credential}"),)


def toml(blocks: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns a callers' file with these blocks."""
    return "\n".join(
        f"[callers.{name}]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in block.items())
        for name, block in blocks.items()
    )


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


@dataclass
class CallersFile:
    """A callers' file whose callers have a key each. Any other rule of a block is written as it is."""

    path: Path
    keys: dict[str, str] = field(default_factory=dict)

    def write(self, **blocks: Mapping[str, Any]) -> None:
        """Replaces the file. A block that says nothing about credentials gets a key."""
        written = {}
        for name, block in blocks.items():
            has_credentials = {"key_sha256", "issuer", "client_certificate"} & block.keys()
            written[name] = dict(block) if has_credentials else {"key_sha256": [self.digest(name)], **block}
        temporary = self.path.with_suffix(".new")
        temporary.write_text(toml(written))
        temporary.replace(self.path)

    def digest(self, name: str) -> str:
        """Returns the digest of a caller's key, and makes the key if there is none."""
        return digest_of(self.keys.setdefault(name, new_key())).hex()

    def as_caller(self, name: str) -> Metadata:
        """Returns the metadata of a caller with a key."""
        return bearer(self.keys[name])
