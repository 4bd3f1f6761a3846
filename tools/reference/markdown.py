"""The pieces of Markdown that the pages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def document(title: str, source: str, *blocks: str) -> str:
    """Joins the blocks of a page under its title, with a note on its source."""
    note = f"<!-- `make generate` writes this page from {source}. Do not edit it. -->"
    return "\n\n".join((note, f"# {title}", *blocks)) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; the paragraphs of a cell stay apart."""
    lines = [columns, ["---"] * len(columns), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def code(text: str) -> str:
    """Returns inline code, or nothing for an empty text."""
    return f"`{text}`" if text else ""


def sentence(text: str) -> str:
    """Returns a text that begins with a capital letter, unless it begins with code."""
    return text[:1].upper() + text[1:]


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n\n", "<br><br>")
