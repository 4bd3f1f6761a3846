"""A complete run: start a server, create an assistant, ask questions and stream the replies.

`make demo` runs it. No key is needed. If OPENAI_API_KEY or AZURE_OPENAI_ENDPOINT is set, that model answers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import palaver

QUESTIONS = ("What is a palaver?", "And what did I ask you first?")


@contextmanager
def server() -> Iterator[str]:
    """Starts a server on a free port with a temporary database, and yields its address."""
    has_model = os.environ.get("OPENAI_API_KEY") or os.environ.get("AZURE_OPENAI_ENDPOINT")
    with tempfile.TemporaryDirectory(prefix="palaver-demo-") as folder:
        command = [sys.executable, "-m", "palaver_server", "--listen", "127.0.0.1:0", "--data-dir", folder]
        process = subprocess.Popen(
            command if has_model else [*command, "--offline-model"],
            env=os.environ | {"PALAVER_LOG_LEVEL": "warning"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline().strip()  # "palaver-server listening on 127.0.0.1:PORT"
            if not line:
                raise SystemExit("the server did not start; see its message above")
            print(f"$ palaver-server{'' if has_model else ' --offline-model'}\n{line}\n")
            yield line.rpartition(" ")[2]
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


def main() -> None:
    """Runs the demo."""
    with server() as address, palaver.Client(address) as client:
        created = client.create_assistant("demo", instructions="You are a friendly guide. Answer in two sentences.")
        print(f'Created the assistant "{created.assistant.id}".')
        for question in QUESTIONS:
            print(f"\nYou:       {question}\nAssistant: ", end="")
            reply = client.post_user_query("demo", question)
            pieces = 0
            for text in reply.text:
                print(text, end="", flush=True)
                pieces += 1
            completed = reply.completed
            print(
                f"\n           ({pieces} pieces, {completed.usage.total_tokens} tokens, "
                f"finish reason {completed.finish_reason.name}, model {completed.chat_model})"
            )
        stored = client.get_assistant("demo").total_messages
        print(f"\nThe server stored the conversation: {stored} messages, including the instructions.")
    print(
        "\nWhat next?\n"
        "  make run     a server on 127.0.0.1:50051 (set OPENAI_API_KEY first for a real model)\n"
        "  make chat    chat with it in a second terminal\n"
        "  README.md    five lines of Python, and the same call with grpcurl"
    )


if __name__ == "__main__":
    main()
