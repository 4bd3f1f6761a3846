"""The image: its Dockerfile has no lint, and what its first stage installs runs. No engine builds it here."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from palaver_server.exposure import is_local
from tests.deploy.programs import DEPLOY, ROOT, output
from tests.support.calls import create_assistant, query
from tests.support.endpoint import Endpoint
from tests.support.metrics_page import scrape
from tests.support.ports import free_port
from tests.support.server_process import server_process

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
PREFIX = "/opt/palaver"


def instructions(stage: int) -> list[tuple[str, str]]:
    """Returns the instructions of a stage, with their lines joined."""
    text = re.sub(r"\\\n(?:#.*\n)*", "", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    lines = re.split(r"^FROM .*\n", text, flags=re.MULTILINE)[stage].splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def test_the_dockerfile_has_no_lint():
    output("hadolint", "--failure-threshold", "style", DOCKERFILE)


def test_the_context_is_an_allowlist_of_what_is_copied():
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    allowed = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    copied = {source for name, rest in instructions(1) if name == "COPY" for source in shlex.split(rest)[:-1]}
    assert rules[0] == "*"
    assert copied == set(allowed)


def test_the_image_runs_as_a_user_without_rights_and_keeps_its_data_in_one_folder():
    final = instructions(2)
    variables = dict(re.findall(r"(\w+)=(\S+)", next(rest for name, rest in final if name == "ENV")))
    assert dict(final)["USER"] == "10001:10001"
    assert not is_local(variables["PALAVER_LISTEN"])
    assert variables["PALAVER_LISTEN"].endswith(f":{dict(final)['EXPOSE']}")
    assert any(variables["PALAVER_DATA_DIR"] in rest for name, rest in final if name == "RUN")


def test_every_dependency_has_a_wheel_for_the_python_of_the_image(tmp_path: Path):
    version = re.search(r"^ARG PYTHON_IMAGE=python:([\d.]+)-", DOCKERFILE.read_text(), re.MULTILINE)
    assert version
    for machine in ("x86_64", "aarch64"):
        output(
            "uv", "pip", "install", "--quiet", "--dry-run", "--target", tmp_path, "--python-version", version.group(1),
            "--python-platform", f"{machine}-manylinux_2_28", "--only-binary", ":all:", "--require-hashes",
            "--requirement", "requirements/server.lock",
        )  # fmt: skip


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The virtual environment of the image, made by the commands of its first stage from the files of its context."""
    folder = tmp_path_factory.mktemp("image")
    build, prefix = folder / "build", folder / "palaver"
    build.mkdir()
    for name, rest in instructions(1):
        if name == "COPY":
            *sources, target = shlex.split(rest)
            for source in sources:
                _copy(ROOT / source, build / target / (Path(source).name if target.endswith("/") else ""))
        elif name == "RUN":
            command = rest.replace(PREFIX, str(prefix))
            process = subprocess.run(command, shell=True, cwd=build, capture_output=True, text=True, check=False)
            assert process.returncode == 0, process.stdout + process.stderr
    return prefix


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(
            source, target, ignore=lambda _, names: [name for name in names if fnmatch(name, "__pycache__")]
        )
    else:
        shutil.copy(source, target)


@pytest.mark.timeout(300)
async def test_the_server_of_the_image_serves_calls_and_metrics(installed: Path, tmp_path: Path, endpoint: Endpoint):
    final = dict(instructions(2))
    [entry] = re.findall(r'"([^"]+)"', final["ENTRYPOINT"])
    metrics = f"127.0.0.1:{free_port()}"
    command = (installed / "bin" / entry,)
    async with server_process(tmp_path, endpoint.url, command=command, PALAVER_METRICS_LISTEN=metrics) as server:
        await create_assistant(server)
        await server.stub.PostUserQueryUnary(query())
        assert (await scrape(metrics)).value("palaver_turns_total") == 1
        process = await asyncio.create_subprocess_exec(
            installed / "bin" / "palaver", "--server", server.address, "history", "a", stdout=subprocess.DEVNULL
        )
        assert await process.wait() == 0
    assert not (installed / "bin" / "pip").exists()


@pytest.mark.timeout(300)
async def test_the_health_check_of_the_image_asks_the_server(installed: Path, tmp_path: Path, endpoint: Endpoint):
    command, *arguments = re.findall(r'"([^"]+)"', dict(instructions(2))["HEALTHCHECK"])
    async with server_process(tmp_path, endpoint.url) as server:
        variables = {**os.environ, "PALAVER_SERVER": server.address}
        process = await asyncio.create_subprocess_exec(installed / "bin" / command, *arguments, env=variables)
        assert await process.wait() == 0
