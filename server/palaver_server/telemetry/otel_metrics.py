"""Metrics by OpenTelemetry's conventions, and Palaver's own. No label grows with users: none holds an id."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from opentelemetry.metrics import Meter, Observation
from opentelemetry.util.types import AttributeValue

from palaver_server.telemetry.endpoints import BoundedNames, Endpoint
from palaver_server.telemetry.turn_records import ModelCall, Outcome, SkillRun, TurnListener, TurnRecord, reason_of

# The buckets of the conventions, and for Palaver's own metrics those that fit.
RPC_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
OPERATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_CHUNK_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
TOKEN_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
QUEUE_BUCKETS = (0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
STORE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

Attributes = dict[str, AttributeValue]


class Metrics(TurnListener):
    """The instruments, and the turns that they measure."""

    def __init__(self, meter: Meter, endpoints: Mapping[str, Endpoint], default_model: str) -> None:
        """Takes the endpoints by the names of their AI connections."""
        self._endpoints = endpoints
        self._models = BoundedNames(default_model)
        self._skills = BoundedNames()
        histogram = meter.create_histogram
        self.calls = histogram(
            "rpc.server.call.duration", "s", "Duration of a call", explicit_bucket_boundaries_advisory=RPC_BUCKETS
        )
        self._tokens = histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens of a model call",
            explicit_bucket_boundaries_advisory=TOKEN_BUCKETS,
        )
        self._operations = histogram(
            "gen_ai.client.operation.duration",
            "s",
            "Duration of a model call",
            explicit_bucket_boundaries_advisory=OPERATION_BUCKETS,
        )
        self._first_chunks = histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "s",
            "Time from a model call to the first piece of its reply",
            explicit_bucket_boundaries_advisory=FIRST_CHUNK_BUCKETS,
        )
        self._tools = histogram(
            "gen_ai.execute_tool.duration",
            "s",
            "Duration of a call of a host's skill",
            explicit_bucket_boundaries_advisory=OPERATION_BUCKETS,
        )
        self.store_calls = histogram(
            "palaver.store.call.duration",
            "s",
            "Duration of a call of a store, with its retries",
            explicit_bucket_boundaries_advisory=STORE_BUCKETS,
        )
        self._queue_wait = histogram(
            "palaver.queue.wait",
            "s",
            "Time that a turn waited for its assistant",
            explicit_bucket_boundaries_advisory=QUEUE_BUCKETS,
        )
        self._turns = meter.create_counter("palaver.turns", "{turn}", "Turns that are over")
        self._retries = meter.create_counter("palaver.retries", "{retry}", "Model calls that were repeated")
        self._meter = meter
        self._active = self._queued = 0
        # They are read when metrics are collected, which costs a turn nothing.
        meter.create_observable_up_down_counter(
            "palaver.turns.active", [lambda _options: [Observation(self._active)]], "{turn}", "Turns that are running"
        )
        meter.create_observable_up_down_counter(
            "palaver.turns.queued", [lambda _options: [Observation(self._queued)]], "{turn}", "Turns that wait"
        )

    def watch_readiness(self, is_ready: Callable[[], bool]) -> None:
        """Measures whether the health service reports SERVING for the API."""
        self._meter.create_observable_gauge(
            "palaver.ready", [lambda _options: [Observation(int(is_ready()))]], "", "1 if turns could run, 0 if not"
        )

    def accepted(self, record: TurnRecord) -> None:
        """Counts a turn that waits."""
        self._queued += 1

    def locked(self, record: TurnRecord) -> None:
        """Counts a turn that runs, and how long it has waited."""
        self._queued -= 1
        self._active += 1
        self._queue_wait.record((record.locked_at or record.accepted_at) - record.accepted_at)

    def model_called(self, record: TurnRecord, call: ModelCall) -> None:
        """Counts a retry."""
        if call.is_retry:
            self._retries.add(1, {"palaver.ai_connection": call.parameters.ai_connection})

    def model_answered(self, record: TurnRecord, call: ModelCall) -> None:
        """Measures a model call."""
        if call.reply is not None:
            self._models.admit(call.parameters.chat_model)  # the endpoint knows it
        attributes = self._of_model(record, call)
        if call.error is not None:
            attributes["error.type"] = reason_of(call.error)
        self._operations.record(call.ended_at - call.began_at, attributes)
        attributes.pop("error.type", None)
        if call.first_output_at is not None:
            self._first_chunks.record(call.first_output_at - call.began_at, attributes)
        if call.reply is not None:
            usage = call.reply.usage
            for kind, tokens in (("input", usage.prompt_tokens), ("output", usage.completion_tokens)):
                if tokens:
                    self._tokens.record(tokens, {**attributes, "gen_ai.token.type": kind})

    def skill_answered(self, record: TurnRecord, run: SkillRun) -> None:
        """Measures a call of a host's skill."""
        result = run.result
        if result is None:
            return
        self._skills.admit(run.call.name)
        attributes: Attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": self._skills.label(run.call.name),
            "palaver.skill_host": result.source,
        }
        if result.error_type:
            attributes["error.type"] = result.error_type
        self._tools.record(run.ended_at - run.began_at, attributes)

    def ended(self, record: TurnRecord) -> None:
        """Counts a turn by its outcome."""
        if record.locked_at is None:
            self._queued -= 1
        else:
            self._active -= 1
        outcome = record.outcome
        attributes: Attributes = {"palaver.turn.outcome": outcome.value, "palaver.caller": record.caller.name}
        if outcome in (Outcome.FAILED, Outcome.REFUSED):
            attributes["error.type"] = reason_of(record.error)
        self._turns.add(1, attributes)

    def _of_model(self, record: TurnRecord, call: ModelCall) -> Attributes:
        attributes: Attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": self._models.label(call.parameters.chat_model),
            "palaver.ai_connection": call.parameters.ai_connection,
            "palaver.caller": record.caller.name,
        }
        endpoint = self._endpoints.get(call.parameters.ai_connection)
        if endpoint is not None:
            attributes["gen_ai.provider.name"] = endpoint.provider
            attributes["server.address"] = endpoint.address
            attributes["server.port"] = endpoint.port
        return attributes
