"""Parses the docstring of a skill: the description, and the descriptions of its parameters in Google style."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

_HEADING = re.compile(r"(Args|Arguments|Parameters):\s*")
_ENTRY = re.compile(r"(?P<name>\w+)(?:\s*\([^)]*\))?:\s*(?P<text>.*)")


@dataclass(frozen=True, slots=True)
class Docstring:
    """A parsed docstring.

    Attributes:
        description: The docstring without its "Args:" section.
        parameters: The descriptions in that section, by parameter name.
    """

    description: str
    parameters: dict[str, str]


def parse_docstring(docstring: str) -> Docstring:
    """Parses a docstring. A section in another style remains part of the description."""
    lines = inspect.cleandoc(docstring).splitlines()
    start = next((number for number, line in enumerate(lines) if _HEADING.fullmatch(line)), None)
    if start is None:
        return Docstring("\n".join(lines).strip(), {})
    section = list(takewhile(lambda line: not line or line[0].isspace(), lines[start + 1 :]))
    parameters = _entries(section)
    if not parameters:
        return Docstring("\n".join(lines).strip(), {})
    before, after = "\n".join(lines[:start]).strip(), "\n".join(lines[start + 1 + len(section) :]).strip()
    return Docstring("\n\n".join(filter(None, (before, after))), parameters)


def _entries(section: Iterable[str]) -> dict[str, str]:
    """Returns the entries of a section by name, or no entries at all if the section is not in Google style."""
    filled = [line for line in section if line.strip()]
    indent = min((_indent(line) for line in filled), default=0)
    texts: dict[str, list[str]] = {}
    name = None
    for line in filled:
        if _indent(line) > indent and name is not None:
            texts[name].append(line.strip())
        elif entry := _ENTRY.fullmatch(line.strip()):
            name = entry["name"]
            texts[name] = [entry["text"]]
        else:
            return {}
    return {name: " ".join(filter(None, lines)) for name, lines in texts.items()}


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
