from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.skill_hosts.hosts import Built, build_go, build_typescript, tool


@pytest.fixture(scope="session")
def go() -> str:
    return tool("go", "Go")


@pytest.fixture(scope="session")
def built_go(go: str, tmp_path_factory: pytest.TempPathFactory) -> Built:
    with _alone("go", tmp_path_factory):
        return build_go(go, tmp_path_factory.mktemp("todo_host_go") / "todo_host")


@pytest.fixture(scope="session")
def built_typescript(tmp_path_factory: pytest.TempPathFactory) -> Built:
    with _alone("typescript", tmp_path_factory):
        return build_typescript()


@pytest.fixture(scope="session", params=["go", "typescript"])
def built(request: pytest.FixtureRequest) -> Built:
    """Each of the hosts."""
    return request.getfixturevalue(f"built_{request.param}")


@contextmanager
def _alone(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lets one process of pytest build at a time. The others then find its result."""
    with (tmp_path_factory.getbasetemp().parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
