"""Spans by OpenTelemetry's conventions: a call, and below it model calls, calls of skills and calls of the store.

A span holds ids, counts and times, and nothing of a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Token

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from palaver_server.telemetry.causes import cause_of
from palaver_server.telemetry.endpoints import Endpoint
from palaver_server.telemetry.otel_metrics import Attributes
from palaver_server.telemetry.turn_records import ModelCall, SkillRun, TurnListener, TurnRecord, reason_of

# W3C Trace Context alone. Baggage may hold anything that a caller's own services tell each other.
PROPAGATOR = TraceContextTextMapPropagator()


def trace_headers() -> Mapping[str, str]:
    """Returns the headers that join a call of another service to the current span."""
    headers: dict[str, str] = {}
    PROPAGATOR.inject(headers)
    return headers


def fail(span: Span, error_type: str, description: str = "") -> None:
    """Marks a span as failed."""
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR, description))


class TurnSpans(TurnListener):
    """The spans of turns."""

    def __init__(self, tracer: Tracer, endpoints: Mapping[str, Endpoint]) -> None:
        """Takes the endpoints by the names of their AI connections."""
        self._tracer = tracer
        self._endpoints = endpoints
        self._open: dict[ModelCall | SkillRun, tuple[Span, Token[Context]]] = {}

    def accepted(self, record: TurnRecord) -> None:
        """Joins the turn to the call that started it."""
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            record.trace_id = trace.format_trace_id(context.trace_id)

    def model_called(self, record: TurnRecord, call: ModelCall) -> None:
        """Opens the span of a model call, to which the request to the endpoint belongs."""
        parameters = call.parameters
        attributes: Attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": parameters.chat_model,
            "gen_ai.conversation.id": record.key.assistant.id,
            "palaver.ai_connection": parameters.ai_connection,
            "palaver.request_id": record.key.request_id,
        }
        for name in ("temperature", "top_p", "max_tokens"):
            if (value := getattr(parameters, name)) is not None:
                attributes[f"gen_ai.request.{name}"] = value
        endpoint = self._endpoints.get(parameters.ai_connection)
        if endpoint is not None:
            attributes["gen_ai.provider.name"] = endpoint.provider
            attributes["server.address"] = endpoint.address
            attributes["server.port"] = endpoint.port
        if call.is_retry:
            attributes["palaver.retry"] = record.retries
        self._begin(call, f"chat {parameters.chat_model}", SpanKind.CLIENT, attributes)

    def model_answered(self, record: TurnRecord, call: ModelCall) -> None:
        """Closes the span of a model call."""
        span, token = self._open.pop(call)
        contexts.detach(token)
        if call.first_output_at is not None:
            span.set_attribute("gen_ai.response.time_to_first_chunk", call.first_output_at - call.began_at)
        if call.reply is not None:
            usage = call.reply.usage
            span.set_attribute("gen_ai.response.model", call.reply.chat_model)
            span.set_attribute("gen_ai.response.finish_reasons", [call.reply.finish_reason.name.lower()])
            span.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
            span.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
        if call.error is not None:
            fail(span, reason_of(call.error), "" if call.was_abandoned else cause_of(call.error))
        span.end()

    def skill_called(self, record: TurnRecord, run: SkillRun) -> None:
        """Opens the span of a call of a skill, to which the request to the host belongs."""
        self._begin(
            run,
            f"execute_tool {run.call.name}",
            SpanKind.INTERNAL,
            {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": run.call.name,
                "gen_ai.tool.call.id": run.call.id,
                "gen_ai.tool.type": "function",
                "gen_ai.conversation.id": record.key.assistant.id,
            },
        )

    def skill_answered(self, record: TurnRecord, run: SkillRun) -> None:
        """Closes the span of a call of a skill."""
        span, token = self._open.pop(run)
        contexts.detach(token)
        if run.result is not None:
            span.set_attribute("palaver.skill_host", run.result.source)
            if run.result.error_type:
                fail(span, run.result.error_type)
        span.end()

    def ended(self, record: TurnRecord) -> None:
        """Closes the spans of skills that have not answered when the turn ends."""
        for run in record.running_skills.values():
            if (opened := self._open.pop(run, None)) is not None:
                fail(opened[0], reason_of(record.error))
                opened[0].end()

    def _begin(self, key: ModelCall | SkillRun, name: str, kind: SpanKind, attributes: Attributes) -> None:
        span = self._tracer.start_span(name, kind=kind, attributes=attributes)
        self._open[key] = (span, contexts.attach(trace.set_span_in_context(span)))
