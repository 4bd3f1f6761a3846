"""The options of the commands, and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

import click

import palaver

_Function = TypeVar("_Function", bound=Callable[..., Any])

_MAX_INT32 = 2**31 - 1


class Storage(TypedDict):
    """Where in the server the assistants are, as keyword arguments of the client's methods."""

    chat_storage_connection_setting: str
    collection_name: str


_RECONNECT_TIMEOUT = 3.0
"""Less than a program's: who sits before a terminal wants to know soon that there is no server."""


@dataclass
class Settings:
    """What holds for every command: the server, and where in it the assistants are."""

    server: str = ""
    tls: bool = False
    ca: Path | None = None
    token: str | None = None
    timeout: float | None = None
    connection: str = ""
    collection: str = ""
    as_json: bool = False

    @property
    def storage(self) -> Storage:
        """Where in the server the assistants are."""
        return {"chat_storage_connection_setting": self.connection, "collection_name": self.collection}

    def query(self, options: Mapping[str, Any]) -> palaver.QueryOptions:
        """Returns the keyword arguments of a query, from the values of the options that `query_options` adds."""
        return cast("palaver.QueryOptions", {**options, **self.storage})

    def client(self) -> palaver.Client:
        """Returns a client for the server.

        Raises:
            click.UsageError: The options do not make a client.
        """
        try:
            return palaver.Client(
                self.server,
                tls=self.ca or self.tls,
                token=self.token,
                timeout=self.timeout,
                reconnect_timeout=_RECONNECT_TIMEOUT,
            )
        except (OSError, ValueError) as error:
            raise click.UsageError(str(error)) from error


def text(value: str) -> str:
    """Checks text: what is no UTF-8 on the command line can't be sent."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise click.BadParameter("it is not UTF-8") from error
    return value


def text_or_file(value: str) -> str:
    """Reads text, or @ and the name of a file with it."""
    if not value.startswith("@"):
        return text(value)
    try:
        return Path(value[1:]).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(str(error)) from error


def integer(value: str) -> int:
    """Reads a number that the contract's fields can hold. What it means, the server judges."""
    try:
        number = int(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a whole number") from error
    if abs(number) > _MAX_INT32:
        raise click.BadParameter(f"{value} is out of range")
    return number


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Keeps an option in the settings; for a command's own copy of a global option, only if it is given."""
    settings = ctx.ensure_object(Settings)
    if ctx.parent is None or value not in {None, False}:
        setattr(settings, str(param.name), value)
    return value


def _settings_options(*, is_global: bool) -> list[Callable[[_Function], _Function]]:
    def option(*names: str, envvar: str | None = None, default: Any = None, **more: Any) -> Any:
        if is_global:
            more |= {"envvar": envvar, "default": default, "show_envvar": envvar is not None}
        return click.option(*names, callback=_keep, expose_value=False, hidden=not is_global, **more)

    return [
        option(
            "--server",
            envvar="PALAVER_SERVER",
            default="127.0.0.1:50051",
            show_default=is_global,
            metavar="HOST:PORT",
            help="The server.",
        ),
        option("--tls", is_flag=True, default=False, help="Use TLS."),
        option(
            "--ca",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="Use TLS, and trust the certificate authorities of this PEM file instead of the usual ones.",
        ),
        option("--token", envvar="PALAVER_TOKEN", metavar="TOKEN", help="The bearer token to send."),
        option("--timeout", type=click.FloatRange(min=0, min_open=True), help="The deadline of each call, in seconds."),
        option("--connection", default="", type=text, metavar="NAME", help="The server's storage connection to use."),
        option("--collection", default="", type=text, metavar="NAME", help="The collection to use."),
    ]


def global_options(function: _Function) -> _Function:
    """Adds the options that hold for every command."""
    for option in reversed(_settings_options(is_global=True)):
        function = option(function)
    return function


def command_options(function: _Function) -> _Function:
    """Adds `--json`, and the global options once more, so that they may stand behind the command, too."""
    for option in _settings_options(is_global=False):
        function = option(function)
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        callback=_keep,
        expose_value=False,
        help="Print a JSON object per line, with the contract's names; errors, too.",
    )(function)


def query_options(function: _Function) -> _Function:
    """Adds the parameters of the model, as keyword arguments whose names are those of `palaver.QueryOptions`."""
    for option in reversed(
        [
            click.option("--model", "chat_model", default="", type=text, metavar="NAME", help="The model."),
            click.option("--temperature", type=float, help="The sampling temperature, 0 to 2."),
            click.option("--top-p", type=float, help="The nucleus sampling mass, up to 1."),
            click.option("--max-tokens", type=integer, help="The most tokens that the model may write."),
            click.option("--reasoning", "is_reasoning_model", is_flag=True, help="It is a reasoning model."),
            click.option(
                "--ai-connection",
                "ai_connection_name",
                default="",
                type=text,
                metavar="NAME",
                help="The server's AI connection to use.",
            ),
            click.option(
                "--max-history", "max_history_messages", type=integer, help="The most stored messages to send along."
            ),
        ]
    ):
        function = option(function)
    return function
