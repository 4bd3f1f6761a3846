"""The settings of the server, which are typed and checked when it starts.

Each setting is an environment variable with the prefix `PALAVER_` and a flag of `palaver-server` with the same name.
Connections are the exception: their names are those of the Azure Functions extension (`connections`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, FilePath, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from palaver_server import failpoints
from palaver_server.domain.conversation import DEFAULT_STORAGE_CONNECTION
from palaver_server.domain.generation import GenerationDefaults
from palaver_server.domain.limits import HISTORY_MESSAGES, MAX_LEASE_SECONDS, MAX_SKILL_ROUNDS, TEMPERATURE
from palaver_server.engine.options import EngineOptions
from palaver_server.logs import LogFormat, LogLevel
from palaver_server.stores.common import REPORTING_MARGIN, StoreTimeouts

MAX_PORT = 65_535

_GENERATION, _ENGINE, _STORE = GenerationDefaults(), EngineOptions(), StoreTimeouts()

CONNECTION_NAME = re.compile(r"[\w.-]{1,128}", re.ASCII)
CONNECTION_NAME_RULE = "names have 1 to 128 ASCII letters, digits, _, . and -"

Names = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """Assistants over gRPC. Every flag is also an environment variable: --data-dir is PALAVER_DATA_DIR.

    `palaver-server keygen NAME` makes a key for a caller. `palaver-server check [--json]` tries what a server with the
    same flags and variables would need, and says what is wrong.
    """

    model_config = SettingsConfigDict(
        env_prefix="PALAVER_",
        cli_prog_name="palaver-server",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        extra="ignore",
    )

    listen: str = Field("127.0.0.1:50051", description="HOST:PORT or unix:PATH to listen on; port 0 takes a free port")
    data_dir: Path = Field(Path("palaver-data"), description="directory of the SQLite database")
    offline_model: bool = Field(False, description="answer with a built-in model that needs no network and no key")
    reflection: bool = Field(False, description="serve gRPC reflection, for tools such as grpcurl")
    health_requires_model: bool = Field(
        False,
        description="report NOT_SERVING while the endpoint of the default AI connection fails, as while the default"
        " store does; the endpoint is asked for its list of models every 30 seconds, in each process",
    )
    workers: PositiveInt = Field(1, description="processes that share the port")
    tls_certificate: FilePath | None = Field(None, description="PEM file with the certificate chain; enables TLS")
    tls_key: FilePath | None = Field(None, description="PEM file with the private key of the certificate")
    tls_client_ca: FilePath | None = Field(
        None, description="PEM file with the authorities of client certificates; every client must then have one"
    )
    callers: FilePath | None = Field(
        None, description="TOML file with the callers and what they may do; without it, everyone may do everything"
    )
    allow_unauthenticated: bool = Field(
        False, description="listen beyond this machine without callers, because a gateway or a mesh authenticates"
    )
    allow_unencrypted: bool = Field(
        False, description="take keys and tokens from other machines without TLS, because a gateway or a mesh encrypts"
    )

    storage_connections: Names = Field(
        (DEFAULT_STORAGE_CONNECTION,), description="names of the storage connections that callers may use"
    )
    ai_connections: Names = Field((), description="names of the AI connections that callers may use")

    default_chat_model: str = Field(
        _GENERATION.chat_model, description="chat_model of a request that sets none", min_length=1
    )
    default_temperature: float = Field(
        _GENERATION.temperature,
        description="temperature of a request that sets none",
        ge=TEMPERATURE.low,
        le=TEMPERATURE.high,
    )
    default_max_tokens: PositiveInt = Field(
        _GENERATION.max_tokens, description="max_tokens of a request that sets none"
    )
    max_tokens_cap: PositiveInt | None = Field(None, description="upper limit of max_tokens, whatever a request says")
    history_messages: int = Field(
        _ENGINE.history_messages,
        description="stored messages to send to the model, besides the instructions",
        ge=HISTORY_MESSAGES.low,
        le=HISTORY_MESSAGES.high,
    )
    history_messages_cap: int = Field(
        _ENGINE.history_messages_cap,
        description="upper limit of history.max_messages, whatever a request says",
        ge=HISTORY_MESSAGES.low,
        le=HISTORY_MESSAGES.high,
    )
    history_bytes: PositiveInt = Field(
        _ENGINE.history_bytes,
        description="bytes of stored messages to send to the model in UTF-8; older messages are left out",
    )

    first_token_timeout: PositiveFloat = Field(
        _ENGINE.first_token_timeout, description="seconds until the model must begin its reply"
    )
    token_timeout: PositiveFloat = Field(
        _ENGINE.token_timeout, description="seconds the model may pause within its reply"
    )
    turn_timeout: PositiveFloat = Field(_ENGINE.turn_timeout, description="seconds a whole turn may take")
    max_turns: PositiveInt = Field(
        _ENGINE.max_turns, description="turns that may run or wait at a time, in each process"
    )
    max_address_turns: PositiveInt = Field(
        _ENGINE.max_address_turns,
        description="turns of callers at one address that may run or wait at a time, in each process; callers behind"
        " a proxy have the same address, and so have all of a Unix socket",
    )
    queue_limit: int = Field(
        _ENGINE.queue_limit, description="turns that may wait for one assistant, in each process", ge=0
    )
    lease_duration: float = Field(
        _ENGINE.lease_duration,
        description="seconds until the turn of a dead server stops blocking its assistant",
        ge=1,
        le=MAX_LEASE_SECONDS,
    )
    progress_interval: PositiveFloat = Field(
        _ENGINE.progress_interval,
        description="seconds a stream may be silent until the caller gets a progress event",
    )
    store_timeout: float = Field(
        _STORE.call, description="seconds a store call may take with retries", gt=REPORTING_MARGIN, le=60
    )
    commit_timeout: float = Field(
        _STORE.commit,
        description="seconds in which storing a finished turn in Azure is retried before it fails",
        gt=0,
        le=300,
    )
    skill_hosts: Names = Field(
        (),
        description="gRPC targets of skill hosts: HOST:PORT, or grpcs://HOST:PORT for TLS; each may be followed by "
        ";timeout=SECONDS, ;token-env=VARIABLE, ;ca=FILE, ;client-cert=FILE, ;client-key=FILE",
    )
    skill_timeout: PositiveFloat = Field(30, description="seconds a skill call may take, if its host has no timeout")
    max_skill_rounds: int = Field(
        _ENGINE.max_skill_rounds,
        description="times a turn may return to the model with results",
        ge=1,
        le=MAX_SKILL_ROUNDS,
    )
    log_level: LogLevel = Field(LogLevel.INFO, description="least severe messages that are logged")
    log_format: LogFormat = Field(LogFormat.TEXT, description="form of the log on stderr")
    metrics_listen: str | None = Field(
        None, description="HOST:PORT to serve metrics for Prometheus on; needs the extra otel"
    )

    grace_period: NonNegativeFloat = Field(30, description="seconds running turns have to finish when the server stops")

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, value: str) -> str:
        if not (value.startswith("unix:") or is_host_and_port(value)):
            raise ValueError(f"must be HOST:PORT with a port from 0 to {MAX_PORT}, or unix:PATH")
        return value

    @field_validator("metrics_listen")
    @classmethod
    def _check_metrics_listen(cls, value: str | None) -> str | None:
        if value is not None and not is_host_and_port(value):
            raise ValueError(f"must be HOST:PORT with a port from 0 to {MAX_PORT}")
        return value

    @field_validator("storage_connections", "ai_connections", "skill_hosts", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        return tuple(name for part in value.split(",") if (name := part.strip())) if isinstance(value, str) else value

    @field_validator("storage_connections", "ai_connections")
    @classmethod
    def _check_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        # Something else is most likely the connection string or the key itself, which no error may quote.
        for number, name in enumerate(names, start=1):
            if not CONNECTION_NAME.fullmatch(name):
                raise PydanticCustomError(
                    "name",
                    f"item {number} is not the name of a connection: {CONNECTION_NAME_RULE}",
                    {"is_private": True},
                )
        return names

    def store_timeouts(self) -> StoreTimeouts:
        """Returns the settings for stores."""
        return StoreTimeouts(call=self.store_timeout, commit=self.commit_timeout)

    def engine_options(self) -> EngineOptions:
        """Returns the settings for the engine."""
        return EngineOptions(
            generation=GenerationDefaults(
                chat_model=self.default_chat_model,
                temperature=self.default_temperature,
                max_tokens=self.default_max_tokens,
                max_tokens_cap=self.max_tokens_cap,
            ),
            history_messages=self.history_messages,
            history_messages_cap=self.history_messages_cap,
            history_bytes=self.history_bytes,
            first_token_timeout=self.first_token_timeout,
            token_timeout=self.token_timeout,
            turn_timeout=self.turn_timeout,
            max_turns=self.max_turns,
            max_address_turns=self.max_address_turns,
            queue_limit=self.queue_limit,
            lease_duration=self.lease_duration,
            progress_interval=self.progress_interval,
            max_skill_rounds=self.max_skill_rounds,
        )


def is_host_and_port(text: str) -> bool:
    """Returns whether a text is HOST:PORT."""
    host, _, port = text.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and int(port) <= MAX_PORT


class SettingsError(Exception):
    """A setting is invalid. The text is one line that names the setting and the reason."""


OTHER_VARIABLES = frozenset(
    {"PALAVER_SERVER", "PALAVER_TOKEN", "PALAVER_CA", "PALAVER_CLIENT_CERTIFICATE", "PALAVER_CLIENT_KEY"}
    | {failpoints.VARIABLE}
)
"""The variables of the client, and the failpoint of the fault harness."""


def load(arguments: Sequence[str]) -> Settings:
    """Reads flags and the environment; raises `SettingsError`."""
    try:
        settings = Settings(_cli_parse_args=list(arguments))  # type: ignore[call-arg]
    except ValidationError as error:
        raise SettingsError("; ".join(map(_line, error.errors()))) from None
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise SettingsError("PALAVER_TLS_CERTIFICATE and PALAVER_TLS_KEY: set both or neither")
    if settings.tls_client_ca is not None and settings.tls_certificate is None:
        raise SettingsError("PALAVER_TLS_CLIENT_CA: set PALAVER_TLS_CERTIFICATE and PALAVER_TLS_KEY too")
    if settings.history_messages > settings.history_messages_cap:
        cap = f"PALAVER_HISTORY_MESSAGES_CAP ({settings.history_messages_cap})"
        raise SettingsError(f"PALAVER_HISTORY_MESSAGES: must be at most {cap}, not {settings.history_messages}")
    return settings


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Returns the variables that look like settings but are not, most likely because they are misspelt."""
    known = {f"PALAVER_{name.upper()}" for name in Settings.model_fields} | OTHER_VARIABLES
    return sorted(name for name in environment if name.startswith("PALAVER_") and name.upper() not in known)


RULES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "enum": "must be {expected}",
    "float_parsing": "must be a number",
    "finite_number": "must be a number",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "less_than_equal": "must be at most {le:g}",
    "path_not_file": "must be the path of a file",
    "string_too_short": "must not be empty",
    "value_error": "{error}",
}
"""The rules of settings in Palaver's words, by the types of pydantic's errors."""


def _line(item: ErrorDetails) -> str:
    name = "PALAVER_" + "_".join(map(str, item["loc"][:1])).upper()
    context = item.get("ctx", {})
    if context.get("is_private"):
        return f"{name}: {item['msg']}"
    rule = RULES[item["type"]].format(**context) if item["type"] in RULES else item["msg"]
    return f"{name}: {rule}, not {item['input']!r}"
