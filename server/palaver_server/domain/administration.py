"""A server as operators see it: the turns that run, the settings in effect and the connections."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.turns import Caller, TurnKey, Usage


class TurnPhase(Enum):
    """The phase of a turn, from when it was accepted until it has ended."""

    WAITING = "waiting"
    """For the store, or for its assistant."""
    MODEL = "model"
    SKILL = "skill"
    STORING = "storing"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTurn:
    """A turn that runs or waits, as of one moment."""

    key: TurnKey
    caller: Caller
    """The caller that started it."""
    create_time: datetime
    age: float
    """The seconds since it was accepted."""
    phase: TurnPhase
    parameters: GenerationParameters | None
    """The parameters in effect, or None if the turn is not planned yet."""
    characters: int
    """The characters that the model has written for its caller."""
    usage: Usage
    """The usage of the model calls that have ended."""
    readers: int
    """The number of callers that read it."""


class ConnectionKind(Enum):
    """The kind of a connection."""

    SQLITE = "sqlite"
    AZURE_TABLES = "azure_tables"
    OPENAI = "openai"
    AZURE_OPENAI = "azure_openai"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class ServerConnection:
    """A connection to a store or to an endpoint, without its credentials."""

    name: str
    kind: ConnectionKind
    location: str
    """The host with its port, or the path of the database."""
    is_default: bool
    """True if requests that name no connection get this one."""


@dataclass(frozen=True, slots=True)
class ServerSetting:
    """A setting in effect."""

    name: str
    """The name of its variable."""
    value: str
    """The value in the form that the variable takes, or empty if it is unset."""
    is_default: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """The settings in effect. They contain no secrets."""

    settings: tuple[ServerSetting, ...] = ()
    """All settings, except the lists of connections."""
    storage_connections: tuple[ServerConnection, ...] = ()
    ai_connections: tuple[ServerConnection, ...] = ()
