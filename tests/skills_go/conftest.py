from __future__ import annotations

import fcntl
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.commands import run

HOST = Path(__file__).parents[2] / "examples" / "todo_host_go"


@pytest.fixture(scope="session")
def go() -> str:
    here = Path(sys.executable).parent  # where the wheel of Go puts it
    command = shutil.which("go", path=os.pathsep.join([*os.environ.get("PATH", "").split(os.pathsep), str(here)]))
    if command is None:
        pytest.skip("Go is not installed, which the skill host in Go is built with")
    return command


@pytest.fixture(scope="session")
def binary(go: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("todo_host_go") / "todo_host"
    # Of several processes of pytest, one compiles at a time; the others find its work in the cache of Go.
    with (tmp_path_factory.getbasetemp().parent / "go.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(go, "build", "-buildvcs=false", "-o", str(path), folder=HOST)
    return path
