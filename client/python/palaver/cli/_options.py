"""The options of the commands, and the settings that they are parsed into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

import click

import palaver

_Function = TypeVar("_Function", bound=Callable[..., Any])

_MAX_INT32 = 2**31 - 1
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class Storage(TypedDict):
    """The storage of the assistants, as keyword arguments of the client's methods."""

    chat_storage_connection_setting: str
    collection_name: str


_RECONNECT_TIMEOUT = 3.0
"""Shorter than the library's default, so that a user at a terminal soon learns that the server can't be reached."""


@dataclass
class Settings:
    """The settings of every command: the server, how to call it, and the storage of the assistants."""

    server: str = ""
    tls: bool = False
    ca: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    token: str | None = None
    timeout: float | None = None
    connection: str = ""
    collection: str = ""
    as_json: bool = False

    @property
    def storage(self) -> Storage:
        """The storage of the assistants."""
        return {"chat_storage_connection_setting": self.connection, "collection_name": self.collection}

    def query(self, options: Mapping[str, Any]) -> palaver.QueryOptions:
        """Returns the keyword arguments of a query for the options that `query_options` adds."""
        return cast("palaver.QueryOptions", {**options, **self.storage})

    def client(self) -> palaver.Client:
        """Returns a client for the server.

        Raises:
            click.UsageError: The options are invalid.
        """
        try:
            return palaver.Client(
                self.server,
                tls=self.ca or self.tls,
                client_certificate=self.client_certificate,
                client_key=self.client_key,
                token=self.token,
                timeout=self.timeout,
                reconnect_timeout=_RECONNECT_TIMEOUT,
            )
        except (OSError, ValueError) as error:
            raise click.UsageError(str(error)) from error


def utf8_text(value: str) -> str:
    """Returns the value, or rejects it if it can't be sent because it is not UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise click.BadParameter("the text is not UTF-8") from error
    return value


def text_or_file(value: str) -> str:
    """Returns the value, or the content of a file if the value is "@" and its name."""
    if not value.startswith("@"):
        return utf8_text(value)
    try:
        return Path(value[1:]).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(str(error)) from error


def integer(value: str) -> int:
    """Parses an integer and checks that it fits into the contract's fields. The server does all other checks."""
    try:
        number = int(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a whole number") from error
    if abs(number) > _MAX_INT32:
        raise click.BadParameter(f"{value} is out of range")
    return number


def _store_setting(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Stores an option in the settings. A command's copy of a global option is stored only if the user gave it."""
    settings = ctx.ensure_object(Settings)
    if ctx.parent is None or value not in {None, False}:
        setattr(settings, str(param.name), value)
    return value


def _settings_options(*, is_global: bool) -> list[Callable[[_Function], _Function]]:
    """Returns the options of the settings: the global ones, or their hidden copies for a command."""

    def option(*names: str, envvar: str | None = None, default: Any = None, **attributes: Any) -> Any:
        if is_global:
            attributes |= {"envvar": envvar, "default": default, "show_envvar": envvar is not None}
        return click.option(*names, callback=_store_setting, expose_value=False, hidden=not is_global, **attributes)

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
            envvar="PALAVER_CA",
            type=_FILE,
            help="Use TLS, and trust the certificate authorities in this PEM file instead of the default ones.",
        ),
        option(
            "--client-certificate",
            envvar="PALAVER_CLIENT_CERTIFICATE",
            type=_FILE,
            help="The PEM file with the certificate chain to identify with over TLS.",
        ),
        option(
            "--client-key",
            envvar="PALAVER_CLIENT_KEY",
            type=_FILE,
            help="The PEM file with the private key of --client-certificate.",
        ),
        option("--token", envvar="PALAVER_TOKEN", metavar="TOKEN", help="The bearer token to send."),
        option("--timeout", type=click.FloatRange(min=0, min_open=True), help="The deadline of each call, in seconds."),
        option(
            "--connection", default="", type=utf8_text, metavar="NAME", help="The server's storage connection to use."
        ),
        option("--collection", default="", type=utf8_text, metavar="NAME", help="The collection to use."),
    ]


def global_options(function: _Function) -> _Function:
    """Adds the global options to the group of commands."""
    for option in reversed(_settings_options(is_global=True)):
        function = option(function)
    return function


def command_options(function: _Function) -> _Function:
    """Adds `--json`, and hidden copies of the global options, which may also be given after the command."""
    for option in _settings_options(is_global=False):
        function = option(function)
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        callback=_store_setting,
        expose_value=False,
        help="Print results and errors as JSON, one object per line, with the contract's names.",
    )(function)


def query_options(function: _Function) -> _Function:
    """Adds the options of a query, as keyword arguments with the names of `palaver.QueryOptions`."""
    for option in reversed(
        [
            click.option("--model", "chat_model", default="", type=utf8_text, metavar="NAME", help="The model."),
            click.option("--temperature", type=float, help="The sampling temperature, from 0 to 2."),
            click.option("--top-p", type=float, help="The nucleus sampling mass, up to 1."),
            click.option("--max-tokens", type=integer, help="The maximum number of tokens that the model may write."),
            click.option("--reasoning", "is_reasoning_model", is_flag=True, help="The model is a reasoning model."),
            click.option(
                "--ai-connection",
                "ai_connection_name",
                default="",
                type=utf8_text,
                metavar="NAME",
                help="The server's AI connection to use.",
            ),
            click.option(
                "--max-history",
                "max_history_messages",
                type=integer,
                help="The maximum number of stored messages to send to the model.",
            ),
        ]
    ):
        function = option(function)
    return function
