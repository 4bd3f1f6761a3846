"""The log of calls that are repeated."""

from __future__ import annotations

import logging

from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from palaver_server.domain.log_fields import fields
from palaver_server.telemetry.causes import cause_of
from palaver_server.telemetry.turn_records import reason_of

logger = logging.getLogger(__name__)


def log_retries() -> None:
    """Logs each retry in this process, with its cause, which the library's own log leaves out."""
    set_on_retry_hooks([_log])


def _log(details: RetryDetails) -> None:
    error = details.caused_by
    logger.warning(
        "a call is repeated",
        extra=fields(
            reason=reason_of(error),
            cause=cause_of(error),
            retry=details.retry_num,
            in_seconds=round(details.wait_for, 2),
        ),
    )
