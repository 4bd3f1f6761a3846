"""Cuts Markdown that arrives in pieces into blocks, each of which can be rendered by itself."""

from __future__ import annotations

import re

_FENCE = re.compile(r"[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*(?P<fence>`{3,}(?!.*`)|~{3,})")
_LIST_ITEM = re.compile(r"(?:[-*+]|\d{1,9}[.)])[ \t]")
# The longest beginning of a line that decides whether it is a list item: nine digits, a dot and a space.
_DECISIVE_LENGTH = 11


class BlockSplitter:
    """Finds the blocks of a text in one pass, in time proportional to its length.

    A block ends at a blank line, unless that is part of a code block or between the items of a list. It may hold more
    than one of Markdown's own blocks, but never a part of one.

    Attributes:
        fence: The line that opened the code block that the text is in; empty outside of code blocks.
    """

    def __init__(self) -> None:
        self.fence = ""
        self._fence_end = re.compile("")
        self._lines: list[str] = []
        self._partial: str = ""
        self._after_blank = False

    @property
    def rest(self) -> str:
        """The text that is not part of a finished block yet."""
        return "".join(self._lines) + self._partial

    def tail(self, lines: int) -> str:
        """Returns the last lines of the rest, which begin with the opening of the code block that they are in."""
        shown = self._lines[-lines:] if lines else []
        cut = len(shown) < len(self._lines)
        return (self.fence if cut and self.fence else "") + "".join(shown) + self._partial

    def feed(self, text: str) -> list[str]:
        """Takes a piece of the text and returns the blocks that are finished with it."""
        *lines, self._partial = (self._partial + text).split("\n")
        blocks = [block for line in lines if (block := self._take_line(line + "\n"))]
        if self._after_blank and len(self._partial) >= _DECISIVE_LENGTH and not self._continues(self._partial):
            blocks.append(self._end_block())
        return blocks

    def finish(self) -> list[str]:
        """Ends the text and returns its last blocks."""
        block = self._take_line(self._partial) if self._partial else ""
        self._partial = ""
        return [block for block in (block, self._end_block()) if block]

    def _end_block(self) -> str:
        """Ends the present block after its last whole line, and returns it."""
        block = "".join(self._lines)
        self._lines.clear()
        self._after_blank = False
        return block

    def _take_line(self, line: str) -> str:
        """Takes a whole line and returns the block that it ends, if any."""
        if self.fence:
            self._lines.append(line)
            if self._fence_end.match(line):
                self.fence = ""
            return ""
        if not line.strip():
            if self._lines:  # blank lines before the first block are dropped
                self._lines.append(line)
                self._after_blank = True
            return ""
        finished = self._end_block() if self._after_blank and not self._continues(line) else ""
        self._after_blank = False
        self._lines.append(line)
        if opening := _FENCE.match(line):
            self.fence = line
            fence = opening["fence"]
            self._fence_end = re.compile(rf"[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*\r?$")
        return finished

    def _continues(self, line: str) -> bool:
        """Returns whether a line after a blank one belongs to the block before it: an indented one, or a list item."""
        is_list = _LIST_ITEM.match(self._lines[0]) is not None
        return line[0] in " \t" or (is_list and _LIST_ITEM.match(line) is not None)
