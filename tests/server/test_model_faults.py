"""Every fault of an endpoint has its status and reason, and nothing of the turn is stored, in any store."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from palaver.v1 import assistant_service_pb2 as pb
from tests.support.calls import contents, query
from tests.support.endpoint import (
    HANG_UP,
    RESET,
    Answer,
    Endpoint,
    HangUp,
    Refusal,
    Stream,
    comments_without_end,
    drip_without_end,
    empty_deltas_without_end,
    event,
    fire_hose,
    line_without_end,
)
from tests.support.palaver_server import Served, server_with_assistant
from tests.support.statuses import failure_of

NEVER = asyncio.Event()
QUERY = query()


@dataclass(frozen=True)
class Fault:
    """A fault of the endpoint, and the status that the caller gets."""

    answer: Answer
    code: grpc.StatusCode
    reason: str
    words: str = ""
    calls: int = 1
    """The number of model calls. Before the reply has begun, a transient fault is retried twice."""


INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
WORTH_RETRYING = {"MODEL_RATE_LIMITED", "MODEL_UNAVAILABLE", "MODEL_STREAM_BROKEN"}
TIMEOUT = grpc.StatusCode.DEADLINE_EXCEEDED

FAULTS = {
    "400": Fault(Refusal(400, "top_p is odd"), INVALID, "MODEL_REJECTED_REQUEST", "top_p is odd"),
    "413": Fault(Refusal(413, body=b"<html>too big</html>"), PRECONDITION, "CONTEXT_LENGTH_EXCEEDED", "too big"),
    "422": Fault(Refusal(422, "no such role"), INVALID, "MODEL_REJECTED_REQUEST", "no such role"),
    "401": Fault(Refusal(401, "Incorrect API key provided: sk-secret-key"), PRECONDITION, "MODEL_CREDENTIALS_REJECTED"),
    "403": Fault(Refusal(403), PRECONDITION, "MODEL_CREDENTIALS_REJECTED"),
    "404": Fault(Refusal(404, "no model gpt-9"), INVALID, "MODEL_NOT_FOUND", "gpt-9"),
    "unknown model as 400": Fault(
        Refusal(400, "no gpt-9", code="model_not_found"), INVALID, "MODEL_NOT_FOUND", "gpt-9"
    ),
    "content filter": Fault(Refusal(400, "filtered", code="content_filter"), INVALID, "MODEL_CONTENT_FILTERED"),
    "context too long": Fault(
        Refusal(400, "max is 4096 tokens", code="context_length_exceeded"),
        PRECONDITION,
        "CONTEXT_LENGTH_EXCEEDED",
        "history.max_messages",
    ),
    "quota gone": Fault(Refusal(429, code="insufficient_quota"), PRECONDITION, "MODEL_QUOTA_EXHAUSTED"),
    "429": Fault(Refusal(429), EXHAUSTED, "MODEL_RATE_LIMITED", calls=3),
    "429 with a short Retry-After": Fault(
        Refusal(429, headers={"Retry-After": "0"}), EXHAUSTED, "MODEL_RATE_LIMITED", calls=3
    ),
    "429 with a long Retry-After": Fault(
        Refusal(429, headers={"Retry-After": "11"}), EXHAUSTED, "MODEL_RATE_LIMITED", calls=1
    ),
    "500": Fault(Refusal(500, "secret detail"), UNAVAILABLE, "MODEL_UNAVAILABLE", "500", calls=3),
    "503 that is no JSON": Fault(Refusal(503, body=b"<html>"), UNAVAILABLE, "MODEL_UNAVAILABLE", "503", calls=3),
    "hangs up": Fault(HangUp(), UNAVAILABLE, "MODEL_UNAVAILABLE", calls=3),
    "slow head": Fault(Stream(NEVER), TIMEOUT, "MODEL_TIMEOUT", "did not begin"),
    "slow first piece": Fault(Stream(b": hi\n\n", NEVER), TIMEOUT, "MODEL_TIMEOUT", "did not begin"),
    "comments only": Fault(Stream(comments_without_end), TIMEOUT, "MODEL_TIMEOUT", "did not begin"),
    "empty deltas only": Fault(Stream(empty_deltas_without_end), TIMEOUT, "MODEL_TIMEOUT", "did not begin"),
    "stalls": Fault(Stream("Hi", NEVER), TIMEOUT, "MODEL_TIMEOUT", "wrote nothing"),
    "comments after the first piece": Fault(
        Stream("Hi", comments_without_end), TIMEOUT, "MODEL_TIMEOUT", "wrote nothing"
    ),
    "writes without end": Fault(Stream(fire_hose), EXHAUSTED, "TURN_TOO_LARGE", "max_tokens"),
    "drips for ever": Fault(Stream(drip_without_end), TIMEOUT, "MODEL_TIMEOUT", "longer than"),
    "reset before the first piece": Fault(Stream(b": hi\n\n", RESET), UNAVAILABLE, "MODEL_STREAM_BROKEN", calls=3),
    "reset in the middle": Fault(Stream("Hi", RESET), UNAVAILABLE, "MODEL_STREAM_BROKEN"),
    "breaks off in the middle": Fault(Stream("Hi", HANG_UP), UNAVAILABLE, "MODEL_STREAM_BROKEN"),
    "no finish reason and no end mark": Fault(
        Stream("Hi", finish=None, done=False), UNAVAILABLE, "MODEL_STREAM_BROKEN", "finish reason"
    ),
    "nothing at all": Fault(Stream(finish=None, usage=None, done=False), UNAVAILABLE, "MODEL_STREAM_BROKEN", calls=3),
    "HTML": Fault(Refusal(200, body=b"<html></html>"), UNAVAILABLE, "MODEL_STREAM_BROKEN", calls=3),
    "malformed JSON": Fault(Stream("Hi", b"data: {nonsense\n\n"), UNAVAILABLE, "MODEL_STREAM_BROKEN"),
    "JSON of another kind": Fault(Stream("Hi", event([1, 2])), UNAVAILABLE, "MODEL_STREAM_BROKEN"),
    "an endless line": Fault(Stream("Hi", line_without_end), UNAVAILABLE, "MODEL_STREAM_BROKEN", "that does not end"),
    "an event of many items": Fault(
        Stream("Hi", event({"choices": [{}] * 60_000})), UNAVAILABLE, "MODEL_STREAM_BROKEN", "items"
    ),
    "an error in the stream": Fault(
        Stream("Hi", event({"error": {"message": "No luck."}})), UNAVAILABLE, "MODEL_STREAM_BROKEN", "No luck."
    ),
    "context too long, in the stream": Fault(
        Stream(event({"error": {"message": "too long", "code": "context_length_exceeded"}})),
        PRECONDITION,
        "CONTEXT_LENGTH_EXCEEDED",
    ),
}


SHORT = {"first_token_timeout": 0.4, "token_timeout": 0.4, "turn_timeout": 2}
"""For the faults that run into a timeout. On a busy machine, the others might, too."""


async def assert_nothing_stored_and_next_turn_works(served: Served) -> None:
    assert await contents(served) == []
    assert (await served.stub.GetAssistant(pb.GetAssistantRequest(id="a"))).assistant.total_messages == 0
    # The next turn does not have to wait until the lease expires.
    completed = (await served.stub.PostUserQueryUnary(QUERY, timeout=5)).completed
    assert completed.messages[-1].content == "Hello, world"
    assert await contents(served) == ["Hello", "Hello, world"]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_a_fault_has_its_status_and_stores_nothing(
    tmp_path: Path, variables: dict[str, str], endpoint: Endpoint, fault: Fault
):
    async with server_with_assistant(
        tmp_path, endpoint.url, variables, **(SHORT if fault.code is TIMEOUT else {})
    ) as served:
        endpoint.script(*[fault.answer] * fault.calls)
        failure = await failure_of(served.stub.PostUserQueryUnary(QUERY))
        assert (failure.code, failure.reason) == (fault.code, fault.reason), failure.text
        assert fault.words in failure.text
        assert (failure.retry_delay is not None) == (fault.reason in WORTH_RETRYING)
        for secret in ("sk-secret", "secret detail", "127.0.0.1", "http"):
            assert secret not in failure.text
        assert len(endpoint.calls) == fault.calls
        for call in endpoint.calls:
            await asyncio.wait_for(call.finished.wait(), 5)  # an endless answer finishes when its connection is closed
        await assert_nothing_stored_and_next_turn_works(served)


async def test_a_reply_cut_off_by_the_content_filter_is_stored_with_that_reason(
    tmp_path: Path, variables: dict[str, str], endpoint: Endpoint
):
    endpoint.script(Stream("Well, ", finish="content_filter"))
    request = query(request_id="r")
    async with server_with_assistant(tmp_path, endpoint.url, variables) as served:
        for _ in ("when it comes", "when it is replayed"):
            completed = (await served.stub.PostUserQueryUnary(request)).completed
            assert completed.finish_reason == pb.FINISH_REASON_CONTENT_FILTER
            assert [message.content for message in completed.messages] == ["Hello", "Well, "]
        assert len(endpoint.calls) == 1
        await served.stub.PostUserQueryUnary(QUERY)
        assert await contents(served) == ["Hello", "Well, ", "Hello", "Hello, world"]


async def test_the_retry_delay_of_the_endpoint_is_passed_on(served: Served, endpoint: Endpoint):
    for headers, delay in (
        ({"Retry-After": "30"}, 30),
        ({"retry-after-ms": "20500", "Retry-After": "20"}, 20.5),
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}, None),
        ({"Retry-After": "soon"}, None),
    ):
        endpoint.script(*[Refusal(429, headers=headers)] * (1 if delay else 3))
        failure = await failure_of(served.stub.PostUserQueryUnary(QUERY))
        assert failure.reason == "MODEL_RATE_LIMITED"
        if delay:
            assert failure.retry_delay == delay


async def test_a_transient_fault_is_invisible_to_the_caller(served: Served, endpoint: Endpoint):
    endpoint.script(Refusal(503), Stream(b": hi\n\n", RESET), Stream("Hi"))
    completed = (await served.stub.PostUserQueryUnary(QUERY)).completed
    assert completed.messages[-1].content == "Hi"
    assert completed.usage.model_calls == 1


async def test_a_retry_beyond_the_deadline_fails_at_once(served: Served, endpoint: Endpoint):
    endpoint.script(Refusal(429, headers={"Retry-After": "9"}))
    failure = await failure_of(served.stub.PostUserQueryUnary(QUERY, timeout=5))
    assert (failure.reason, failure.retry_delay) == ("MODEL_RATE_LIMITED", 9)
    assert len(endpoint.calls) == 1


async def test_the_text_before_the_fault_is_streamed(served: Served, endpoint: Endpoint):
    endpoint.script(Stream("Hi", RESET))
    call = served.stub.PostUserQuery(QUERY)
    events = [(await call.read()).WhichOneof("event") for _ in range(2)]
    assert events == ["started", "text_delta"]
    failure = await failure_of(call.read())
    assert failure.reason == "MODEL_STREAM_BROKEN"


async def test_a_stream_with_a_finish_reason_needs_no_end_mark(served: Served, endpoint: Endpoint):
    endpoint.script(Stream("Hi", done=False))
    completed = (await served.stub.PostUserQueryUnary(QUERY)).completed
    assert completed.messages[-1].content == "Hi"


async def test_an_endpoint_that_keeps_the_stream_open_after_the_end_mark_does_not_delay_the_turn(
    served: Served, endpoint: Endpoint
):
    endpoint.script(Stream("Hi", event({"choices": [{"finish_reason": "stop"}]}), b"data: [DONE]\n\n", NEVER))
    completed = (await served.stub.PostUserQueryUnary(QUERY)).completed
    assert completed.messages[-1].content == "Hi"


async def test_an_endpoint_that_is_down_is_unavailable(tmp_path: Path, variables: dict[str, str]):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound but not listening, so that connections are refused
        endpoint = Endpoint(reserved)
        async with server_with_assistant(tmp_path, endpoint.url, variables) as served:
            failure = await failure_of(served.stub.PostUserQueryUnary(QUERY))
            assert (failure.code, failure.reason) == (UNAVAILABLE, "MODEL_UNAVAILABLE")
            assert failure.retry_delay is not None
            assert "127.0.0.1" not in failure.text
            async with endpoint:
                await assert_nothing_stored_and_next_turn_works(served)
