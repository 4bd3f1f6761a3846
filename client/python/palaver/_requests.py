"""Builds the contract's requests from the arguments of the clients' methods. Unset and zero stay different."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from palaver._types import (
    IfExists,
    IfExistsLike,
    OnDisconnect,
    OnDisconnectLike,
    Order,
    OrderLike,
    Skill,
    SkillResult,
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


def create_assistant(
    id: str,
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


def get_assistant(
    id: str, chat_storage_connection_setting: str, collection_name: str
) -> assistant_service_pb2.GetAssistantRequest:
    """Returns the request of `GetAssistant`."""
    return assistant_service_pb2.GetAssistantRequest(
        id=id, chat_storage_connection_setting=chat_storage_connection_setting, collection_name=collection_name
    )


def list_messages(
    id: str,
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


def delete_assistant(
    id: str, chat_storage_connection_setting: str, collection_name: str
) -> assistant_service_pb2.DeleteAssistantRequest:
    """Returns the request of `DeleteAssistant`."""
    return assistant_service_pb2.DeleteAssistantRequest(
        id=id, chat_storage_connection_setting=chat_storage_connection_setting, collection_name=collection_name
    )


def cancel_turn(
    id: str, request_id: str, chat_storage_connection_setting: str, collection_name: str
) -> assistant_service_pb2.CancelTurnRequest:
    """Returns the request of `CancelTurn`."""
    return assistant_service_pb2.CancelTurnRequest(
        id=id,
        chat_storage_connection_setting=chat_storage_connection_setting,
        collection_name=collection_name,
        request_id=request_id,
    )


def post_user_query(
    id: str,
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
    """Returns the request of `PostUserQuery`, from the keyword arguments that `QueryOptions` describes.

    A request without a `request_id` gets a new one, so that it can be posted again.
    """
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
        request_id=request_id or uuid.uuid4().hex,
        on_disconnect=_on_disconnect(on_disconnect),
        history=history,
        caller_skills=[
            assistant_pb2.Skill(
                name=skill.name, description=skill.description, parameters_json_schema=skill.parameters_json_schema
            )
            for skill in caller_skills
        ],
        skill_names=skill_names,
        skill_results=[_skill_result(result) for result in skill_results],
    )


def _on_disconnect(on_disconnect: OnDisconnectLike | None) -> assistant_service_pb2.OnDisconnect.ValueType:
    if on_disconnect is None:
        return assistant_service_pb2.ON_DISCONNECT_UNSPECIFIED
    return _ON_DISCONNECT[OnDisconnect(on_disconnect)]


def _skill_result(result: SkillResult) -> assistant_pb2.SkillResult:
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
