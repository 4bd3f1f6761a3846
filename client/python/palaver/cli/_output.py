"""Writes to standard output and standard error, except in the interactive chat."""

from __future__ import annotations

import io
import sys
from collections.abc import Container, Iterable, Sequence
from datetime import datetime

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

import palaver
from palaver.cli import _json
from palaver.cli._terminal import printable

_FINISH_NOTES = {
    palaver.FinishReason.LENGTH: "The reply was cut off at its token limit{limit}; set a higher --max-tokens.",
    palaver.FinishReason.CONTENT_FILTER: "The reply was cut off by the endpoint's content filter.",
    palaver.FinishReason.SKILL_LIMIT: "The model kept calling skills until the server's limit was reached.",
    palaver.FinishReason.SKILL_CALLS: "The model is waiting for the results of skills that the caller runs.",
}


def use_utf8() -> None:
    """Makes all output UTF-8, except on a terminal with another encoding, where other characters become "?"."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")


def write(text: str) -> None:
    """Writes text to standard output and flushes it. A terminal gets only printable characters."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def print_message(message: palaver.Message, max_characters: int | None = None) -> None:
    """Writes a stored message to standard output, up to a number of characters of its content."""
    title = Text(f"#{message.index} {message.role}, {local_time(message.create_time)}", style="bold")
    Console(highlight=False).print(title, soft_wrap=True)
    for call in message.skill_calls:
        write(f"[calls {call.name} {call.arguments_json}]\n")
    rest = len(message.content) - (max_characters or len(message.content))
    write(f"{message.content[:max_characters]} … ({rest} more characters)\n" if rest > 0 else f"{message.content}\n")


def local_time(time: datetime) -> str:
    """Returns a time in the time zone of the machine."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Container[str] = ()) -> str:
    """Returns a table as text. Columns are aligned to the left, except those in `right`."""
    lines = [columns, *rows]
    widths = [max(map(cell_len, cells)) for cells in zip(*lines, strict=True)]

    def aligned(line: Sequence[str]) -> str:
        cells = (
            padding + cell if name in right else cell + padding
            for name, cell, width in zip(columns, line, widths, strict=True)
            for padding in (" " * (width - cell_len(cell)),)
        )
        return "  ".join(cells).rstrip() + "\n"

    return "".join(map(aligned, lines))


def print_notice(text: str) -> None:
    """Writes a message for the user to standard error."""
    _print_error(f"palaver: {text}")


def _print_error(line: str) -> None:
    """Writes a line to standard error. A terminal gets only printable characters."""
    print(printable(line) if sys.stderr.isatty() else line, file=sys.stderr)  # noqa: T201 - it is for the user here


def error_lines(error: palaver.PalaverError, server: str) -> list[str]:
    """Returns the description of an error: one line, and another one for each invalid field."""
    message = error.message
    if error.field_violations:  # the server's message repeats their descriptions
        message = "the request is invalid"
    elif isinstance(error, palaver.UnavailableError) and not error.reason:
        message = f"can't reach the server at {server}: {message}"
    codes = ", ".join(filter(None, (error.status.name, error.reason)))
    lines = [f"{message} ({codes})"]
    lines += [f"  {violation.field}: {violation.description}" for violation in error.field_violations]
    return [printable(" ".join(line.splitlines())) for line in lines]


def show_error(error: palaver.PalaverError, server: str, *, as_json: bool) -> None:
    """Writes an error to standard error, for the user or as JSON."""
    if as_json:
        _print_error(_json.error_line(error))
        return
    first, *others = error_lines(error, server)
    print_notice(first)
    for line in others:
        _print_error(line)


REPLY_RESTARTED = "The connection broke; the reply restarts."


def finish_note(reply: palaver.Reply, started: palaver.TurnStarted | None) -> str:
    """Returns a note about why a reply ended early, or an empty string if it is complete."""
    limit = f" of {started.max_tokens}" if started and started.max_tokens is not None else ""
    return _FINISH_NOTES.get(reply.completed.finish_reason, "").format(limit=limit)


def stream_reply(reply: palaver.Reply, *, as_json: bool) -> None:
    """Writes a reply to standard output as it arrives: its text, or a line of JSON for each event."""
    with reply:
        if as_json:
            for event in reply:
                write(_json.event_line(event) + "\n")
            return
        started = None
        last = ""
        try:
            for event in reply:
                if isinstance(event, palaver.TextDelta):
                    write(event.text)
                    last = event.text
                elif isinstance(event, palaver.TurnStarted):
                    if started is not None:
                        write("\n" if last else "")
                        print_notice(REPLY_RESTARTED)
                        last = ""
                    started = event
        finally:
            if last and not last.endswith("\n"):
                write("\n")
        if text := finish_note(reply, started):
            print_notice(text)
