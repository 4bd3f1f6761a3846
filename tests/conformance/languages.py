"""The clients that the suite tests, and the programs that drive them."""

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
    """A column of the matrix: a client, and the commands that start its runner and its terminal chat."""

    name: str
    runner: Sequence[str]
    chat: Sequence[str]
    toolchain: Sequence[str] = ()

    def why_missing(self) -> str | None:
        """Returns what is missing to run the client, or None."""
        if missing := [tool for tool in self.toolchain if shutil.which(tool) is None]:
            return f"{' and '.join(missing)} not installed"
        if not Path(self.runner[0]).exists():
            return f"{self.runner[0]} not built: make conformance-runner chat builds it in the client's folder"
        return None


def _python(name: str, client: str) -> Language:
    runner = (sys.executable, "-m", "tests.conformance.python_runner", client)
    return Language(name, runner, (sys.executable, str(ROOT / "examples" / "chat.py")))


def _built(name: str, *toolchain: str, variant: str = "") -> Language:
    build = ROOT / "client" / name / "build"
    runner = (str(build / "conformance-runner"), *filter(None, [variant]))
    return Language("-".join(filter(None, [name, variant])), runner, (str(build / "chat"),), toolchain)


LANGUAGES = (
    _python("python", "client"),
    _python("python-async", "async-client"),
    _built("go", "go"),
    _built("typescript", "node"),
    _built("java", "java"),
    _built("java", "java", variant="async"),
    _built("rust", "cargo"),
)

CI = bool(os.environ.get("CI"))
"""True if a missing client fails the run."""
