"""Messages of the contract that a scripted server sends: a turn with its events, an assistant, stored messages."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from palaver.v1 import assistant_pb2, assistant_service_pb2

TIME = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)


def timestamp(time: datetime = TIME) -> Timestamp:
    result = Timestamp()
    result.FromDatetime(time)
    return result


def assistant(name: str = "support", **fields: Any) -> assistant_pb2.Assistant:
    defaults = {"create_time": timestamp(), "update_time": timestamp(), "total_messages": 3, "total_tokens": 42}
    return assistant_pb2.Assistant(id=name, **{**defaults, **fields})


def message(index: int = 1, role: int = assistant_pb2.ROLE_USER, content: str = "Hello", **fields: Any) -> Any:
    return assistant_pb2.Message(index=index, role=role, content=content, create_time=timestamp(), **fields)


def started(**fields: Any) -> assistant_service_pb2.PostUserQueryResponse:
    values = {"request_id": "r1", "chat_model": "gpt-x", "ai_connection_name": "OPENAI", **fields}
    return assistant_service_pb2.PostUserQueryResponse(sequence=1, started=assistant_service_pb2.TurnStarted(**values))


def delta(text: str) -> assistant_service_pb2.PostUserQueryResponse:
    return assistant_service_pb2.PostUserQueryResponse(
        sequence=2, text_delta=assistant_service_pb2.TextDelta(text=text)
    )


def progress(
    seconds: float, phase: int = assistant_service_pb2.PROGRESS_PHASE_MODEL
) -> assistant_service_pb2.PostUserQueryResponse:
    elapsed = Duration()
    elapsed.FromMilliseconds(int(seconds * 1000))
    return assistant_service_pb2.PostUserQueryResponse(
        sequence=2, progress=assistant_service_pb2.Progress(phase=phase, elapsed=elapsed)
    )


def turn_completed(
    text: str = "Hi there", finish_reason: int = assistant_service_pb2.FINISH_REASON_STOP
) -> assistant_service_pb2.TurnCompleted:
    return assistant_service_pb2.TurnCompleted(
        assistant=assistant(),
        messages=[message(2), message(3, assistant_pb2.ROLE_ASSISTANT, text, request_id="r1")],
        finish_reason=finish_reason,
        usage=assistant_service_pb2.Usage(
            prompt_tokens=30, completion_tokens=12, total_tokens=42, cached_tokens=8, reasoning_tokens=4, model_calls=1
        ),
        chat_model="gpt-x-2026",
    )


def completed(*arguments: Any, **fields: Any) -> assistant_service_pb2.PostUserQueryResponse:
    return assistant_service_pb2.PostUserQueryResponse(sequence=9, completed=turn_completed(*arguments, **fields))


def turn(*texts: str) -> list[assistant_service_pb2.PostUserQueryResponse]:
    return [started(), *map(delta, texts), completed("".join(texts))]
