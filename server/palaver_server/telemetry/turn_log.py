"""The log of turns: a line for each turn, and one for each failure of an endpoint."""

from __future__ import annotations

import logging

from palaver_server.api.statuses import status_name
from palaver_server.domain.errors import (
    AssistantNotFound,
    ConnectionNotConfigured,
    FieldError,
    QuotaExceeded,
    RequestIdReused,
)
from palaver_server.domain.log_fields import fields
from palaver_server.telemetry.causes import cause_of
from palaver_server.telemetry.turn_records import ModelCall, Outcome, TurnListener, TurnRecord, reason_of

logger = logging.getLogger(__name__)

FAULTS_OF_CALLERS = (AssistantNotFound, ConnectionNotConfigured, FieldError, RequestIdReused)
"""The errors that no operator needs to look at."""


class TurnLog(TurnListener):
    """Logs turns when they are over, and failed model calls when they fail."""

    def model_answered(self, record: TurnRecord, call: ModelCall) -> None:
        """Logs a model call that failed."""
        if call.error is None or call.was_abandoned:
            return
        logger.warning(
            "a model call failed",
            extra=fields(
                ai_connection=call.parameters.ai_connection,
                model=call.parameters.chat_model,
                reason=reason_of(call.error),
                cause=cause_of(call.error),
                ms=_ms(call.began_at, call.ended_at),
                request_id=record.key.request_id,
                trace_id=record.trace_id,
            ),
        )

    def ended(self, record: TurnRecord) -> None:
        """Logs a turn. A caller beyond its limits can't fill the log: `RefusalLog` sums up what is refused to it."""
        key, outcome = record.key, record.outcome
        has_failed = outcome is Outcome.FAILED and not isinstance(record.error, FAULTS_OF_CALLERS)
        level = logging.WARNING if has_failed else logging.INFO
        if isinstance(record.error, QuotaExceeded) or not logger.isEnabledFor(level):
            return
        parameters, finished = record.parameters, record.finished
        logger.log(
            level,
            "turn",
            extra=fields(
                outcome=outcome.value,
                status=status_name(record.error),
                reason=reason_of(record.error),
                caller=record.caller.name,
                subject=record.caller.subject,
                storage_connection=key.assistant.connection,
                collection=key.assistant.collection,
                assistant=key.assistant.id,
                request_id=key.request_id,
                ai_connection=parameters and parameters.ai_connection,
                model=parameters and parameters.chat_model,
                finish_reason=finished and finished.finish_reason.name,
                queue_ms=_ms(record.accepted_at, record.locked_at),
                first_output_ms=_ms(record.accepted_at, record.first_output_at),
                total_ms=_ms(record.accepted_at, record.ended_at),
                prompt_tokens=record.usage.prompt_tokens or None,
                completion_tokens=record.usage.completion_tokens or None,
                model_calls=record.model_calls or None,
                skill_calls=record.skill_calls or None,
                retries=record.retries or None,
                trace_id=record.trace_id,
                cause=cause_of(record.error) if has_failed and record.error is not None else None,
            ),
        )


def _ms(start: float, end: float | None) -> float | None:
    return None if end is None else round((end - start) * 1000, 1)
