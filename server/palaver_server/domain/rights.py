"""The rights of a caller: what it may name in its requests, what it may do, and how many turns it may run.

Without authentication, and by default, a caller may do everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum


class Access(IntEnum):
    """The access of a caller. Each level includes the ones before it."""

    READ = 1
    """Reads assistants and their messages."""
    WRITE = 2
    """Also creates assistants, posts to them and cancels turns."""
    ADMIN = 3
    """Also deletes and resets assistants, and sees what a server holds and does."""

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Glob:
    """A text with gaps, each of which stands for any number of any characters."""

    pieces: tuple[str, ...]
    """The texts before, between and after the gaps."""

    @classmethod
    def parse(cls, text: str) -> Glob:
        """Returns the glob for a text in which each `*` is a gap. No other character has a special meaning."""
        return cls(tuple(text.split("*")))

    def matches(self, name: str) -> bool:
        """Returns whether the whole name matches."""
        first, *others = self.pieces
        if not others:
            return name == first
        *middle, last = others
        if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
            return False
        position, end = len(first), len(name) - len(last)
        for piece in middle:
            found = name.find(piece, position, end)
            if found < 0:
                return False
            position = found + len(piece)
        return True


@dataclass(frozen=True, slots=True)
class Allowed:
    """The names that a caller may use."""

    texts: tuple[str, ...]
    """The patterns as the operator wrote them, for error messages."""
    globs: tuple[Glob, ...]

    @classmethod
    def matching(cls, texts: Iterable[str]) -> Allowed:
        """Returns the names that match any of the texts, in which `*` stands for any characters."""
        texts = tuple(texts)
        return cls(texts, tuple(map(Glob.parse, texts)))

    def __contains__(self, name: str) -> bool:
        return any(glob.matches(name) for glob in self.globs)

    def __str__(self) -> str:
        return ", ".join(self.texts) or "none"


ANYTHING = Allowed.matching(["*"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """The rights of a caller. The field names are the keys of the callers' file."""

    access: Access = Access.ADMIN
    storage_connections: Allowed = ANYTHING
    collections: Allowed = ANYTHING
    """In lower case, because collection names are case-insensitive."""
    ids: Allowed = ANYTHING
    ai_connections: Allowed = ANYTHING
    """The AI connections that a request may name. The server's default needs no right."""
    chat_models: Allowed = ANYTHING
    """The models that a request may name. The server's default needs no right."""
    skills: Allowed = ANYTHING
    """The server's skills that the model may call in the caller's turns."""
    max_turns: int | None = None
    """The turns that may run or wait at a time."""
    turns_per_minute: int | None = None


EVERYTHING = Rights()
