"""Five faults, injected one at a time, and what must be seen of each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.observability.stage import TURNS_PER_MINUTE, Stage
from tests.support.collector import SpanSeen
from tests.support.endpoint import Call, Refusal, Stream, skill_calls
from tests.support.metrics_page import Page
from tests.support.table_proxy import drop_request, none

SLOWNESS = 1.0
"""Seconds until the slow endpoint begins its reply."""

FLOOD = 20
"""The turns that the flooding caller posts."""


@dataclass(frozen=True)
class Fault:
    """A fault, and the signs of it."""

    name: str
    inject: Callable[[Stage], Awaitable[None]]
    """Injects the fault, posts turns that meet it, and removes it."""
    metric: str
    """The sample that grows."""
    labels: dict[str, str]
    growth: float
    """Its growth, at least."""
    line: dict[str, Any]
    """The members of the line in the log."""
    span: str
    """The beginning of the span's name."""
    attributes: dict[str, Any]
    """The attributes that the span has."""


@dataclass(frozen=True)
class Signs:
    """The signs that were seen of a fault."""

    fault: Fault
    before: Page
    after: Page
    line: dict[str, Any] = field(repr=False)
    lines: int
    """The number of such lines."""
    span: SpanSeen

    @property
    def growth(self) -> float:
        before, after = (page.value(self.fault.metric, **self.fault.labels) for page in (self.before, self.after))
        return after - before


async def look(stage: Stage, fault: Fault) -> Signs:
    """Injects a fault and waits for the signs of it."""
    before, spans_before = await stage.scrape(), len(stage.collector.spans)
    lines_before = len(stage.log.lines(**fault.line))

    def is_new(span: SpanSeen) -> bool:
        return (
            span.name.startswith(fault.span)
            and fault.attributes.items() <= span.attributes.items()
            and any(span is new for new in stage.collector.spans[spans_before:])
        )

    await fault.inject(stage)
    line = await stage.log.line(lines_before + 1, **fault.line)
    span = await stage.collector.span(is_new)
    lines = len(stage.log.lines(**fault.line)) - lines_before
    return Signs(fault, before, await stage.scrape(), line, lines, span)


async def slow_endpoint(stage: Stage) -> None:
    async def pause(_call: Call) -> None:
        await asyncio.sleep(SLOWNESS)

    stage.endpoint.script(Stream(pause, "Late, but well."))
    await stage.post()


async def throttling_endpoint(stage: Stage) -> None:
    refusal = Refusal(429, "Slow down, sk-0123456789abcdef", code="rate_limit_exceeded", headers={"Retry-After": "0"})
    stage.endpoint.script(refusal, refusal, refusal)
    await stage.post()


async def store_down(stage: Stage) -> None:
    stage.tables.fault = drop_request
    await stage.post()
    stage.tables.fault = none


async def hanging_host(stage: Stage) -> None:
    never = asyncio.Event()

    async def hang(_request: Any) -> Any:
        await never.wait()

    answer = stage.host.answers["lookup"]
    stage.host.answers["lookup"] = hang
    stage.endpoint.script(skill_calls(("lookup", '{"task": "secret-argument"}')), Stream("It hangs."))
    await stage.post()
    stage.host.answers["lookup"] = answer


async def flooding_caller(stage: Stage) -> None:
    await asyncio.gather(*(stage.post(caller="flood") for _ in range(FLOOD)))


FAULTS = (
    Fault(
        "endpoint slow",
        slow_endpoint,
        "gen_ai_client_operation_time_to_first_chunk_seconds_sum",
        {"gen_ai_request_model": "gpt-3.5-turbo", "palaver_ai_connection": "OPENAI"},
        SLOWNESS,
        {"message": "turn", "outcome": "stored", "model": "gpt-3.5-turbo"},
        "chat gpt-3.5-turbo",
        {"palaver.ai_connection": "OPENAI"},
    ),
    Fault(
        "endpoint answers 429",
        throttling_endpoint,
        "palaver_retries_total",
        {"palaver_ai_connection": "OPENAI"},
        2,
        {
            "message": "a model call failed",
            "reason": "MODEL_RATE_LIMITED",
            "cause": "the endpoint throttles calls: HTTP status 429, code error rate_limit_exceeded",
            "ai_connection": "OPENAI",
        },
        "chat gpt-3.5-turbo",
        {"error.type": "MODEL_RATE_LIMITED"},
    ),
    Fault(
        "store down",
        store_down,
        "palaver_store_call_duration_seconds_count",
        {"palaver_store_connection": "AzureWebJobsStorage", "error_type": "STORE_UNAVAILABLE"},
        1,
        {
            "message": "a store call failed",
            "storage_connection": "AzureWebJobsStorage",
            "reason": "STORE_UNAVAILABLE",
        },
        "read_window AzureWebJobsStorage",
        {"error.type": "STORE_UNAVAILABLE"},
    ),
    Fault(
        "skill host hangs",
        hanging_host,
        "gen_ai_execute_tool_duration_seconds_count",
        {"gen_ai_tool_name": "lookup", "error_type": "DEADLINE_EXCEEDED"},
        1,
        {"message": "a skill call failed", "skill": "lookup", "status": "DEADLINE_EXCEEDED"},
        "execute_tool lookup",
        {"error.type": "DEADLINE_EXCEEDED"},
    ),
    Fault(
        "one caller floods",
        flooding_caller,
        "palaver_turns_total",
        {"palaver_caller": "flood", "palaver_turn_outcome": "refused", "error_type": "QUOTA_EXCEEDED"},
        FLOOD - TURNS_PER_MINUTE - 1,  # another may become free during the flood
        {"message": "a call was refused", "caller": "flood", "reason": "QUOTA_EXCEEDED"},
        "palaver.v1.AssistantService/PostUserQueryUnary",
        {"palaver.caller": "flood", "rpc.response.status_code": "RESOURCE_EXHAUSTED"},
    ),
)
