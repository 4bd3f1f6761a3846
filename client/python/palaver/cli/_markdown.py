"""Shows Markdown in a terminal while it arrives."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.spinner import Spinner
from rich.text import Text

from palaver.cli._blocks import BlockSplitter
from palaver.cli._output import safe

if TYPE_CHECKING:
    from typing_extensions import Self

_FRAMES_PER_SECOND = 12


class MarkdownStream:
    """A `with` block during which text is shown as it is written, formatted as Markdown.

    Finished blocks are printed once and for all, above a live region that is painted anew some times a second: at
    first a sign of waiting, then the end of the unfinished block, as far as it fits on the screen. So the whole text
    ends up on the screen and in the scrollback, and the work for a frame does not grow with the text.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._splitter = BlockSplitter()
        self._waiting = Spinner("dots", Text(" waiting for the reply", style="dim"))
        self._is_waiting = True
        self._is_first_block = True
        self._live = _Live(
            self, console=console, transient=True, refresh_per_second=_FRAMES_PER_SECOND, vertical_overflow="visible"
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            with self._live.lock:
                self._is_waiting = False
                self._print(self._splitter.finish())
        finally:
            self._live.stop()

    def write(self, text: str) -> None:
        """Adds a piece of the text."""
        with self._live.lock:
            self._is_waiting = False
            self._print(self._splitter.feed(safe(text)))

    def print_line(self, text: Text) -> None:
        """Prints a line about something else than the text, between what came before and what comes then."""
        with self._live.lock:
            self._print(self._splitter.finish())
            self._print_renderable(text)

    def _print(self, blocks: list[str]) -> None:
        for block in blocks:
            if block.strip():
                self._print_renderable(_Block(block))

    def _print_renderable(self, renderable: RenderableType) -> None:
        self._console.print(renderable if self._is_first_block else Group(Text(), renderable))
        self._is_first_block = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Renders the live region: the end of what is not printed yet, without the lines that do not fit."""
        if self._is_waiting:
            yield self._waiting
            return
        height = max(console.size.height - 2, 1)
        text = self._splitter.tail(height)[-height * options.max_width :]
        if not text.strip():
            return
        block = _Block(text)
        lines = console.render_lines(block if self._is_first_block else Group(Text(), block), options, pad=False)
        for line in lines[-height:]:
            yield from line
            yield Segment.line()


class _Live(Live):
    """A live region, for whose painting thread one can wait.

    rich itself lets that thread come between the rendering and the writing of what another thread prints, after which
    the terminal is not in the state that the region believes it to be in.
    """

    @property
    def lock(self) -> AbstractContextManager[object]:
        """What the thread holds while it paints."""
        return self._lock


class _Block:
    """Markdown without the empty lines that rich puts before or after some of its elements."""

    def __init__(self, text: str) -> None:
        self._markdown = Markdown(text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._markdown, options, pad=False)
        filled = [number for number, line in enumerate(lines) if any(segment.text for segment in line)]
        for line in lines[filled[0] : filled[-1] + 1] if filled else []:
            yield from line
            yield Segment.line()
