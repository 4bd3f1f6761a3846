"""The documentation: its links have targets, its names exist, and its programs run."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import grpc
import pytest

import palaver
from palaver_server.settings import unknown_variables
from tests.support.palaver_server import palaver_server

ROOT = Path(__file__).parents[1]
FENCED = re.compile(r"^```([\w,]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def documents() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for path in listed.stdout.splitlines() if (ROOT / path).exists()]


DOCUMENTS = documents()
OF_THE_SERVER = [path for path in DOCUMENTS if not path.startswith(("client/", "tests/"))]
"""The pages whose commands and programs run in the root of the repository."""


@cache
def anchors(path: Path) -> set[str]:
    """Returns the anchors that GitHub generates for the headings."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in HEADING.findall(FENCED.sub("", path.read_text())):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def is_broken(link: str, document: Path) -> bool:
    target, _, anchor = link.partition("#")
    path = (document.parent / target).resolve() if target else document
    return not path.exists() or bool(anchor and anchor not in anchors(path))


@pytest.mark.parametrize("path", DOCUMENTS)
def test_links_have_targets(path: str):
    document = ROOT / path
    links = LINK.findall(CODE.sub("", FENCED.sub("", document.read_text())))
    assert [link for link in links if "://" not in link and is_broken(link, document)] == []


@pytest.mark.parametrize("path", OF_THE_SERVER)
def test_the_variables_and_commands_exist(path: str):
    text = (ROOT / path).read_text()
    variables = dict.fromkeys(re.findall(r"\bPALAVER_[A-Z_]+", text), "")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join([*(block for _, block in FENCED.findall(text)), *(span[1:-1] for span in CODE.findall(text))])
    commands = re.findall(r"(?:^|\s)make ((?:[a-z][a-z-]*(?:[ \t]|$))+)", code, re.MULTILINE)
    assert unknown_variables(variables) == []
    assert {target for command in commands for target in command.split()} - targets == set()


def programs(of_kind: str) -> list[str]:
    """Returns the Python programs that contain some words."""
    texts = ((ROOT / path).read_text() for path in OF_THE_SERVER)
    return [block for text in texts for kind, block in FENCED.findall(text) if kind == "python" and of_kind in block]


@pytest.mark.parametrize("program", programs("palaver.Client("))
async def test_a_program_of_a_caller_prints_a_reply(program: str, tmp_path: Path):
    async with palaver_server(tmp_path, offline_model=True) as server:
        async with palaver.AsyncClient(server.target) as client:
            await client.create_assistant("support-42")
        assert "127.0.0.1:50051" in program
        program = program.replace("127.0.0.1:50051", server.target)
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert b"offline" in output


async def test_the_program_of_a_skill_host_is_called(tmp_path: Path):
    [program] = programs("serve(")
    address = f"unix:{tmp_path / 'host'}"
    assert "127.0.0.1:50061" in program
    script = tmp_path / "prices.py"
    script.write_text(program.replace("127.0.0.1:50061", address))
    process = await asyncio.create_subprocess_exec(sys.executable, script)
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            await channel.channel_ready()
        settings = {"offline_model": True, "skill_hosts": (address,)}
        async with palaver_server(tmp_path, **settings) as server, palaver.AsyncClient(server.target) as client:
            await client.create_assistant("support-42")
            turn = await client.post_user_query_unary("support-42", '/price {"item": "tea"}')
            assert [message.content for message in turn.messages if message.skill_call_id] == ["2.5"]
            turn = await client.post_user_query_unary("support-42", '/price {"item": "beer"}')
            assert [message.content for message in turn.messages if message.skill_call_id] == [
                "there is no beer; the menu has tea, cake"
            ]
    finally:
        process.terminate()
        await process.wait()
