"""Streamed Markdown: how it is split into blocks, and what the screen shows."""

from __future__ import annotations

import io
import sys

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.markdown import Markdown
from rich.text import Text

from palaver.cli._blocks import BlockSplitter
from palaver.cli._markdown import MarkdownStream

WIDTH, HEIGHT = 60, 12

DOCUMENT = """\
# Title

A paragraph with **bold**, `code` and a line
that goes on.

- one

- two

  still two
- three

```python
def f(x):

    return x


# no title
```

1. first
2. second

   ```
   nested

   code
   ```

3. third

> quoted

| a | b |
|---|---|
| 1 | 2 |

    indented

    code

The end, with `````` and ~~~ in it.
"""


def blocks(text, size):
    splitter = BlockSplitter()
    finished = []
    for start in range(0, len(text), size):
        finished += splitter.feed(text[start : start + size])
        assert text.endswith(splitter.rest + text[start + size :])
    return [*finished, *splitter.finish()]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_blocks_are_never_split_and_no_text_is_lost(size):
    found = blocks(DOCUMENT, size)
    assert "".join(found) == DOCUMENT
    assert [block.split("\n")[0] for block in found] == [
        "# Title",
        "A paragraph with **bold**, `code` and a line",
        "- one",
        "```python",
        "1. first",
        "> quoted",
        "| a | b |",
        "The end, with `````` and ~~~ in it.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("\n\na", ["a"]),
        ("a\n\nb", ["a\n\n", "b"]),
        ("a\r\n\r\nb", ["a\r\n\r\n", "b"]),
        ("````\n```\n\n````\n\nb", ["````\n```\n\n````\n\n", "b"]),
        ("~~~\n```\n\n~~~\n\nb", ["~~~\n```\n\n~~~\n\n", "b"]),
        ("```never closed\n\na\n\nb", ["```never closed\n\na\n\nb"]),
        ("- ```\n  a\n\n  b\n  ```\n\nc", ["- ```\n  a\n\n  b\n  ```\n\n", "c"]),
        ("- a\n\nb", ["- a\n\n", "b"]),
    ],
)
def test_where_blocks_end(text, expected):
    for size in (1, 100):
        assert blocks(text, size) == expected


def test_a_block_ends_before_the_first_line_of_the_next_one_is_complete():
    splitter = BlockSplitter()
    assert splitter.feed("done\n\nThis line goes on and") == ["done\n\n"]
    assert splitter.rest == "This line goes on and"


@given(st.text(alphabet="a `~\n-1.>#|*\\", max_size=60), st.integers(1, 5))
def test_only_leading_blank_lines_are_dropped(text, size):
    joined = "".join(blocks(text, size))
    assert text.endswith(joined)
    assert not text.removesuffix(joined).strip()


def test_the_tail_of_a_code_block_keeps_its_fence():
    splitter = BlockSplitter()
    splitter.feed("```python\n" + "".join(f"x = {number}\n" for number in range(50)) + "x = ")
    assert splitter.tail(2) == "```python\nx = 48\nx = 49\nx = "
    assert splitter.tail(100) == splitter.rest


class Terminal(io.StringIO):
    """A terminal of WIDTH times HEIGHT characters with an unlimited scrollback."""

    def __init__(self):
        super().__init__()
        self.screen = pyte.HistoryScreen(WIDTH, HEIGHT, history=100_000, ratio=0.5)
        self.screen.set_mode(pyte.modes.LNM)  # a line feed also returns the carriage, as in a real terminal
        self._stream = pyte.Stream(self.screen)

    def write(self, text):
        self._stream.feed(text)
        return len(text)

    def isatty(self):
        return True

    @property
    def lines(self):
        top = ["".join(line[column].data for column in range(WIDTH)) for line in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*top, *self.screen.display]).rstrip("\n").split("\n")


def console(file):
    return Console(file=file, force_terminal=True, width=WIDTH, height=HEIGHT, highlight=False, color_system="256")


def rendered(text):
    file = io.StringIO()
    Console(file=file, width=WIDTH).print(Markdown(text))
    return _without_margins([line.rstrip() for line in file.getvalue().split("\n")])


def _without_margins(lines):
    filled = [number for number, line in enumerate(lines) if line]
    return lines[filled[0] : filled[-1] + 1]


def stream(text, size=5):
    terminal = Terminal()
    with MarkdownStream(console(terminal)) as screen:
        for start in range(0, len(text), size):
            screen.write(text[start : start + size])
            if start % 50 == 0:
                screen._live.refresh()
    return terminal


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(DOCUMENT, id="every element"),
        pytest.param("".join(f"- item {n}\n" for n in range(60)), id="list that is taller than the screen"),
        pytest.param("```\n" + "".join(f"line {n}\n\n" for n in range(60)) + "```\n", id="code that is taller"),
        pytest.param("word " * 600, id="paragraph that is taller"),
        pytest.param("```\nnever closed", id="code that ends early"),
        pytest.param("\n\n一二三 😀\n\n\n\nb\n", id="wide characters"),
    ],
)
def test_the_screen_ends_up_with_the_whole_formatted_text(text):
    assert _without_margins(stream(text).lines) == rendered(text)


def test_the_screen_shows_a_spinner_and_then_the_text_so_far():
    terminal = Terminal()
    with MarkdownStream(console(terminal)) as screen:
        screen._live.refresh()
        assert "waiting for the reply" in terminal.lines[0]
        screen.write("Done.\n\nSome **bo")
        screen._live.refresh()
        assert terminal.lines == ["Done.", "", "Some **bo"]
        screen.write("ld** text")
        screen._live.refresh()
        assert terminal.lines == ["Done.", "", "Some bold text"]
    assert terminal.lines == ["Done.", "", "Some bold text"]


def test_an_empty_reply_leaves_an_empty_screen():
    assert stream("").lines == [""]


def test_the_live_region_follows_the_end_of_a_block_that_does_not_fit():
    terminal = Terminal()
    with MarkdownStream(console(terminal)) as screen:
        screen.write("".join(f"- {'word ' * 20}{number}\n" for number in range(60)))
        screen._live.refresh()
        assert terminal.lines[-1].endswith("word 59")
        assert len(terminal.lines) <= HEIGHT


def test_a_printed_line_is_separated_from_the_text():
    terminal = Terminal()
    with MarkdownStream(console(terminal)) as screen:
        screen.write("Let me see.")
        screen.print_line(Text("calling clock"))
        screen.write("It is noon.")
    assert terminal.lines == ["Let me see.", "", "calling clock", "", "It is noon."]


def test_control_characters_do_not_reach_the_terminal():
    terminal = Terminal()
    with MarkdownStream(console(terminal)) as screen:
        screen.write("a\x1b[2Jb\x07\x9b31mc\x1b]0;title\x07")
    assert terminal.lines == ["a[2Jb31mc]0;title"]
    assert terminal.screen.title == ""


@pytest.mark.parametrize("text", ["a\u202eb\u200fc\U000e0041d", "a&#x202e;b&rlm;c&#xe0041;d"])
def test_invisible_characters_do_not_reach_the_terminal_even_as_entities(text):
    file = io.StringIO()
    with MarkdownStream(console(file)) as screen:
        screen.write(text)
    assert "abcd" in file.getvalue()
    assert file.getvalue().translate(dict.fromkeys([0x202E, 0x200F, 0xE0041])) == file.getvalue()


@pytest.mark.parametrize("unit", ["word ", "- item\n", "a\n\n"])
def test_the_cost_of_a_frame_does_not_grow_with_the_reply(unit):
    def frame(length):
        file = io.StringIO()
        with MarkdownStream(console(file)) as screen:
            for _ in range(length):
                screen.write(unit)
            before = file.tell()
            screen._live.refresh()
            return file.tell() - before

    assert 0 < frame(800) <= 2 * frame(400)
    assert frame(800) < 4 * WIDTH * HEIGHT


def test_concurrent_refreshes_do_not_corrupt_the_screen(monkeypatch):
    interval = sys.getswitchinterval()
    monkeypatch.setattr("palaver.cli._markdown._FRAMES_PER_SECOND", 2000)
    sys.setswitchinterval(1e-5)
    try:
        screens = [stream(DOCUMENT, 3) for _ in range(6)]
    finally:
        sys.setswitchinterval(interval)
    assert all(_without_margins(terminal.lines) == rendered(DOCUMENT) for terminal in screens)
