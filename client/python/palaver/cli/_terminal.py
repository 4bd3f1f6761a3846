"""Makes text of models, skills and servers safe to print in a terminal."""

from __future__ import annotations

import re

# The README of `client/vectors` explains these ranges, which are the same for all languages.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def printable(text: str) -> str:
    """Returns a text without the characters that could deceive its reader or control the terminal.

    These are control characters except line feeds and tabs, controls of the direction of text, tag characters and other
    invisible characters. Emoji and texts in all scripts stay readable.
    """
    return _UNSAFE.sub("", text)
