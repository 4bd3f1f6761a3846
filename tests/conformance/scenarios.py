"""Reads the scenarios from `scenarios/*.yaml`; `README.md` explains their keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).with_name("scenarios")
MUST_FAIL = FOLDER / "must_fail.yaml"


@dataclass(frozen=True)
class Scenario:
    """A scenario: its setup and its steps. `README.md` explains each field."""

    name: str
    steps: list[dict[str, Any]]
    assistants: list[str] = field(default_factory=lambda: ["a"])
    client: dict[str, Any] = field(default_factory=dict)
    server: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    model: list[Any] = field(default_factory=list)
    skills: dict[str, dict[str, str]] = field(default_factory=dict)
    stand_in: dict[str, list[Any]] | None = None
    process: bool = False
    proxy: bool = False
    tls: bool | str = False
    azurite: bool = False
    disk: str = ""


class _Loader(yaml.SafeLoader):
    """YAML with tags for long texts."""


def _repeated(loader: _Loader, node: yaml.SequenceNode) -> str:
    text, times = loader.construct_sequence(node)
    return str(text) * int(times)


_Loader.add_constructor("!repeat", _repeated)
_Loader.add_constructor("!words", lambda loader, node: words(int(loader.construct_scalar(node))))


def words(count: int) -> str:
    """Returns a long text without repetitions."""
    return "".join(f"{number} " for number in range(count))


def scenarios() -> list[Scenario]:
    """Reads all scenarios that must pass, in the order of their file names."""
    return [scenario for path in sorted(FOLDER.glob("*.yaml")) if path != MUST_FAIL for scenario in read(path)]


def read(path: Path) -> Iterator[Scenario]:
    """Reads the scenarios of a file."""
    for scenario in yaml.load(path.read_text("utf-8"), _Loader):  # a SafeLoader
        yield Scenario(**scenario)
