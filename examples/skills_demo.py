"""Skills in action: start a to-do host and a server, and let the model call the skills of the host.

`make demo-skills` runs it. No key is needed: the offline model calls the skills that the messages name. If
OPENAI_API_KEY or AZURE_OPENAI_ENDPOINT is set, that model decides which skills to call.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import palaver

HAS_MODEL = bool(os.environ.get("OPENAI_API_KEY") or os.environ.get("AZURE_OPENAI_ENDPOINT"))
MESSAGES = (
    ("Remind me to call my dad", "and to take out the trash", "What do I have to do?")
    if HAS_MODEL
    else ('/add_todo {"task": "call my dad"}', '/add_todo {"task": "take out the trash"}', "/list_todos")
)
TODO_HOST = Path(__file__).parent / "todo_host" / "todo_host.py"


@contextmanager
def running(*command: str, **variables: str) -> Iterator[str]:
    """Runs a program whose output begins with "NAME listening on ADDRESS", and yields the address."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | variables)
    assert process.stdout is not None
    try:
        line = process.stdout.readline().strip()
        if not line:
            raise SystemExit("a program did not start; see its message above")
        print(line)
        yield line.split()[3]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def main() -> None:
    """Runs the demo."""
    with tempfile.TemporaryDirectory(prefix="palaver-demo-") as folder:
        host = [sys.executable, str(TODO_HOST), "--listen", "127.0.0.1:0", "--database", f"{folder}/todos.db"]
        server = [sys.executable, "-m", "palaver_server", "--listen", "127.0.0.1:0", "--data-dir", folder]
        if not HAS_MODEL:
            server.append("--offline-model")
        with (
            running(*host) as skills,
            running(*server, PALAVER_SKILL_HOSTS=skills, PALAVER_LOG_LEVEL="warning") as address,
            palaver.Client(address) as client,
        ):
            client.create_assistant("demo", instructions="You keep the user's to-dos with your skills.")
            for message in MESSAGES:
                print(f"\nYou:       {message}")
                show(client.post_user_query("demo", message))


def show(reply: palaver.Reply) -> None:
    """Prints a reply as it arrives, including the skill calls."""
    prefix = "Assistant: "
    for event in reply:
        if isinstance(event, palaver.SkillCall):
            print(f"Skill:     {event.name} {event.arguments_json}")
        elif isinstance(event, palaver.SkillResult):
            print(f"           → {event.content if event.error is None else event.error}")
        elif isinstance(event, palaver.TextDelta):
            print(prefix + event.text, end="", flush=True)
            prefix = ""
    print()


if __name__ == "__main__":
    main()
