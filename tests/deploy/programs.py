"""The programs that check deploy/, which `make deploy-tools` installs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROGRAMS = ROOT / "build" / "deploy-tools"
"""The programs in Go, which are built from `tests/deploy/tools`."""

_PLACES = os.pathsep.join([str(PROGRAMS), str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def program(name: str) -> str:
    """Returns the path of a program. If it is missing, the test is skipped, which CI does not accept."""
    path = shutil.which(name, path=_PLACES)
    if path is None:
        pytest.skip(f"NOT CHECKED: {name} is not installed; run `make deploy-tools`")
    return path


def ended(name: str, *arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a program in the root of the repository until it ends."""
    command = [program(name), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, check=False)


def output(name: str, *arguments: str | Path, given: str = "") -> str:
    """Runs a program that must succeed, and returns its output to stdout."""
    process = ended(name, *arguments, given=given)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout
