"""Renders streamed Markdown in a terminal."""

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
from palaver.cli._terminal import printable

if TYPE_CHECKING:
    from typing_extensions import Self

_FRAMES_PER_SECOND = 12


class MarkdownStream:
    """A context manager that renders text as Markdown while it is written.

    Finished blocks are printed once, above a live region that is redrawn several times per second. The live region
    shows a spinner at first, and then as much of the end of the unfinished block as fits on the screen. So the whole
    text ends up on the screen and in the scrollback, and the cost of a frame does not grow with the text.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._splitter = BlockSplitter()
        self._spinner = Spinner("dots")
        self.show_progress("waiting for the reply")
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
                self._print_blocks(self._splitter.finish())
        finally:
            self._live.stop()

    def write(self, text: str) -> None:
        """Adds a piece of the text, and prints the blocks that it finishes."""
        with self._live.lock:
            self._is_waiting = False
            self._print_blocks(self._splitter.feed(printable(text)))

    def show_progress(self, text: str) -> None:
        """Changes the text next to the spinner, which is visible until the first piece of text is written."""
        self._spinner.update(text=Text(f" {text}", style="dim"))

    def print_line(self, text: Text) -> None:
        """Prints a line that is not part of the text, as a block between the text before and after it."""
        with self._live.lock:
            self._print_blocks(self._splitter.finish())
            self._print_renderable(text)

    def _print_blocks(self, blocks: list[str]) -> None:
        """Prints finished blocks of Markdown, except blank ones."""
        for block in blocks:
            if block.strip():
                self._print_renderable(_Block(block))

    def _print_renderable(self, renderable: RenderableType) -> None:
        """Prints a block, with an empty line before it unless it is the first one."""
        self._console.print(renderable if self._is_first_block else Group(Text(), renderable))
        self._is_first_block = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Renders the live region: the spinner, or the last lines of the unfinished block that fit on the screen."""
        if self._is_waiting:
            yield self._spinner
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
    """A live region that exposes the lock of its refresh thread.

    Without it, the refresh thread can redraw the region after another thread has rendered its output, but before it has
    written that output. The terminal is then not in the state that the region expects.
    """

    @property
    def lock(self) -> AbstractContextManager[object]:
        """The lock that the refresh thread holds while it redraws the region."""
        return self._lock


class _Block:
    """Markdown without the empty lines that rich adds before and after some elements.

    It is made printable again after Markdown has replaced entities such as `&rlm;`.
    """

    def __init__(self, text: str) -> None:
        self._markdown = Markdown(text)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._markdown, options, pad=False)
        filled = [number for number, line in enumerate(lines) if any(segment.text for segment in line)]
        for line in lines[filled[0] : filled[-1] + 1] if filled else []:
            for text, style, control in line:
                yield Segment(printable(text), style, control)
            yield Segment.line()
