"""A minimal terminal chat: `python examples/chat.py [TARGET] [ASSISTANT_ID]`. `palaver chat` is the full version."""

from __future__ import annotations

import sys

import palaver
from palaver.cli import printable


def main(target: str = "127.0.0.1:50051", assistant: str = "chat") -> None:
    """Posts each line of standard input and streams the replies to standard output."""
    with palaver.Client(target) as client:
        while line := read_line():
            answer(client, assistant, line.rstrip("\n"))


def read_line() -> str:
    """Returns the next line, or an empty string at the end of the input."""
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    return sys.stdin.readline()


def answer(client: palaver.Client, assistant: str, message: str) -> None:
    """Posts a message and prints the reply, or the error."""
    try:
        client.create_assistant(assistant, if_exists="keep")
        # Even if the connection breaks, the turn continues, and each piece of the reply is delivered once.
        with client.post_user_query(assistant, message, on_disconnect="continue") as reply:
            show(client, assistant, reply)
    except palaver.PalaverError as error:
        print(printable(f"error: {error}"), file=sys.stderr)


def show(client: palaver.Client, assistant: str, reply: palaver.Reply) -> None:
    """Prints a reply as it arrives. Ctrl-C cancels the turn."""
    try:
        next(reply)  # the first event is `TurnStarted`; a second one voids all events before it
        for event in reply:
            if isinstance(event, palaver.TurnStarted):
                print("\n[the connection broke, and the reply restarts]")
            elif isinstance(event, palaver.TextDelta):
                print(printable(event.text), end="", flush=True)
            elif isinstance(event, palaver.SkillCall):
                print(printable(f"[{event.name} {event.arguments_json}]"), file=sys.stderr)
        print()
    except KeyboardInterrupt:
        print()
        client.cancel_turn(assistant, reply.request_id)


if __name__ == "__main__":
    main(*sys.argv[1:3])
