"""The subcommands for operators."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta, timezone
from itertools import islice

import click

import palaver
from palaver.cli import _json, _output
from palaver.cli._admin_client import AdminClient
from palaver.cli._options import Settings, command_options, utf8_text
from palaver.v1 import admin_service_pb2 as pb
from palaver.v1 import assistant_pb2

_PING_TIMEOUT = 5.0
"""Seconds, unless --timeout is given. A health check that hangs must not keep what has started it waiting."""

_SHOWN_CHARACTERS = 300
"""The characters of a message that `show` prints at most."""

_LATEST_CALL = (
    "Tokens are those of each assistant's latest model call: the size of its context, and not what was spent."
)

_TURN_COLUMNS = (
    *("AGE", "PHASE", "CALLER", "MODEL", "CHARACTERS", "TOKENS", "READERS", "COLLECTION", "ID", "REQUEST"),
)
_NUMBERS = frozenset({"CHARACTERS", "TOKENS", "READERS"})


@contextmanager
def _admin_client(settings: Settings) -> Iterator[AdminClient]:
    with settings.client() as client:
        yield AdminClient(client, settings)


@click.command("list")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Print at most N assistants.")
@command_options
@click.pass_obj
def list_assistants(settings: Settings, limit: int | None) -> None:
    """List the assistants of a collection. This takes admin access."""
    if not settings.as_json:
        _output.write(f"{'UPDATED':<19}  {'MESSAGES':>8}  {'TOKENS':>10}  ID\n")
    with _admin_client(settings) as client:
        for assistant in _assistants(client, limit):
            if settings.as_json:
                _output.write(_json.contract_line(assistant) + "\n")
                continue
            updated = _output.local_time(assistant.update_time.ToDatetime(timezone.utc))
            _output.write(
                f"{updated:<19}  {assistant.total_messages:>8}  {assistant.total_tokens:>10}  {assistant.id}\n"
            )


def _assistants(client: AdminClient, limit: int | None = None) -> Iterator[assistant_pb2.Assistant]:
    """Yields the assistants of the collection, and reports those that are damaged."""
    for page in client.list_assistants(limit):
        for name in page.damaged_ids:
            _output.print_notice(f'the stored state of "{name}" is damaged')
        yield from page.assistants


@click.command("show")
@click.argument("assistant_id", metavar="ID", type=utf8_text)
@click.option(
    "--messages",
    "limit",
    type=click.IntRange(min=0, max=1000),
    default=5,
    show_default=True,
    metavar="N",
    help="Print the N newest messages.",
)
@command_options
@click.pass_obj
def show(settings: Settings, assistant_id: str, limit: int) -> None:
    """Show the state of an assistant and its newest messages."""
    with settings.client() as client:
        assistant = client.get_assistant(assistant_id, **settings.storage)
        newest = client.list_messages(
            assistant_id, order=palaver.Order.NEWEST_FIRST, page_size=limit or None, **settings.storage
        )
        messages = list(islice(newest, limit))[::-1]
    if settings.as_json:
        _output.write(_json.conversation_line(assistant, messages) + "\n")
        return
    for name, value in {
        "id": assistant.id,
        "created": _output.local_time(assistant.create_time),
        "updated": _output.local_time(assistant.update_time),
        "messages": str(assistant.total_messages),
        "tokens": f"{assistant.total_tokens} in the latest model call",
    }.items():
        _output.write(f"{name:<8}  {value}\n")
    for message in messages:
        _output.write("\n")
        _output.print_message(message, max_characters=_SHOWN_CHARACTERS)


@click.command("usage")
@click.option(
    "--top",
    type=click.IntRange(min=0, max=1000),
    default=10,
    show_default=True,
    metavar="N",
    help="Print the N assistants with the largest contexts.",
)
@command_options
@click.pass_obj
def usage(settings: Settings, top: int) -> None:
    """Sum up the assistants of a collection, and show the largest ones. This takes admin access."""
    count = messages = tokens = 0
    largest: list[tuple[int, int, assistant_pb2.Assistant]] = []
    with _admin_client(settings) as client:
        for assistant in _assistants(client):
            count += 1
            messages += assistant.total_messages
            tokens += assistant.total_tokens
            heapq.heappush(largest, (assistant.total_tokens, -count, assistant))
            if len(largest) > top:
                heapq.heappop(largest)
    listed = [assistant for _, _, assistant in sorted(largest, reverse=True)]
    if settings.as_json:
        _output.write(_json.usage_line(count, messages, tokens, listed) + "\n")
        return
    _output.write(f"{'MESSAGES':>8}  {'TOKENS':>10}  ID\n")
    for assistant in listed:
        _output.write(f"{assistant.total_messages:>8}  {assistant.total_tokens:>10}  {assistant.id}\n")
    _output.write(f"{messages:>8}  {tokens:>10}  ({_counted(count, 'assistant')})\n")
    _output.print_notice(_LATEST_CALL)


@click.command("ping")
@command_options
@click.pass_context
def ping(ctx: click.Context) -> None:
    """Check the health of the server. The exit status is 0 only if it is SERVING."""
    settings: Settings = ctx.obj
    with _admin_client(settings) as client:
        started = time.perf_counter()
        status = client.check_health(_PING_TIMEOUT)
        latency = time.perf_counter() - started
    if settings.as_json:
        _output.write(_json.health_line(status, timedelta(seconds=latency)) + "\n")
    else:
        _output.write(f"{status} ({latency * 1000:.1f} ms)\n")
    ctx.exit(0 if status == "SERVING" else 1)


@click.group("turns", invoke_without_command=True)
@click.option("--watch", is_flag=True, help="Print them again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0.01),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="The time between two prints of --watch.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1, max=1000),
    default=100,
    show_default=True,
    metavar="N",
    help="Print the N oldest turns.",
)
@command_options
@click.pass_context
def turns(ctx: click.Context, watch: bool, interval: float, limit: int) -> None:
    """List the running turns of one process of the server. This takes admin access."""
    if ctx.invoked_subcommand is not None:
        return
    settings: Settings = ctx.obj
    with _admin_client(settings) as client:
        while True:
            response = client.list_running_turns(limit)
            if settings.as_json:
                _output.write(_json.contract_line(response) + "\n")
            else:
                if watch:
                    click.clear()  # does nothing if the output is not a terminal
                _output.write(_turns_table(response))
            if not watch:
                return
            time.sleep(interval)


@turns.command("cancel")
@click.argument("assistant_id", metavar="ID", type=utf8_text)
@click.argument("request_id", metavar="REQUEST", type=utf8_text)
@command_options
@click.pass_obj
def cancel(settings: Settings, assistant_id: str, request_id: str) -> None:
    """Cancel a running turn. Its callers get an error, and nothing of it is stored."""
    with settings.client() as client:
        client.cancel_turn(assistant_id, request_id, **settings.storage)
    _output.write(
        "{}\n" if settings.as_json else f'Cancelled the turn "{request_id}" of the assistant "{assistant_id}".\n'
    )


@click.command("settings")
@command_options
@click.pass_obj
def show_settings(settings: Settings) -> None:
    """Show the settings and the connections of the server. This takes admin access."""
    with _admin_client(settings) as client:
        response = client.get_server_settings()
    if settings.as_json:
        _output.write(_json.contract_line(response) + "\n")
        return
    _output.write(f"{_process(response.process)}; * is not the default\n")
    for setting in response.settings:
        _output.write(f"{' ' if setting.is_default else '*'} {setting.name}={setting.value}\n")
    _output.write("\nstorage connections\n")
    _output.write("".join(map(_connection_line, response.storage_connections)))
    _output.write("AI connections\n")
    _output.write("".join(map(_connection_line, response.ai_connections)))


ADMIN_COMMANDS = (list_assistants, show, usage, ping, turns, show_settings)


def _connection_line(connection: pb.ServerConnection) -> str:
    kind = pb.ServerConnectionKind.Name(connection.kind).removeprefix("SERVER_CONNECTION_KIND_").lower()
    return f"  {connection.name}{' (default)' if connection.is_default else ''}: {kind}, {connection.location}\n"


def _process(process: pb.ServerProcess) -> str:
    return f"process {process.process_id} on {process.host_name}"


def _turns_table(response: pb.ListRunningTurnsResponse) -> str:
    """Returns the running turns as a table, under a line that says how many there are."""
    shown, total = len(response.turns), response.total_turns
    count = _counted(total, "turn") if shown == total else f"the oldest {shown} of {total} turns"
    title = f"{count} in {_process(response.process)}\n"
    return title + _output.table(_TURN_COLUMNS, map(_turn_row, response.turns), right=_NUMBERS) if shown else title


def _turn_row(turn: pb.RunningTurn) -> tuple[str, ...]:
    return (
        _age(turn.age.ToTimedelta()),
        pb.RunningTurnPhase.Name(turn.phase).removeprefix("RUNNING_TURN_PHASE_").lower(),
        turn.caller,
        turn.chat_model,
        str(turn.characters),
        str(turn.usage.total_tokens),
        str(turn.readers),
        turn.collection_name,
        turn.assistant_id,
        turn.request_id,
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _age(age: timedelta) -> str:
    """Returns an age with a tenth of a second, or in hours, minutes and seconds if it is over a minute."""
    seconds = age.total_seconds()
    return f"{seconds:.1f}s" if seconds < 60 else str(timedelta(seconds=int(seconds)))
