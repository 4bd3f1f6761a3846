"""Reads the contract's responses into the library's types.

Reading is lenient where the contract allows additions: a newer server may send events and enum values that this version
does not know. It is strict about everything that the contract promises.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from palaver._errors import malformed_response
from palaver._types import (
    Assistant,
    CreateAssistantResult,
    Event,
    FinishReason,
    Message,
    Progress,
    ProgressPhase,
    Role,
    SkillCall,
    SkillResult,
    TextDelta,
    TurnCompleted,
    TurnStarted,
    Usage,
)
from palaver.v1 import assistant_pb2, assistant_service_pb2

_ROLES: Final[dict[int, Role]] = {
    assistant_pb2.ROLE_SYSTEM: Role.SYSTEM,
    assistant_pb2.ROLE_USER: Role.USER,
    assistant_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
    assistant_pb2.ROLE_TOOL: Role.TOOL,
}
_FINISH_REASONS: Final[dict[int, FinishReason]] = {
    assistant_service_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    assistant_service_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    assistant_service_pb2.FINISH_REASON_CONTENT_FILTER: FinishReason.CONTENT_FILTER,
    assistant_service_pb2.FINISH_REASON_SKILL_LIMIT: FinishReason.SKILL_LIMIT,
    assistant_service_pb2.FINISH_REASON_SKILL_CALLS: FinishReason.SKILL_CALLS,
}
_PROGRESS_PHASES: Final[dict[int, ProgressPhase]] = {
    assistant_service_pb2.PROGRESS_PHASE_MODEL: ProgressPhase.MODEL,
    assistant_service_pb2.PROGRESS_PHASE_SKILL: ProgressPhase.SKILL,
}


def create_assistant(response: assistant_service_pb2.CreateAssistantResponse) -> CreateAssistantResult:
    """Reads the response of `CreateAssistant`."""
    if not response.HasField("assistant"):
        raise malformed_response("`assistant` is missing")
    return CreateAssistantResult(_assistant(response.assistant), response.created)


def get_assistant(response: assistant_service_pb2.GetAssistantResponse) -> Assistant:
    """Reads the response of `GetAssistant`."""
    if not response.HasField("assistant"):
        raise malformed_response("`assistant` is missing")
    return _assistant(response.assistant)


def list_messages(response: assistant_service_pb2.ListMessagesResponse) -> tuple[tuple[Message, ...], str]:
    """Reads the response of `ListMessages` and returns the messages of the page and the token of the next one."""
    return tuple(_message(message) for message in response.messages), response.next_page_token


def post_user_query_unary(response: assistant_service_pb2.PostUserQueryUnaryResponse) -> TurnCompleted:
    """Reads the response of `PostUserQueryUnary`."""
    if not response.HasField("completed"):
        raise malformed_response("`completed` is missing")
    return _turn_completed(response.completed)


def post_user_query(response: assistant_service_pb2.PostUserQueryResponse | None) -> Event | None:
    """Reads an event of `PostUserQuery`. Returns None if this version does not know the event and must skip it."""
    if response is None:  # gRPC for asyncio returns None for a message that can't be parsed
        raise malformed_response("an event of the stream can't be parsed")
    kind = response.WhichOneof("event")
    return None if kind is None else _EVENTS[kind](getattr(response, kind))


def _turn_started(started: assistant_service_pb2.TurnStarted) -> TurnStarted:
    return TurnStarted(
        request_id=started.request_id,
        chat_model=started.chat_model,
        ai_connection_name=started.ai_connection_name,
        temperature=started.temperature if started.HasField("temperature") else None,
        top_p=started.top_p if started.HasField("top_p") else None,
        max_tokens=started.max_tokens if started.HasField("max_tokens") else None,
        replayed=started.replayed,
    )


def _text_delta(delta: assistant_service_pb2.TextDelta) -> TextDelta:
    return TextDelta(delta.text)


def _progress(progress: assistant_service_pb2.Progress) -> Progress:
    return Progress(
        phase=_PROGRESS_PHASES.get(progress.phase, ProgressPhase.UNKNOWN), elapsed=_timedelta(progress.elapsed)
    )


def _turn_completed(completed: assistant_service_pb2.TurnCompleted) -> TurnCompleted:
    usage = completed.usage
    return TurnCompleted(
        assistant=_assistant(completed.assistant),
        messages=tuple(_message(message) for message in completed.messages),
        finish_reason=_FINISH_REASONS.get(completed.finish_reason, FinishReason.UNKNOWN),
        usage=Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.total_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            model_calls=usage.model_calls,
        ),
        chat_model=completed.chat_model,
    )


def _assistant(assistant: assistant_pb2.Assistant) -> Assistant:
    return Assistant(
        id=assistant.id,
        create_time=_datetime(assistant.create_time),
        update_time=_datetime(assistant.update_time),
        total_messages=assistant.total_messages,
        total_tokens=assistant.total_tokens,
    )


def _message(message: assistant_pb2.Message) -> Message:
    return Message(
        index=message.index,
        role=_ROLES.get(message.role, Role.UNKNOWN),
        content=message.content,
        create_time=_datetime(message.create_time),
        skill_calls=tuple(_skill_call(call) for call in message.skill_calls),
        skill_call_id=message.skill_call_id,
        request_id=message.request_id,
    )


def _skill_call(call: assistant_pb2.SkillCall) -> SkillCall:
    return SkillCall(id=call.id, name=call.name, arguments_json=call.arguments_json)


def _skill_result(result: assistant_pb2.SkillResult) -> SkillResult:
    return SkillResult(
        id=result.id,
        content=result.content if result.HasField("content") else None,
        error=result.error if result.HasField("error") else None,
    )


def _datetime(timestamp: Timestamp) -> datetime:
    try:
        return timestamp.ToDatetime(tzinfo=timezone.utc)
    except (OverflowError, ValueError) as error:
        raise malformed_response("a time is out of range") from error


def _timedelta(duration: Duration) -> timedelta:
    try:
        return duration.ToTimedelta()
    except (OverflowError, ValueError) as error:
        raise malformed_response("it has a duration that is out of range") from error


_EVENTS: Final[dict[str, Callable[[Any], Event]]] = {
    "started": _turn_started,
    "text_delta": _text_delta,
    "skill_call": _skill_call,
    "skill_result": _skill_result,
    "progress": _progress,
    "completed": _turn_completed,
}
