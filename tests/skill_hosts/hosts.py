"""The skill hosts of the examples that must be built: how to build them, and how to run them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.commands import run

EXAMPLES = Path(__file__).parents[2] / "examples"

# The last folder has the Go and the Node.js of PyPI, if the machine has none.
_PLACES = os.pathsep.join([*os.environ.get("PATH", "").split(os.pathsep), str(Path(sys.executable).parent)])


@dataclass(frozen=True)
class Built:
    """A host that is ready to run."""

    language: str
    command: Sequence[str]


def tool(name: str, language: str) -> str:
    """Returns the path of a build tool. If it is missing, the test is skipped."""
    command = shutil.which(name, path=_PLACES)
    if command is None:
        pytest.skip(f"{name} is not installed; the {language} skill host is built with it")
    return command


def build_go(go: str, binary: Path) -> Built:
    run(go, "build", "-buildvcs=false", "-o", str(binary), folder=EXAMPLES / "todo_host_go")
    return Built("Go", (str(binary),))


def build_typescript() -> Built:
    node, *_ = [tool(name, "TypeScript") for name in ("node", "npm", "make")]
    make_typescript("build")
    return Built("TypeScript", (node, str(EXAMPLES / "todo_host_typescript" / "build" / "src" / "main.js")))


def make_typescript(*targets: str) -> None:
    """Runs `make` with targets of the TypeScript host."""
    command = ["make", "-C", str(EXAMPLES / "todo_host_typescript"), *targets]
    ended = subprocess.run(command, env={**os.environ, "PATH": _PLACES}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
