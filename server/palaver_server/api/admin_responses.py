"""Renders what operators see as messages of the contract."""

from __future__ import annotations

from palaver.v1 import admin_service_pb2 as pb
from palaver_server.api.responses import duration, timestamp, usage
from palaver_server.domain.administration import (
    ConnectionKind,
    RunningTurn,
    ServerConnection,
    ServerSetting,
    TurnPhase,
)
from palaver_server.domain.generation import GenerationParameters

PHASES = {
    TurnPhase.WAITING: pb.RUNNING_TURN_PHASE_WAITING,
    TurnPhase.MODEL: pb.RUNNING_TURN_PHASE_MODEL,
    TurnPhase.SKILL: pb.RUNNING_TURN_PHASE_SKILL,
    TurnPhase.STORING: pb.RUNNING_TURN_PHASE_STORING,
}
KINDS = {
    ConnectionKind.SQLITE: pb.SERVER_CONNECTION_KIND_SQLITE,
    ConnectionKind.AZURE_TABLES: pb.SERVER_CONNECTION_KIND_AZURE_TABLES,
    ConnectionKind.OPENAI: pb.SERVER_CONNECTION_KIND_OPENAI,
    ConnectionKind.AZURE_OPENAI: pb.SERVER_CONNECTION_KIND_AZURE_OPENAI,
    ConnectionKind.OFFLINE: pb.SERVER_CONNECTION_KIND_OFFLINE,
}


def running_turn(turn: RunningTurn) -> pb.RunningTurn:
    """Returns the message for a running turn."""
    parameters = turn.parameters or GenerationParameters()
    return pb.RunningTurn(
        caller=turn.caller.name,
        chat_storage_connection_setting=turn.key.assistant.connection,
        collection_name=turn.key.assistant.collection,
        assistant_id=turn.key.assistant.id,
        request_id=turn.key.request_id,
        create_time=timestamp(turn.create_time),
        age=duration(turn.age),
        phase=PHASES[turn.phase],
        chat_model=parameters.chat_model,
        ai_connection_name=parameters.ai_connection,
        characters=turn.characters,
        usage=usage(turn.usage),
        readers=turn.readers,
    )


def setting(setting: ServerSetting) -> pb.ServerSetting:
    """Returns the message for a setting."""
    return pb.ServerSetting(name=setting.name, value=setting.value, is_default=setting.is_default)


def connection(connection: ServerConnection) -> pb.ServerConnection:
    """Returns the message for a connection."""
    return pb.ServerConnection(
        name=connection.name,
        kind=KINDS[connection.kind],
        location=connection.location,
        is_default=connection.is_default,
    )
