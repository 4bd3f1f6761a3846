"""Patterns over assistant ids, with claims of the caller's token.

A claim is filled in as it is: a `*` in its value is no wildcard. Its value must not contain the character next to it in
the pattern, because such ids could belong to two users: in `{sub}.*`, the id `ann.lee.1` to `ann` and to `ann.lee`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from palaver_server.domain.rights import Glob

_SPECIAL = re.compile(r"(\*|\{[^{}*]+\})")


@dataclass(frozen=True, slots=True)
class _Claim:
    """A place in a pattern for the value of a claim."""

    name: str
    separators: str = ""
    """The characters that a value must not contain."""

    def value(self, claims: Mapping[str, object]) -> str | None:
        """Returns the value in a token, or None if there is none that can be filled in."""
        value = claims.get(self.name)
        if not isinstance(value, str) or any(separator in value for separator in self.separators):
            return None
        return value or None


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern that may contain claims."""

    text: str
    _parts: tuple[str | _Claim, ...]
    """Texts, `*` and claims, in order. No text contains a `*`."""

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Parses a pattern; raises `ValueError` with a description of what is allowed."""
        parts = [part for part in _SPECIAL.split(text) if part]
        if any(brace in part for part in parts if not _SPECIAL.fullmatch(part) for brace in "{}"):
            raise ValueError("must have braces only around the name of a claim, as in {sub}")
        return cls(text, tuple(_claim(parts, at) if part.startswith("{") else part for at, part in enumerate(parts)))

    @property
    def claims(self) -> tuple[str, ...]:
        """The names of the claims."""
        return tuple(part.name for part in self._parts if isinstance(part, _Claim))

    def filled(self, claims: Mapping[str, object]) -> Glob | None:
        """Returns the pattern for the bearer of a token, or None if no id can match it."""
        pieces = [""]
        for part in self._parts:
            if part == "*":
                pieces.append("")
                continue
            text = part.value(claims) if isinstance(part, _Claim) else part
            if text is None:
                return None
            pieces[-1] += text
        return Glob(tuple(pieces))


def _claim(parts: list[str], at: int) -> _Claim:
    """Returns the claim at a position, with the separators that keep the ids of different users apart."""
    separators = ""
    for neighbours, nearest in ((parts[at + 1 :], 0), (parts[at - 1 :: -1] if at else [], -1)):
        if not neighbours:
            continue
        if _SPECIAL.fullmatch(neighbours[0]):
            raise ValueError(f"must have a separator between {parts[at]} and {neighbours[0]}, such as a dot")
        if len(neighbours) > 1:  # behind the separator, there is something whose text is not known
            separators += neighbours[0][nearest]
    return _Claim(parts[at][1:-1], separators)
