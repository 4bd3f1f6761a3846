"""Splits streamed Markdown into blocks that can be rendered independently."""

from __future__ import annotations

import re

_FENCE = re.compile(r"[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*(?P<fence>`{3,}(?!.*`)|~{3,})")
_LIST_ITEM = re.compile(r"(?:[-*+]|\d{1,9}[.)])[ \t]")
# The longest marker of a list item: nine digits, a dot and a space.
_MAX_MARKER_LENGTH = 11


class BlockSplitter:
    """Splits a text into blocks in one pass, in linear time.

    A block ends at a blank line, except inside a code block and between the items of a list. It may contain several of
    Markdown's own blocks, but never a part of one.

    Attributes:
        fence: The opening line of the current code block, or an empty string outside of code blocks.
    """

    def __init__(self) -> None:
        self.fence = ""
        self._fence_end = re.compile("")
        self._lines: list[str] = []
        self._partial: str = ""
        self._after_blank = False

    @property
    def rest(self) -> str:
        """The text after the last finished block."""
        return "".join(self._lines) + self._partial

    def tail(self, lines: int) -> str:
        """Returns the last lines of `rest`, preceded by the opening line of their code block if that is cut off."""
        shown = self._lines[-lines:] if lines else []
        cut = len(shown) < len(self._lines)
        return (self.fence if cut and self.fence else "") + "".join(shown) + self._partial

    def feed(self, text: str) -> list[str]:
        """Adds a piece of the text and returns the blocks that it finishes."""
        *lines, self._partial = (self._partial + text).split("\n")
        blocks = [block for line in lines if (block := self._add_line(line + "\n"))]
        if self._after_blank and len(self._partial) >= _MAX_MARKER_LENGTH and not self._continues_block(self._partial):
            blocks.append(self._end_block())
        return blocks

    def finish(self) -> list[str]:
        """Ends the text and returns the remaining blocks."""
        block = self._add_line(self._partial) if self._partial else ""
        self._partial = ""
        return [block for block in (block, self._end_block()) if block]

    def _end_block(self) -> str:
        """Ends the current block after its last complete line, and returns it."""
        block = "".join(self._lines)
        self._lines.clear()
        self._after_blank = False
        return block

    def _add_line(self, line: str) -> str:
        """Adds a complete line and returns the block that it ends, or an empty string."""
        if self.fence:
            self._lines.append(line)
            if self._fence_end.match(line):
                self.fence = ""
            return ""
        if not line.strip():
            if self._lines:  # blank lines before a block are dropped
                self._lines.append(line)
                self._after_blank = True
            return ""
        finished = self._end_block() if self._after_blank and not self._continues_block(line) else ""
        self._after_blank = False
        self._lines.append(line)
        if opening := _FENCE.match(line):
            self.fence = line
            fence = opening["fence"]
            self._fence_end = re.compile(rf"[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*\r?$")
        return finished

    def _continues_block(self, line: str) -> bool:
        """Returns whether a line after a blank one continues the block: by its indentation, or as another list item."""
        is_list = _LIST_ITEM.match(self._lines[0]) is not None
        return line[0] in " \t" or (is_list and _LIST_ITEM.match(line) is not None)
