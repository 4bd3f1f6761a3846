"""The languages that there are clients for, and what runs theirs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Language:
    """A client: how its runner and its terminal chat are started, and what builds them."""

    name: str
    runner: Sequence[str]
    chat: Sequence[str]
    toolchain: Sequence[str] = ()

    def why_missing(self) -> str | None:
        """Says what is missing to run it; None where nothing is."""
        if missing := [tool for tool in self.toolchain if shutil.which(tool) is None]:
            return f"{' and '.join(missing)} not installed"
        if not Path(self.runner[0]).exists():
            return f"{self.runner[0]} not built: make -C client/{self.name} conformance-runner chat"
        return None


def _python(name: str, client: str) -> Language:
    runner = (sys.executable, "-m", "tests.conformance.python_runner", client)
    return Language(name, runner, (sys.executable, str(ROOT / "examples" / "chat.py")))


def _built(name: str, *toolchain: str) -> Language:
    folder = ROOT / "client" / name / "build"
    return Language(name, (str(folder / "conformance-runner"),), (str(folder / "chat"),), toolchain)


LANGUAGES = (
    _python("python", "client"),
    _python("python-async", "async-client"),
    _built("go", "go"),
    _built("typescript", "node"),
    _built("java", "java"),
    _built("rust", "cargo"),
)

CI = bool(os.environ.get("CI"))
"""Whether every language must be there."""
