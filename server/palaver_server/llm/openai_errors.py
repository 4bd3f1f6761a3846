"""The errors of endpoints, from HTTP statuses, error bodies and error events in a stream."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from palaver_server.domain.errors import (
    ContextLengthExceeded,
    ModelContentFiltered,
    ModelCredentialsRejected,
    ModelError,
    ModelNotFound,
    ModelQuotaExhausted,
    ModelRateLimited,
    ModelRejectedRequest,
    ModelStreamBroken,
    ModelUnavailable,
)

MAX_QUOTED_CHARACTERS = 400
"""The most characters of an endpoint's own words that callers receive."""


def status_error(
    status: int, body: object, headers: Mapping[str, str], *, fallback_text: str, secret: str
) -> ModelError:
    """Returns the error of a response that is not a success. `fallback_text` is quoted if there is no body."""
    quoted = quote(fallback_text if body is None else message_of(body), secret)
    code = _code(body)
    if code in _BY_CODE:
        return _BY_CODE[code](quoted)
    if status in (401, 403):
        return ModelCredentialsRejected("the endpoint refused the server's credentials")
    if status == 404:
        return ModelNotFound(f"the endpoint does not know the model: {quoted}")
    if status == 429:
        return ModelRateLimited("the endpoint throttles calls", retry_after=_retry_after(headers))
    if status in (408, 409) or status >= 500:
        return ModelUnavailable(f"the endpoint failed with HTTP status {status}", retry_after=_retry_after(headers))
    return ModelRejectedRequest(f"the endpoint refused the request: {quoted}")


def stream_error(body: object, *, secret: str) -> ModelError:
    """Returns the error of an error event in a stream."""
    code = _code(body)
    if code in _BY_CODE:
        return _BY_CODE[code](quote(message_of(body), secret))
    return ModelStreamBroken("the endpoint ended its reply with an error")


def message_of(body: object) -> str:
    """Returns the message in the body of an error."""
    if isinstance(body, Mapping):
        message = body.get("message")
        return message if isinstance(message, str) else ""
    return body if isinstance(body, str) else ""


def quote(text: str, secret: str) -> str:
    """Returns an endpoint's words as callers may read them: short, and without keys and addresses."""
    text = text.replace(secret, "[key]") if secret else text
    text = re.sub(r"\b(sk|key)-[\w*-]+|\beyJ[\w.-]+", "[key]", text)
    text = re.sub(r"\b[a-z]+://\S+", "[address]", text)
    return text if len(text) <= MAX_QUOTED_CHARACTERS else text[: MAX_QUOTED_CHARACTERS - 1] + "…"


_BY_CODE: dict[str, Callable[[str], ModelError]] = {
    "content_filter": lambda quoted: ModelContentFiltered(
        f"the endpoint's content filter refused the prompt: {quoted}"
    ),
    "context_length_exceeded": lambda quoted: ContextLengthExceeded(
        f"the conversation is too long for the model; set a smaller history.max_messages: {quoted}"
    ),
    "insufficient_quota": lambda _quoted: ModelQuotaExhausted("the account of the AI connection has no quota left"),
    "model_not_found": lambda quoted: ModelNotFound(f"the endpoint does not know the model: {quoted}"),
    "DeploymentNotFound": lambda quoted: ModelNotFound(f"the endpoint does not know the model: {quoted}"),
    "invalid_api_key": lambda _quoted: ModelCredentialsRejected("the endpoint refused the server's credentials"),
}


def _code(body: object) -> str:
    code = body.get("code") if isinstance(body, Mapping) else None
    return code if isinstance(code, str) else ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Returns the pause that an endpoint asks for, in seconds, or None.

    `Retry-After` has seconds or a date; `retry-after-ms`, which OpenAI and Azure send, is more precise.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(0.0, float(value) * unit)
        except ValueError:
            pass
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            continue
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())
    return None
