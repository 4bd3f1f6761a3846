"""Renders objects of the domain as messages of the contract."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from palaver.v1 import assistant_pb2
from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.domain import conversation, turns
from palaver_server.domain.conversation import Role
from palaver_server.domain.turns import FinishReason, ProgressPhase

ROLES = {
    Role.SYSTEM: assistant_pb2.ROLE_SYSTEM,
    Role.USER: assistant_pb2.ROLE_USER,
    Role.ASSISTANT: assistant_pb2.ROLE_ASSISTANT,
    Role.TOOL: assistant_pb2.ROLE_TOOL,
    Role.UNKNOWN: assistant_pb2.ROLE_UNSPECIFIED,
}
FINISH_REASONS = {
    FinishReason.UNKNOWN: pb.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.CONTENT_FILTER: pb.FINISH_REASON_CONTENT_FILTER,
    FinishReason.SKILL_LIMIT: pb.FINISH_REASON_SKILL_LIMIT,
    FinishReason.SKILL_CALLS: pb.FINISH_REASON_SKILL_CALLS,
}
PROGRESS_PHASES = {
    ProgressPhase.MODEL: pb.PROGRESS_PHASE_MODEL,
    ProgressPhase.SKILL: pb.PROGRESS_PHASE_SKILL,
}


def assistant(assistant: conversation.Assistant) -> assistant_pb2.Assistant:
    """Returns the message for an assistant."""
    return assistant_pb2.Assistant(
        id=assistant.id,
        create_time=timestamp(assistant.create_time),
        update_time=timestamp(assistant.update_time),
        total_messages=assistant.total_messages,
        total_tokens=assistant.total_tokens,
    )


def message(message: conversation.Message) -> assistant_pb2.Message:
    """Returns the message for a stored message."""
    return assistant_pb2.Message(
        index=message.index,
        role=ROLES[message.role],
        content=message.content.text,
        create_time=timestamp(message.create_time),
        skill_calls=map(_skill_call, message.skill_calls),
        skill_call_id=message.skill_call_id,
        request_id=message.request_id,
    )


def event(sequence: int, event: turns.TurnEvent | turns.Progress) -> pb.PostUserQueryResponse:
    """Returns the message for an event of a turn."""
    if isinstance(event, turns.TextDelta):
        response = pb.PostUserQueryResponse(sequence=sequence)
        response.text_delta.text = event.text  # half the cost of a `TextDelta` that is copied into the response
        return response
    if isinstance(event, turns.TurnStarted):
        return pb.PostUserQueryResponse(sequence=sequence, started=_started(event))
    if isinstance(event, conversation.SkillCall):
        return pb.PostUserQueryResponse(sequence=sequence, skill_call=_skill_call(event))
    if isinstance(event, conversation.SkillResult):
        return pb.PostUserQueryResponse(sequence=sequence, skill_result=_skill_result(event))
    if isinstance(event, turns.Progress):
        return pb.PostUserQueryResponse(sequence=sequence, progress=_progress(event))
    return pb.PostUserQueryResponse(sequence=sequence, completed=completed(event))


def completed(event: turns.TurnCompleted) -> pb.TurnCompleted:
    """Returns the message for the end of a turn."""
    return pb.TurnCompleted(
        assistant=assistant(event.assistant),
        messages=map(message, event.messages),
        finish_reason=FINISH_REASONS[event.finish_reason],
        usage=usage(event.usage),
        chat_model=event.chat_model,
    )


def usage(usage: turns.Usage) -> pb.Usage:
    """Returns the message for the usage of a turn."""
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        cached_tokens=usage.cached_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        model_calls=usage.model_calls,
    )


def _skill_call(call: conversation.SkillCall) -> assistant_pb2.SkillCall:
    return assistant_pb2.SkillCall(id=call.id, name=call.name, arguments_json=call.arguments_json)


def _skill_result(result: conversation.SkillResult) -> assistant_pb2.SkillResult:
    if result.is_error:
        return assistant_pb2.SkillResult(id=result.id, error=result.text)
    return assistant_pb2.SkillResult(id=result.id, content=result.text)


def _started(event: turns.TurnStarted) -> pb.TurnStarted:
    return pb.TurnStarted(
        request_id=event.request_id,
        chat_model=event.parameters.chat_model,
        ai_connection_name=event.parameters.ai_connection,
        temperature=event.parameters.temperature,
        top_p=event.parameters.top_p,
        max_tokens=event.parameters.max_tokens,
        replayed=event.replayed,
    )


def _progress(event: turns.Progress) -> pb.Progress:
    return pb.Progress(phase=PROGRESS_PHASES[event.phase], elapsed=duration(event.elapsed))


def duration(seconds: float) -> Duration:
    """Returns the message for a number of seconds."""
    duration = Duration()
    duration.FromMilliseconds(round(seconds * 1000))
    return duration


def timestamp(time: datetime) -> Timestamp:
    """Returns the message for a time."""
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
