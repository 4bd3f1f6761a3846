"""`palaver chat`: a conversation in the terminal, or line by line where there is none."""

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

if sys.platform != "win32":
    import termios

_COMMAND = re.compile(r"/[a-z]+")

_HELP = """\
Enter             sends the message
Alt-Enter         begins a new line (Esc, then Enter does the same)
Up, Down, Ctrl-R  find earlier messages
Ctrl-C            stops the reply, or clears the message
Ctrl-D, /quit     leaves; the conversation is kept on the server
/help             shows this\
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
        """Creates the assistant unless it exists, chats, and returns the exit status."""
        created = self._client.create_assistant(
            self._id, instructions=instructions, if_exists=palaver.IfExists.KEEP, **self._settings.storage
        )
        if self._settings.as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
            return self._run_lines()
        self._greet(created)
        self._run_prompt()
        return 0

    def _post(self, message: str) -> palaver.Reply:
        return self._client.post_user_query(self._id, message, **self._options)

    # Without a terminal: every line is a message.

    def _run_lines(self) -> int:
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
        state = "a new conversation" if created.created else f"{created.assistant.total_messages} messages so far"
        self._say(f'"{self._id}" at {self._settings.server}, {state}. /help shows the keys.', "dim")

    def _run_prompt(self) -> None:
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
            except KeyboardInterrupt:  # pressed once more than needed
                continue

    def _handle(self, message: str) -> None:
        if message == "/help":
            self._console.print(Text(_HELP))
        elif _COMMAND.fullmatch(message):
            self._say(f"There is no {message}. /help shows what there is.", "dim")
        elif message:
            self._take_turn(message)
        self._console.print()

    def _take_turn(self, message: str) -> None:
        reply = self._post(message)
        try:
            with _without_echo(), reply:
                note = self._show(reply)
        except KeyboardInterrupt:
            if not reply.is_completed:
                self._say("Stopped. Nothing of this turn was kept.", "yellow")
        except palaver.PalaverError as error:
            for line in _output.error_lines(error, self._settings.server):
                self._say(line, "red")
        else:
            if note:
                self._say(note, "yellow")

    def _show(self, reply: palaver.Reply) -> str:
        """Shows a reply while it arrives, and returns what there is to say about its end."""
        started = None
        with MarkdownStream(self._console) as screen:
            for event in reply:
                if isinstance(event, palaver.TextDelta):
                    screen.write(event.text)
                elif isinstance(event, palaver.TurnStarted):
                    if started is not None:
                        screen.print_line(_dim(_output.BEGUN_ANEW))
                    started = event
                elif isinstance(event, palaver.SkillCall):
                    screen.print_line(_dim(f"calls {event.name} {event.arguments_json}"))
                elif isinstance(event, palaver.SkillResult) and event.error is not None:
                    screen.print_line(_dim(f"which fails: {event.error}"))
        return _output.finish_note(reply, started)

    def _say(self, text: str, style: str) -> None:
        self._console.print(Text(text, style=style))


def _dim(text: str) -> Text:
    return Text(_output.safe(" ".join(text.split())), style="dim")


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c")
    def clear(event: KeyPressEvent) -> None:
        event.current_buffer.reset()

    return bindings


def _history() -> History:
    """Returns the history of messages, which only its owner can read; without a place for it, one for this chat."""
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
    """Keeps what is typed during a reply from being painted into it. It is there at the next prompt."""
    if sys.platform == "win32":
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    quiet = [*before]
    quiet[3] = before[3] & ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
