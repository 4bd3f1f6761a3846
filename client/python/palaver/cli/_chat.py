"""`palaver chat`: an interactive conversation, or line by line without a terminal."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from rich.console import Console
from rich.text import Text

import palaver
from palaver.cli import _output
from palaver.cli._markdown import MarkdownStream
from palaver.cli._options import Settings
from palaver.cli._terminal import printable

if sys.platform != "win32":
    import termios

_COMMAND = re.compile(r"/[a-z]+")

_WAITING = {
    palaver.ProgressPhase.UNKNOWN: "waiting for the reply",
    palaver.ProgressPhase.MODEL: "the model is thinking",
    palaver.ProgressPhase.SKILL: "a skill is running",
}

_HELP = """\
Enter             send the message
Alt-Enter         start a new line (or press Esc, then Enter)
Up, Down, Ctrl-R  find earlier messages
Ctrl-C            stop the reply, or clear the message
Ctrl-D, /quit     quit; the server keeps the conversation
/help             show this help\
"""


class Chat:
    """A conversation with one assistant."""

    def __init__(
        self, client: palaver.Client, settings: Settings, assistant_id: str, options: palaver.QueryOptions
    ) -> None:
        self._client = client
        self._settings = settings
        self._id = assistant_id
        self._options = options
        self._console = Console(highlight=False)

    def run(self, instructions: str | None) -> int:
        """Creates the assistant if it does not exist, chats, and returns the exit status."""
        created = self._client.create_assistant(
            self._id, instructions=instructions, if_exists=palaver.IfExists.KEEP, **self._settings.storage
        )
        if self._settings.as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
            return self._run_lines()
        self._greet(created)
        self._run_prompt()
        return 0

    def _post(self, message: str) -> palaver.Reply:
        """Posts a message with the options of the command line."""
        return self._client.post_user_query(self._id, message, **self._options)

    # Without a terminal: each line is a message.

    def _run_lines(self) -> int:
        """Posts each line of standard input, prints the replies and errors, and returns the exit status."""
        status = 0
        for raw in sys.stdin.buffer:
            message = raw.decode(errors="replace").strip()
            if not message:
                continue
            try:
                _output.stream_reply(self._post(message), as_json=self._settings.as_json)
            except palaver.PalaverError as error:
                _output.show_error(error, self._settings.server, as_json=self._settings.as_json)
                status = 1
        return status

    # In a terminal.

    def _greet(self, created: palaver.CreateAssistantResult) -> None:
        """Prints the name and the state of the conversation."""
        state = "a new conversation" if created.created else f"{created.assistant.total_messages} messages so far"
        self._print(f'"{self._id}" at {self._settings.server}, {state}. Type /help for the keys.', "dim")

    def _run_prompt(self) -> None:
        """Reads and handles messages until the user quits."""
        session: PromptSession[str] = PromptSession(
            FormattedText([("bold", "> ")]),
            multiline=True,
            prompt_continuation="  ",
            key_bindings=_key_bindings(),
            history=_history(),
        )
        while True:
            try:
                message = session.prompt().strip()
            except EOFError:
                return
            if message in {"/quit", "/exit"}:
                return
            try:
                self._handle(message)
            except KeyboardInterrupt:  # Ctrl-C was pressed again while a reply was being stopped
                continue

    def _handle(self, message: str) -> None:
        """Runs a command such as /help, or posts the message."""
        if message == "/help":
            self._console.print(Text(_HELP))
        elif _COMMAND.fullmatch(message):
            self._print(f"Unknown command {message}. Type /help for help.", "dim")
        elif message:
            self._take_turn(message)
        self._console.print()

    def _take_turn(self, message: str) -> None:
        """Posts a message and shows its reply, or the error. Ctrl-C cancels the turn."""
        reply = self._post(message)
        try:
            with _without_echo(), reply:
                note = self._show(reply)
        except KeyboardInterrupt:
            if not reply.is_completed:
                self._print("Stopped. This turn was not stored.", "yellow")
        except palaver.PalaverError as error:
            for line in _output.error_lines(error, self._settings.server):
                self._print(line, "red")
        else:
            if note:
                self._print(note, "yellow")

    def _show(self, reply: palaver.Reply) -> str:
        """Shows a reply as it arrives, and returns a note about its end, or an empty string."""
        started = None
        with MarkdownStream(self._console) as screen:
            for event in reply:
                if isinstance(event, palaver.TextDelta):
                    screen.write(event.text)
                elif isinstance(event, palaver.TurnStarted):
                    if started is not None:
                        screen.print_line(_dim_line(_output.REPLY_RESTARTED))
                    started = event
                elif isinstance(event, palaver.Progress):
                    screen.show_progress(f"{_WAITING[event.phase]} ({event.elapsed.total_seconds():.0f} s)")
                elif isinstance(event, palaver.SkillCall):
                    screen.print_line(_dim_line(f"calling {event.name} {event.arguments_json}"))
                elif isinstance(event, palaver.SkillResult) and event.error is not None:
                    screen.print_line(_dim_line(f"the skill failed: {event.error}"))
        return _output.finish_note(reply, started)

    def _print(self, text: str, style: str) -> None:
        self._console.print(Text(text, style=style))


def _dim_line(text: str) -> Text:
    """Returns untrusted text as a dim line that is safe to print."""
    return Text(printable(" ".join(text.split())), style="dim")


def _key_bindings() -> KeyBindings:
    """Returns the key bindings of the prompt, which `_HELP` lists."""
    bindings = KeyBindings()

    @bindings.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def insert_line_break(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c")
    def clear(event: KeyPressEvent) -> None:
        event.current_buffer.reset()

    return bindings


def _history() -> History:
    """Returns the message history in a file that only the user can read, or in memory if that is not possible."""
    state = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".local" / "state"
    file = Path(state) / "palaver" / "history"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
        with file.open("ab"):
            return FileHistory(str(file))
    except OSError:
        return InMemoryHistory()


@contextmanager
def _without_echo() -> Iterator[None]:
    """Turns off the terminal's echo, so that typing does not disturb the reply. The next prompt gets the input."""
    if sys.platform == "win32":
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    no_echo = [*before]
    no_echo[3] = before[3] & ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, no_echo)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
