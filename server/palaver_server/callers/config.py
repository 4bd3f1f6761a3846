"""The callers' file: it becomes blocks, or an error that names the block and the key.

No error quotes a value, since any of them could be a key that was pasted in the wrong place.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from palaver_server.callers.blocks import ALGORITHMS, DEFAULT_ALGORITHMS, CallerBlock, TokenRule
from palaver_server.callers.patterns import Pattern
from palaver_server.callers.urls import has_tls, is_local
from palaver_server.domain.rights import Access, Allowed, Rights

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_ACCESS = Access.WRITE

BLOCK_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
BLOCK_NAME_RULE = "1 to 64 ASCII letters, digits, _ and -"

PATTERN_KEYS = ("storage_connections", "collections", "ai_connections", "chat_models", "skills")
"""The keys of patterns without claims."""

KEYS = (
    *("key_sha256", "issuer", "audience", "algorithms", "require", "client_certificate"),
    *("access", "ids", *PATTERN_KEYS, "max_turns", "turns_per_minute"),
)

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


class CallersError(ValueError):
    """The callers' file can't be used. The text is one line that names the block and the key."""


def parse_callers(data: bytes) -> tuple[CallerBlock, ...]:
    """Returns the blocks of a callers' file; raises `CallersError`."""
    try:
        document = tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise CallersError("must be UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise CallersError(f"not valid TOML: {error}") from None
    except RecursionError:
        raise CallersError("not valid TOML: nested too deeply") from None
    if unknown := document.keys() - {"callers"}:
        raise CallersError(f"{', '.join(sorted(map(repr, unknown)))}: every block must be a [callers.NAME]")
    tables = document.get("callers", {})
    if not isinstance(tables, dict) or not tables:
        raise CallersError("must have at least one block [callers.NAME]")
    blocks = tuple(_Block(name, table).parse() for name, table in tables.items())
    _check_ambiguity(blocks)
    return blocks


def _check_ambiguity(blocks: Iterable[CallerBlock]) -> None:
    """Raises `CallersError` if two blocks have the same key, or the same rule for tokens."""
    owners: dict[bytes | TokenRule, str] = {}
    for block in blocks:
        identities = {"key_sha256": block.key_digests, "issuer": (block.tokens,) if block.tokens else ()}
        for key, values in identities.items():
            for value in values:
                if (owner := owners.setdefault(value, block.name)) != block.name:
                    raise CallersError(
                        f"[callers.{block.name}] {key}: must not identify the same callers as [callers.{owner}]"
                    )


class _Block:
    """Reads the keys of one block."""

    def __init__(self, name: str, table: object) -> None:
        self._name = name
        if not BLOCK_NAME.fullmatch(name):
            raise CallersError(f"[callers.{name!r}]: a name must be {BLOCK_NAME_RULE}")
        if not isinstance(table, dict):
            raise CallersError(f"[callers.{name}]: must be a block")
        if unknown := sorted(table.keys() - {*KEYS}):
            raise self._error(", ".join(map(repr, unknown)), f"no such key; the keys are {', '.join(KEYS)}")
        self._table: dict[str, Any] = table

    def parse(self) -> CallerBlock:
        """Returns the block; raises `CallersError`."""
        digests = tuple(bytes.fromhex(text) for text in self._texts("key_sha256", _check_digest) or ())
        tokens = self._token_rule()
        certificates = self._allowed("client_certificate")
        if not (digests or tokens or certificates):
            raise self._error("", "must have a key_sha256, an issuer or a client_certificate")
        access = self._text("access", _check_access)
        allowed = {key: names for key in PATTERN_KEYS if (names := self._allowed(key)) is not None}
        if collections := allowed.get("collections"):
            lower = Allowed.matching(map(str.lower, collections.texts))
            allowed["collections"] = replace(collections, globs=lower.globs)
        rights = Rights(
            access=Access[access.upper()] if access else DEFAULT_ACCESS,
            max_turns=self._count("max_turns"),
            turns_per_minute=self._count("turns_per_minute"),
            **allowed,
        )
        return CallerBlock(self._name, digests, tokens, certificates, self._ids(has_claims=tokens is not None), rights)

    def _error(self, key: str, message: str) -> CallersError:
        return CallersError(f"[callers.{self._name}]{f' {key}' if key else ''}: {message}")

    def _texts(self, key: str, check: Callable[[str], object] | None = None) -> tuple[str, ...] | None:
        """Reads a list of texts, or a single text."""
        value = self._table.get(key)
        if value is None:
            return None
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
            raise self._error(key, "must be a list of texts that are not empty")
        try:
            for text in texts if check else ():
                check(text)  # type: ignore[misc]
        except ValueError as error:
            raise self._error(key, str(error)) from None
        return tuple(texts)

    def _text(self, key: str, check: Callable[[str], object] | None = None) -> str:
        """Reads a single text, or returns an empty one."""
        if not isinstance(self._table.get(key, ""), str):
            raise self._error(key, "must be a text")
        return (self._texts(key, check) or ("",))[0]

    def _allowed(self, key: str) -> Allowed | None:
        texts = self._texts(key, _check_no_claims)
        return None if texts is None else Allowed.matching(texts)

    def _ids(self, *, has_claims: bool) -> tuple[Pattern, ...]:
        texts = self._texts("ids", Pattern.parse)
        patterns = tuple(map(Pattern.parse, ("*",) if texts is None else texts))
        if not has_claims and any(pattern.claims for pattern in patterns):
            raise self._error("ids", "must have no claims in braces, because the block has no issuer of tokens")
        return patterns

    def _count(self, key: str) -> int | None:
        value = self._table.get(key)
        if value is not None and (type(value) is not int or value < 1):
            raise self._error(key, "must be a whole number of 1 or more")
        return value

    def _token_rule(self) -> TokenRule | None:
        issuer = self._text("issuer", _check_issuer)
        audiences, algorithms = self._texts("audience"), self._texts("algorithms", _check_algorithm)
        required = self._required()
        if issuer and not audiences:
            raise self._error("audience", "must be set, because an issuer also issues tokens for others")
        for key, value in (("audience", audiences), ("algorithms", algorithms), ("require", required)):
            if value is not None and not issuer:
                raise self._error(key, "must not be set without an issuer")
        if not issuer:
            return None
        return TokenRule(issuer, audiences or (), required or (), algorithms or DEFAULT_ALGORITHMS)

    def _required(self) -> tuple[tuple[str, tuple[object, ...]], ...] | None:
        table = self._table.get("require")
        if table is None:
            return None
        if not isinstance(table, dict):
            raise self._error("require", 'must be a table of claims, as in { scp = "chat" }')
        required = []
        for claim, value in table.items():
            values = value if isinstance(value, list) else [value]
            if not values or not all(isinstance(each, str | bool | int) for each in values):
                raise self._error(f"require.{claim}", "must be a text, a whole number, true, false, or a list of them")
            required.append((claim, tuple(values)))
        return tuple(required)


def _check_issuer(text: str) -> None:
    if not (has_tls(text) or is_local(text)):
        raise ValueError("must be an https:// address, or an http:// address of this machine")


def _check_digest(text: str) -> None:
    if not _DIGEST.fullmatch(text):
        raise ValueError("must be SHA-256 digests of 64 hexadecimal digits, as `palaver-server keygen` prints them")


def _check_access(text: str) -> None:
    if text not in map(str, Access):
        raise ValueError(f"must be one of {', '.join(map(str, Access))}")


def _check_algorithm(text: str) -> None:
    if text not in ALGORITHMS:
        raise ValueError(f"must be among {', '.join(ALGORITHMS)}")


def _check_no_claims(text: str) -> None:
    if "{" in text or "}" in text:
        raise ValueError("must have no braces; only ids may contain the claims of a token")
