"""Invalid requests: the error names every invalid field and what is allowed."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from palaver.v1 import assistant_service_pb2 as pb
from tests.support.palaver_server import Served, server_with_assistant
from tests.support.statuses import failure_of

QUERY = {"id": "a", "user_message": "Hello"}


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with server_with_assistant(tmp_path_factory.mktemp("data"), offline_model=True) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "request_", "field", "words"),
    [
        ("CreateAssistant", pb.CreateAssistantRequest(), "id", "1 to 255"),
        ("CreateAssistant", pb.CreateAssistantRequest(id="x" * 256), "id", "not 256"),
        *(
            ("CreateAssistant", pb.CreateAssistantRequest(id=f"a{character}b"), "id", "must have none")
            for character in "/\\#?\x00\n\x7f\x85"
        ),
        ("CreateAssistant", pb.CreateAssistantRequest(id="a", collection_name="ab"), "collection_name", "3 to 63"),
        ("CreateAssistant", pb.CreateAssistantRequest(id="a", collection_name="1abc"), "collection_name", "a letter"),
        ("CreateAssistant", pb.CreateAssistantRequest(id="a", collection_name="a-b-c"), "collection_name", "letters"),
        ("CreateAssistant", pb.CreateAssistantRequest(id="a", collection_name="abcé"), "collection_name", "ASCII"),
        ("CreateAssistant", pb.CreateAssistantRequest(id="a", collection_name="Tables"), "collection_name", "tables"),
        ("CreateAssistant", pb.CreateAssistantRequest(id="a", collection_name="x" * 64), "collection_name", "63"),
        ("CreateAssistant", pb.CreateAssistantRequest(id="a", instructions="😀" * 225_001), "instructions", "450,002"),
        ("CreateAssistant", pb.CreateAssistantRequest(id="a", if_exists=99), "if_exists", "not 99"),  # type: ignore[arg-type]
        ("GetAssistant", pb.GetAssistantRequest(), "id", "1 to 255"),
        ("DeleteAssistant", pb.DeleteAssistantRequest(id="a/b"), "id", "none of"),
        ("ListMessages", pb.ListMessagesRequest(id="a", page_size=-1), "page_size", "not -1"),
        ("ListMessages", pb.ListMessagesRequest(id="a", page_size=1001), "page_size", "1,000"),
        ("ListMessages", pb.ListMessagesRequest(id="a", order=7), "order", "not 7"),  # type: ignore[arg-type]
        ("ListMessages", pb.ListMessagesRequest(id="a", after_time=Timestamp(nanos=-1)), "after_time", "nanos"),
        ("ListMessages", pb.ListMessagesRequest(id="a", after_time=Timestamp(seconds=10**12)), "after_time", "9999"),
        ("PostUserQueryUnary", pb.PostUserQueryRequest(id="a"), "user_message", "not be empty"),
        ("PostUserQueryUnary", pb.PostUserQueryRequest(id="a", user_message="x" * 450_001), "user_message", "450,001"),
        ("PostUserQueryUnary", pb.PostUserQueryRequest(**QUERY, chat_model="x" * 257), "chat_model", "256"),
        ("PostUserQueryUnary", pb.PostUserQueryRequest(**QUERY, chat_model="a\nb"), "chat_model", "control"),
        ("PostUserQueryUnary", pb.PostUserQueryRequest(**QUERY, temperature=-0.1), "temperature", "0 to 2"),
        ("PostUserQueryUnary", pb.PostUserQueryRequest(**QUERY, temperature=2.1), "temperature", "2.1"),
        ("PostUserQueryUnary", pb.PostUserQueryRequest(**QUERY, temperature=math.nan), "temperature", "nan"),
        ("PostUserQueryUnary", pb.PostUserQueryRequest(**QUERY, temperature=math.inf), "temperature", "inf"),
        ("PostUserQueryUnary", pb.PostUserQueryRequest(**QUERY, top_p=0), "top_p", "greater than 0"),
        ("PostUserQueryUnary", pb.PostUserQueryRequest(**QUERY, top_p=1.5), "top_p", "at most 1"),
        ("PostUserQueryUnary", pb.PostUserQueryRequest(**QUERY, top_p=math.nan), "top_p", "nan"),
        ("PostUserQueryUnary", pb.PostUserQueryRequest(**QUERY, max_tokens=0), "max_tokens", "1 or more"),
        ("PostUserQueryUnary", pb.PostUserQueryRequest(**QUERY, max_tokens=-5), "max_tokens", "not -5"),
        ("PostUserQueryUnary", pb.PostUserQueryRequest(**QUERY, request_id="a b"), "request_id", "visible ASCII"),
        ("PostUserQueryUnary", pb.PostUserQueryRequest(**QUERY, request_id="x" * 129), "request_id", "128"),
        ("PostUserQueryUnary", pb.PostUserQueryRequest(**QUERY, on_disconnect=9), "on_disconnect", "not 9"),  # type: ignore[arg-type]
        (
            "PostUserQueryUnary",
            pb.PostUserQueryRequest(**QUERY, history=pb.History(max_messages=-1)),
            "history.max_messages",
            "65,535",
        ),
        ("CancelTurn", pb.CancelTurnRequest(id="a"), "request_id", "1 to 128"),
    ],
)
async def test_an_invalid_field_is_named_with_what_is_allowed(
    served: Served, method: str, request_: Any, field: str, words: str
):
    failure = await failure_of(getattr(served.stub, method)(request_))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert failure.violations.keys() == {field}
    assert words in failure.violations[field]
    assert f"{field}: " in failure.text
    assert failure.retry_delay is None


async def test_all_invalid_fields_are_named_at_once(served: Served):
    request = pb.PostUserQueryRequest(
        id="a?", collection_name="-", temperature=3, top_p=2, max_tokens=0, history=pb.History(max_messages=70_000)
    )
    failure = await failure_of(served.stub.PostUserQueryUnary(request))
    assert failure.violations.keys() == {
        "id", "collection_name", "user_message", "temperature", "top_p", "max_tokens", "history.max_messages",
    }  # fmt: skip


@pytest.mark.parametrize(
    "request_",
    [
        pb.CreateAssistantRequest(id="x" * 255),
        pb.CreateAssistantRequest(id="'; DROP TABLE messages; --"),
        pb.CreateAssistantRequest(id="家 😀 'quoted' %41 \u202eright to left"),
        pb.CreateAssistantRequest(id="edge", collection_name="abc", instructions="😀" * 225_000),
    ],
)
async def test_values_at_the_limits_are_accepted(served: Served, request_: pb.CreateAssistantRequest):
    created = await served.stub.CreateAssistant(request_)
    assert created.assistant.id == request_.id
    get = pb.GetAssistantRequest(id=request_.id, collection_name=request_.collection_name)
    assert (await served.stub.GetAssistant(get)).assistant == created.assistant


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0, "top_p": 1, "max_tokens": 1},
        {"temperature": 2, "top_p": 1e-9, "max_tokens": 1, "history": pb.History(max_messages=0)},
        {"chat_model": "x" * 256, "max_tokens": 1, "history": pb.History(max_messages=65_535)},
    ],
)
async def test_parameters_at_the_limits_are_accepted(served: Served, fields: dict[str, Any]):
    started = await served.stub.PostUserQuery(pb.PostUserQueryRequest(**QUERY, **fields)).read()
    in_effect = {name: getattr(started.started, name) for name in fields if name != "history"}
    assert in_effect == {name: value for name, value in fields.items() if name != "history"}


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("CreateAssistant", b"\x0a\x02\xff\xfe"),  # a string field that is not UTF-8
        ("CreateAssistant", b"\x0a\x03\xed\xa0\x80"),  # a lone surrogate, encoded all the same
        ("GetAssistant", b"\x0a\xff\xff\xff\xff\x7f"),  # a length beyond the end
        ("PostUserQuery", b"\xff\xff\xff\xff"),
        ("PostUserQueryUnary", b"\x12\x02\xc3\x28"),
    ],
)
async def test_malformed_bytes_are_an_invalid_argument(served: Served, method: str, data: bytes):
    path = f"/palaver.v1.AssistantService/{method}"
    call = (
        served.channel.unary_stream(path)(data).read()
        if method == "PostUserQuery"
        else served.channel.unary_unary(path)(data)
    )
    failure = await failure_of(call)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert "UTF-8" in failure.text


async def test_a_request_of_two_mebibytes_is_accepted_and_no_larger_one(served: Served):
    empty = pb.PostUserQueryRequest(id="a", user_message="x")
    # Unknown fields are ignored, so one of them can pad a request to any size.
    for size, code in ((2 * 1024 * 1024, None), (2 * 1024 * 1024 + 1, grpc.StatusCode.RESOURCE_EXHAUSTED)):
        data = empty.SerializeToString()
        padding = size - len(data) - 6
        length = bytes([padding & 0x7F | 0x80, padding >> 7 & 0x7F | 0x80, padding >> 14 & 0x7F | 0x80, padding >> 21])
        call = served.channel.unary_unary("/palaver.v1.AssistantService/PostUserQueryUnary")(
            data + b"\xa2\x06" + length + b"x" * padding
        )
        if code is None:
            await call
        else:
            assert (await failure_of(call)).code is code


async def test_a_long_name_does_not_make_a_long_status(served: Served):
    request = pb.GetAssistantRequest(id="a", chat_storage_connection_setting="界" * 100_000)
    failure = await failure_of(served.stub.GetAssistant(request))
    assert failure.reason == "CONNECTION_NOT_CONFIGURED"
    assert len(failure.text.encode()) <= 1024


async def test_without_any_ai_connection_the_error_says_what_to_set(tmp_path: Path):
    async with server_with_assistant(tmp_path) as served:
        failure = await failure_of(served.stub.PostUserQueryUnary(pb.PostUserQueryRequest(**QUERY)))
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONNECTION_NOT_CONFIGURED")
        assert "OPENAI_API_KEY" in failure.text
