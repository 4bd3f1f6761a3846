"""The contract's messages from and to the server's own. What comes in is validated whole before anything is done."""

from __future__ import annotations

from datetime import datetime, timezone

from google.protobuf.timestamp_pb2 import Timestamp

from palaver.v1 import assistant_pb2
from palaver.v1 import assistant_service_pb2 as pb
from palaver_server import models
from palaver_server.models import AssistantKey, FinishReason, IfExists, Order, Role, Sampling, UserQuery
from palaver_server.rpc.fingerprint import fingerprint
from palaver_server.rpc.pages import index_of
from palaver_server.rpc.validation import Checks
from palaver_server.stores.store import Listing

DEFAULT_CONNECTION = "AzureWebJobsStorage"
DEFAULT_COLLECTION = "ChatState"
DEFAULT_PAGE_SIZE = 100

IF_EXISTS: dict[int, IfExists] = {
    pb.IF_EXISTS_UNSPECIFIED: IfExists.FAIL,
    pb.IF_EXISTS_FAIL: IfExists.FAIL,
    pb.IF_EXISTS_KEEP: IfExists.KEEP,
    pb.IF_EXISTS_RESET: IfExists.RESET,
}
ORDERS: dict[int, Order] = {
    pb.ORDER_UNSPECIFIED: Order.OLDEST_FIRST,
    pb.ORDER_OLDEST_FIRST: Order.OLDEST_FIRST,
    pb.ORDER_NEWEST_FIRST: Order.NEWEST_FIRST,
}
CONTINUES: dict[int, bool] = {
    pb.ON_DISCONNECT_UNSPECIFIED: False,
    pb.ON_DISCONNECT_CANCEL: False,
    pb.ON_DISCONNECT_CONTINUE: True,
}
ROLES = {
    Role.SYSTEM: assistant_pb2.ROLE_SYSTEM,
    Role.USER: assistant_pb2.ROLE_USER,
    Role.ASSISTANT: assistant_pb2.ROLE_ASSISTANT,
    Role.TOOL: assistant_pb2.ROLE_TOOL,
}
FINISH_REASONS = {
    FinishReason.UNKNOWN: pb.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.CONTENT_FILTER: pb.FINISH_REASON_CONTENT_FILTER,
    FinishReason.SKILL_LIMIT: pb.FINISH_REASON_SKILL_LIMIT,
    FinishReason.SKILL_CALLS: pb.FINISH_REASON_SKILL_CALLS,
}

AssistantRequest = (
    pb.CreateAssistantRequest
    | pb.GetAssistantRequest
    | pb.ListMessagesRequest
    | pb.DeleteAssistantRequest
    | pb.PostUserQueryRequest
    | pb.CancelTurnRequest
)


def assistant_key(request: pb.GetAssistantRequest | pb.DeleteAssistantRequest) -> AssistantKey:
    """Validates a request that only names an assistant."""
    checks = Checks(request)
    checks.assistant()
    checks.finish()
    return _key(request)


def creation(request: pb.CreateAssistantRequest) -> tuple[AssistantKey, str, IfExists]:
    """Validates a `CreateAssistantRequest`; returns the key, the instructions and what to do with an old assistant."""
    checks = Checks(request)
    checks.assistant()
    checks.text("instructions")
    if_exists = checks.enum("if_exists", IF_EXISTS)
    checks.finish()
    instructions = request.instructions if request.HasField("instructions") else models.DEFAULT_INSTRUCTIONS
    return _key(request), instructions, if_exists or IfExists.FAIL


def listing(request: pb.ListMessagesRequest) -> tuple[AssistantKey, Listing]:
    """Validates a `ListMessagesRequest`."""
    checks = Checks(request)
    checks.assistant()
    order = checks.enum("order", ORDERS)
    checks.after_time()
    checks.page_size()
    after_index = index_of(request) if request.page_token else None
    if request.page_token and after_index is None:
        checks.fail("page_token", "must be the next_page_token of a page of this very listing")
    checks.finish()
    return _key(request), Listing(
        order=order or Order.OLDEST_FIRST,
        after_time=_datetime(request.after_time) if request.HasField("after_time") else None,
        after_index=after_index,
        limit=request.page_size or DEFAULT_PAGE_SIZE,
    )


def user_query(request: pb.PostUserQueryRequest) -> UserQuery:
    """Validates a `PostUserQueryRequest`."""
    checks = Checks(request)
    checks.assistant()
    checks.user_message()
    checks.skills()
    checks.sampling()
    checks.history()
    checks.request_id(required=False)
    continues = checks.enum("on_disconnect", CONTINUES)
    checks.finish()
    return UserQuery(
        assistant=_key(request),
        user_message=request.user_message,
        sampling=Sampling(
            chat_model=request.chat_model or None,
            temperature=request.temperature if request.HasField("temperature") else None,
            top_p=request.top_p if request.HasField("top_p") else None,
            max_tokens=request.max_tokens if request.HasField("max_tokens") else None,
            is_reasoning_model=request.is_reasoning_model,
        ),
        ai_connection=request.ai_connection_name,
        max_messages=request.history.max_messages if request.history.HasField("max_messages") else None,
        request_id=request.request_id,
        request_hash=fingerprint(request, without=("request_id", "on_disconnect")).hex(),
        continues=bool(continues),
        caller_skills=tuple(
            models.Skill(skill.name, skill.description, skill.parameters_json_schema) for skill in request.caller_skills
        ),
        skill_names=tuple(request.skill_names),
        skill_results=tuple(
            models.SkillResult(result.id, result.error or result.content, is_error=result.HasField("error"))
            for result in request.skill_results
        ),
    )


def cancellation(request: pb.CancelTurnRequest) -> tuple[AssistantKey, str]:
    """Validates a `CancelTurnRequest`; returns the assistant and the name of the turn."""
    checks = Checks(request)
    checks.assistant()
    checks.request_id(required=True)
    checks.finish()
    return _key(request), request.request_id


def assistant(assistant: models.Assistant) -> assistant_pb2.Assistant:
    """Converts the state of an assistant."""
    return assistant_pb2.Assistant(
        id=assistant.id,
        create_time=_timestamp(assistant.create_time),
        update_time=_timestamp(assistant.update_time),
        total_messages=assistant.total_messages,
        total_tokens=assistant.total_tokens,
    )


def message(message: models.Message) -> assistant_pb2.Message:
    """Converts a stored message."""
    return assistant_pb2.Message(
        index=message.index,
        role=ROLES[message.role],
        content=message.content,
        create_time=_timestamp(message.create_time),
        skill_calls=map(_skill_call, message.skill_calls),
        skill_call_id=message.skill_call_id,
        request_id=message.request_id,
    )


def event(sequence: int, event: models.TurnEvent) -> pb.PostUserQueryResponse:
    """Converts an event of a turn."""
    if isinstance(event, models.TextDelta):
        return pb.PostUserQueryResponse(sequence=sequence, text_delta=pb.TextDelta(text=event.text))
    if isinstance(event, models.TurnStarted):
        return pb.PostUserQueryResponse(sequence=sequence, started=_started(event))
    if isinstance(event, models.SkillCall):
        return pb.PostUserQueryResponse(sequence=sequence, skill_call=_skill_call(event))
    if isinstance(event, models.SkillResult):
        return pb.PostUserQueryResponse(sequence=sequence, skill_result=_skill_result(event))
    return pb.PostUserQueryResponse(sequence=sequence, completed=completed(event))


def completed(event: models.TurnCompleted) -> pb.TurnCompleted:
    """Converts the end of a turn."""
    usage = event.usage
    return pb.TurnCompleted(
        assistant=assistant(event.assistant),
        messages=map(message, event.messages),
        finish_reason=FINISH_REASONS[event.finish_reason],
        usage=pb.Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.total_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            model_calls=usage.model_calls,
        ),
        chat_model=event.chat_model,
    )


def _skill_call(call: models.SkillCall) -> assistant_pb2.SkillCall:
    return assistant_pb2.SkillCall(id=call.id, name=call.name, arguments_json=call.arguments_json)


def _skill_result(result: models.SkillResult) -> assistant_pb2.SkillResult:
    if result.is_error:
        return assistant_pb2.SkillResult(id=result.id, error=result.text)
    return assistant_pb2.SkillResult(id=result.id, content=result.text)


def _started(event: models.TurnStarted) -> pb.TurnStarted:
    return pb.TurnStarted(
        request_id=event.request_id,
        chat_model=event.parameters.chat_model,
        ai_connection_name=event.ai_connection,
        temperature=event.parameters.temperature,
        top_p=event.parameters.top_p,
        max_tokens=event.parameters.max_tokens,
        replayed=event.replayed,
    )


def _key(request: AssistantRequest) -> AssistantKey:
    return AssistantKey(
        connection=request.chat_storage_connection_setting or DEFAULT_CONNECTION,
        collection=request.collection_name or DEFAULT_COLLECTION,
        id=request.id,
    )


def _datetime(time: Timestamp) -> datetime:
    return time.ToDatetime(timezone.utc)


def _timestamp(time: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
