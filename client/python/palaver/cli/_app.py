"""The subcommands of `palaver`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import islice
from typing import Any

import click

import palaver
from palaver.cli import _json, _output
from palaver.cli._admin import ADMIN_COMMANDS
from palaver.cli._chat import Chat
from palaver.cli._options import (
    Settings,
    command_options,
    global_options,
    query_options,
    text_or_file,
    utf8_text,
)

_INTERRUPTED = 130  # by the convention of shells: 128 plus the number of SIGINT
_PAGE_SIZE = 1000


class _Group(click.Group):
    """A group of commands that prints the errors of calls, as JSON with `--json`."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command and exits with status 1 after an error of a call."""
        try:
            return super().invoke(ctx)
        except palaver.PalaverError as error:
            settings = ctx.ensure_object(Settings)
            _output.show_error(error, settings.server, as_json=settings.as_json)
            ctx.exit(1)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    _output.use_utf8()
    try:
        status = palaver_command.main(arguments, prog_name="palaver", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return _INTERRUPTED
    return status if isinstance(status, int) else 0


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="These options may also be given after the command.",
)
@click.version_option(package_name="palaver")
@global_options
def palaver_command() -> None:
    """Talk to the assistants of a Palaver server."""


_id_argument = click.argument("assistant_id", metavar="ID", type=utf8_text)


@palaver_command.command("create")
@_id_argument
@click.option(
    "--instructions", type=text_or_file, metavar="TEXT|@FILE", help="Instructions for the model, sent with every query."
)
@click.option(
    "--if-exists",
    type=click.Choice([choice.value for choice in palaver.IfExists]),
    default=palaver.IfExists.FAIL.value,
    show_default=True,
    help="What to do if the assistant already exists.",
)
@command_options
@click.pass_obj
def create(settings: Settings, assistant_id: str, instructions: str | None, if_exists: str) -> None:
    """Create an assistant."""
    with settings.client() as client:
        result = client.create_assistant(
            assistant_id,
            instructions=instructions,
            if_exists=palaver.IfExists(if_exists),
            **settings.storage,
        )
    if settings.as_json:
        _output.write(_json.message_line(result) + "\n")
    elif result.created:
        _output.write(f'Created the assistant "{assistant_id}".\n')
    else:
        messages = result.assistant.total_messages
        _output.write(f'Kept the existing assistant "{assistant_id}", which has {messages} messages.\n')


@palaver_command.command("ask")
@_id_argument
@click.argument("message", type=utf8_text, required=False)
@click.option("--create", "create_first", is_flag=True, help="Create the assistant if it does not exist.")
@query_options
@command_options
@click.pass_obj
def ask(settings: Settings, /, assistant_id: str, message: str | None, create_first: bool, **options: Any) -> None:
    """Ask an assistant and stream its reply.

    The message is read from standard input if it is - or omitted.
    """
    if message is None and sys.stdin.isatty():
        raise click.UsageError("Missing message: pass it as an argument or on standard input.")
    if message is None or message == "-":
        try:
            message = sys.stdin.buffer.read().decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise click.UsageError("Standard input is not UTF-8.") from error
    with settings.client() as client:
        if create_first:
            client.create_assistant(assistant_id, if_exists=palaver.IfExists.KEEP, **settings.storage)
        reply = client.post_user_query(assistant_id, message, **settings.query(options))
        _output.stream_reply(reply, as_json=settings.as_json)


@palaver_command.command("chat")
@click.argument("assistant_id", metavar="[ID]", type=utf8_text, default="chat")
@click.option(
    "--instructions",
    type=text_or_file,
    metavar="TEXT|@FILE",
    help="Instructions for the model, if the conversation is new.",
)
@query_options
@command_options
@click.pass_context
def chat(ctx: click.Context, /, assistant_id: str, instructions: str | None, **options: Any) -> None:
    """Chat with an assistant, creating it if it does not exist. ID defaults to "chat".

    Without a terminal, each line of standard input is a message.
    """
    settings: Settings = ctx.obj
    with settings.client() as client:
        ctx.exit(Chat(client, settings, assistant_id, settings.query(options)).run(instructions))


@palaver_command.command("history")
@_id_argument
@click.option("--newest-first", is_flag=True, help="Start with the newest message.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Print at most N messages.")
@command_options
@click.pass_obj
def history(settings: Settings, assistant_id: str, newest_first: bool, limit: int | None) -> None:
    """Print the messages of a conversation."""
    with settings.client() as client:
        messages = client.list_messages(
            assistant_id,
            order=palaver.Order.NEWEST_FIRST if newest_first else palaver.Order.OLDEST_FIRST,
            page_size=_PAGE_SIZE if limit is None else min(max(limit, 1), _PAGE_SIZE),
            **settings.storage,
        )
        for message in islice(messages, limit):
            if settings.as_json:
                _output.write(_json.message_line(message) + "\n")
                continue
            _output.print_message(message)
            _output.write("\n")


@palaver_command.command("delete")
@_id_argument
@command_options
@click.pass_obj
def delete(settings: Settings, assistant_id: str) -> None:
    """Delete an assistant and all of its messages. This can't be undone."""
    with settings.client() as client:
        client.delete_assistant(assistant_id, **settings.storage)
    _output.write("{}\n" if settings.as_json else f'Deleted the assistant "{assistant_id}".\n')


for command in ADMIN_COMMANDS:
    palaver_command.add_command(command)
