"""Between the library's types and the contract's messages, in both directions. Pure functions, and no gRPC.

Requests keep unset and zero apart. Replies are read leniently where the contract wants it so, which is for events and
enum numbers that a newer server may send, and strictly where it promises something.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from palaver._errors import malformed
from palaver._types import (
    Assistant,
    CreateAssistantResult,
    Event,
    FinishReason,
    IfExists,
    IfExistsLike,
    Message,
    OnDisconnect,
    OnDisconnectLike,
    Order,
    OrderLike,
    Role,
    Skill,
    SkillCall,
    SkillResult,
    TextDelta,
    TurnCompleted,
    TurnStarted,
    Usage,
)
from palaver.v1 import assistant_pb2, assistant_service_pb2

_IF_EXISTS: Final = {
    IfExists.FAIL: assistant_service_pb2.IF_EXISTS_FAIL,
    IfExists.KEEP: assistant_service_pb2.IF_EXISTS_KEEP,
    IfExists.RESET: assistant_service_pb2.IF_EXISTS_RESET,
}
_ORDERS: Final = {
    Order.OLDEST_FIRST: assistant_service_pb2.ORDER_OLDEST_FIRST,
    Order.NEWEST_FIRST: assistant_service_pb2.ORDER_NEWEST_FIRST,
}
_ON_DISCONNECT: Final = {
    OnDisconnect.CANCEL: assistant_service_pb2.ON_DISCONNECT_CANCEL,
    OnDisconnect.CONTINUE: assistant_service_pb2.ON_DISCONNECT_CONTINUE,
}
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


# Requests.


def create_assistant_request(
    id: str,  # noqa: A002 - the contract's name
    instructions: str | None,
    if_exists: IfExistsLike,
    chat_storage_connection_setting: str,
    collection_name: str,
) -> assistant_service_pb2.CreateAssistantRequest:
    """Returns the request of `CreateAssistant`."""
    return assistant_service_pb2.CreateAssistantRequest(
        id=id,
        instructions=instructions,
        if_exists=_IF_EXISTS[IfExists(if_exists)],
        chat_storage_connection_setting=chat_storage_connection_setting,
        collection_name=collection_name,
    )


def list_messages_request(
    id: str,  # noqa: A002 - the contract's name
    after_time: datetime | None,
    order: OrderLike,
    page_size: int | None,
    chat_storage_connection_setting: str,
    collection_name: str,
) -> assistant_service_pb2.ListMessagesRequest:
    """Returns the request of `ListMessages` for the first page."""
    return assistant_service_pb2.ListMessagesRequest(
        id=id,
        after_time=None if after_time is None else _timestamp(after_time),
        order=_ORDERS[Order(order)],
        page_size=page_size or 0,
        chat_storage_connection_setting=chat_storage_connection_setting,
        collection_name=collection_name,
    )


def post_user_query_request(
    id: str,  # noqa: A002 - the contract's name
    user_message: str,
    *,
    chat_model: str = "",
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    is_reasoning_model: bool = False,
    ai_connection_name: str = "",
    chat_storage_connection_setting: str = "",
    collection_name: str = "",
    request_id: str = "",
    on_disconnect: OnDisconnectLike | None = None,
    max_history_messages: int | None = None,
    caller_skills: Sequence[Skill] = (),
    skill_names: Sequence[str] = (),
    skill_results: Sequence[SkillResult] = (),
) -> assistant_service_pb2.PostUserQueryRequest:
    """Returns the request of `PostUserQuery`, from the keyword arguments that `QueryOptions` describes."""
    history = None
    if max_history_messages is not None:
        history = assistant_service_pb2.History(max_messages=max_history_messages)
    return assistant_service_pb2.PostUserQueryRequest(
        id=id,
        user_message=user_message,
        chat_model=chat_model,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        is_reasoning_model=is_reasoning_model,
        ai_connection_name=ai_connection_name,
        chat_storage_connection_setting=chat_storage_connection_setting,
        collection_name=collection_name,
        request_id=request_id,
        on_disconnect=_on_disconnect(on_disconnect),
        history=history,
        caller_skills=[
            assistant_pb2.Skill(
                name=skill.name, description=skill.description, parameters_json_schema=skill.parameters_json_schema
            )
            for skill in caller_skills
        ],
        skill_names=skill_names,
        skill_results=[_skill_result_message(result) for result in skill_results],
    )


def _on_disconnect(on_disconnect: OnDisconnectLike | None) -> assistant_service_pb2.OnDisconnect.ValueType:
    if on_disconnect is None:
        return assistant_service_pb2.ON_DISCONNECT_UNSPECIFIED
    return _ON_DISCONNECT[OnDisconnect(on_disconnect)]


def _skill_result_message(result: SkillResult) -> assistant_pb2.SkillResult:
    if result.error is not None:
        return assistant_pb2.SkillResult(id=result.id, error=result.error)
    if result.content is not None:
        return assistant_pb2.SkillResult(id=result.id, content=result.content)
    return assistant_pb2.SkillResult(id=result.id)


def _timestamp(time: datetime) -> Timestamp:
    if time.tzinfo is None:
        raise ValueError("after_time must have a time zone; for UTC, use datetime.timezone.utc")
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp


# Replies.


def created_assistant(response: assistant_service_pb2.CreateAssistantResponse) -> CreateAssistantResult:
    """Reads the response of `CreateAssistant`."""
    if not response.HasField("assistant"):
        raise malformed("there is no assistant in it")
    return CreateAssistantResult(_assistant(response.assistant), response.created)


def got_assistant(response: assistant_service_pb2.GetAssistantResponse) -> Assistant:
    """Reads the response of `GetAssistant`."""
    if not response.HasField("assistant"):
        raise malformed("there is no assistant in it")
    return _assistant(response.assistant)


def listed_messages(
    response: assistant_service_pb2.ListMessagesResponse,
) -> tuple[tuple[Message, ...], str]:
    """Reads the response of `ListMessages`: the messages of the page, and the token of the next one."""
    return tuple(_message(message) for message in response.messages), response.next_page_token


def completed_turn(response: assistant_service_pb2.PostUserQueryUnaryResponse) -> TurnCompleted:
    """Reads the response of `PostUserQueryUnary`."""
    if not response.HasField("completed"):
        raise malformed("the turn is not reported as completed")
    return _turn_completed(response.completed)


def event(response: assistant_service_pb2.PostUserQueryResponse | None) -> Event | None:
    """Reads an event of `PostUserQuery`. None stands for one that this version does not know, and must skip."""
    if response is None:  # what gRPC's asyncio variant hands out for a message that does not parse
        raise malformed("an event of the stream does not parse")
    kind = response.WhichOneof("event")
    if kind == "text_delta":
        return TextDelta(response.text_delta.text)
    if kind == "started":
        return _turn_started(response.started)
    if kind == "skill_call":
        return _skill_call(response.skill_call)
    if kind == "skill_result":
        return _skill_result(response.skill_result)
    if kind == "completed":
        return _turn_completed(response.completed)
    return None


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
        raise malformed("a time in it is out of range") from error
