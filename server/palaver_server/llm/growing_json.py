"""Telling in linear time when JSON that arrives in pieces is whole."""

from __future__ import annotations

import json

SHORT = 64
"""Texts up to this length are parsed whenever they are asked about: a number is whole, and may still grow."""


class GrowingJson:
    """The text of a JSON value that arrives in pieces.

    Parsing all of it with every piece takes quadratic time. So only brackets and quotes are counted until they are
    balanced, and then it is parsed once.
    """

    __slots__ = (
        "_depth",
        "_escape",
        "_has_begun",
        "_in_string",
        "_is_decided",
        "_is_whole",
        "_pieces",
        "_seen",
        "length",
    )

    def __init__(self) -> None:
        self.length = 0
        """The length of the text so far, in characters."""
        self._pieces: list[str] = []
        self._seen = 0  # the number of pieces that were counted
        self._depth = 0
        self._in_string = False
        self._escape = ""  # a backslash at the end, whose character is missing
        self._has_begun = False
        self._is_decided = False
        self._is_whole = False

    def add(self, piece: str) -> None:
        """Appends a piece."""
        self._pieces.append(piece)
        self.length += len(piece)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    def is_whole(self) -> bool:
        """Returns whether the text so far is a JSON value, with nothing behind it."""
        new = "".join(self._pieces[self._seen :])
        self._seen = len(self._pieces)
        if self._is_decided:
            self._is_whole = self._is_whole and not new.strip()
            return self._is_whole
        self._count(new)
        self._has_begun = self._has_begun or bool(new.strip())
        if not self._has_begun or self._in_string or self._depth > 0:
            return False
        self._is_whole = _is_json(self.text)
        self._is_decided = self.length > SHORT
        return self._is_whole

    def _count(self, new: str) -> None:
        text = (self._escape + new).replace("\\\\", "").replace('\\"', "")
        self._escape = "\\" if text.endswith("\\") else ""
        parts = text.split('"')  # every other one is inside a string
        outside = "".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        self._depth += sum(map(outside.count, "{[")) - sum(map(outside.count, "}]"))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
