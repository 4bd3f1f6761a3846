"""The meanings of the errors of endpoints, by their codes, their HTTP status and their wording."""

from __future__ import annotations

import re
from dataclasses import dataclass

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
    RetryableError,
)
from palaver_server.domain.redaction import KEY, MIN_SECRET_CHARACTERS
from palaver_server.llm.endpoint_errors import EndpointError

MAX_QUOTED_CHARACTERS = 400
"""The most characters of an endpoint's own words that callers receive."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """A kind of error, and the signs of it. Any sign is enough."""

    kind: type[ModelError]
    text: str
    """What callers are told."""
    codes: frozenset[str] = frozenset()
    """Codes, types and reasons in lower case."""
    statuses: frozenset[int] = frozenset()
    """HTTP statuses."""
    wording: str = ""
    """A regular expression for the message of a refusal: an error with a 4xx status, or within a stream."""
    is_rate_limit: bool = False
    """True if the wording counts although the endpoint says how long to wait."""
    quotes: bool = True
    """True if callers are told the endpoint's words as well."""
    in_stream_only: bool = False
    """True if the codes only count for an error within a stream, because the HTTP status tells more."""

    def applies_to(self, error: EndpointError, status: int | None) -> bool:
        """Returns whether an error is of this kind. `status` is None for an error within a stream."""
        is_in_stream = status is None or status < 400
        if status in self.statuses or (error.codes & self.codes and (is_in_stream or not self.in_stream_only)):
            return True
        is_refusal = is_in_stream or (status is not None and status < 500)
        is_throttling = status == 429 or (error.retry_after is not None and not self.is_rate_limit)
        return bool(self.wording) and is_refusal and not is_throttling and self._says_so(error.message)

    def _says_so(self, message: str) -> bool:
        return re.search(self.wording, message, re.IGNORECASE) is not None

    def make(self, error: EndpointError, quoted: str) -> ModelError:
        """Returns the error that callers receive."""
        text = f"{self.text}: {quoted}" if self.quotes and quoted else self.text
        if issubclass(self.kind, RetryableError):
            return self.kind(text, retry_after=error.retry_after)
        return self.kind(text)


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


MEANINGS = (
    Meaning(
        ModelContentFiltered,
        "the endpoint's content filter refused the prompt",
        codes=_codes(
            "content_filter content_policy_violation responsibleaipolicyviolation data_inspection_failed"
            " content_filtered moderation_blocked safety prohibited_content 1301"
        ),
    ),
    Meaning(
        ContextLengthExceeded,
        "the conversation is too long for the model; set a smaller history.max_messages",
        codes=_codes(
            "context_length_exceeded exceed_context_size_error context_window_exceeded string_above_max_length"
            " request_too_large prompt_too_long model_context_window_exceeded 3051"
        ),
        statuses=frozenset({413}),
        wording=r"maximum context length|max(imum)? (model )?(context|sequence|input|prompt) (length|size|tokens)"
        r"|context (length|window|size) (of|is|was|has|limit|exceed)"
        r"|(exceed|larger|longer|greater|over|beyond)\w*( than)?( the| its)?( available| allowed| model'?s?| maximum)*"
        r" (context|input token|prompt token|token limit)"
        r"|(prompt|input|request|conversation|messages?)( \([^)]*\))?( is| are| was| contains?| has)?( too| much)"
        r" (long|large|many tokens)|too many (input |prompt |total )?tokens|context_length|context length"
        r"|max_model_len|n_ctx|reduce (the length|your message size|your prompt|the number of tokens)"
        r"|input token count .* exceeds|(input|prompt) (tokens? )?(exceeds?|is longer)"
        r"|range of input length should be",
    ),
    Meaning(
        ModelQuotaExhausted,
        "the account of the AI connection has no quota left",
        codes=_codes(
            "insufficient_quota billing_hard_limit_reached billing_not_active insufficient_balance insufficient_credits"
            " exceeded_current_quota_error payment_required credit_exhausted arrearage access_terminated"
        ),
        statuses=frozenset({402}),
        wording=r"insufficient (balance|credit|quota|funds)|(no|out of|not enough|add more) credits?\b"
        r"|credit balance is too low|billing (hard )?limit|check your plan and billing|payment required",
        quotes=False,
    ),
    Meaning(
        ModelCredentialsRejected,
        "the endpoint refused the server's credentials",
        codes=_codes(
            "invalid_api_key authentication_error authenticationerror unauthorized unauthenticated permission_denied"
            " permissiondenied invalid_authentication_error incorrect_api_key"
        ),
        statuses=frozenset({401, 403}),
        quotes=False,
    ),
    Meaning(
        ModelRateLimited,
        "the endpoint throttles calls",
        codes=_codes(
            "rate_limit_exceeded rate_limit_error ratelimiterror too_many_requests resource_exhausted throttling"
            " ratelimitreached"
        ),
        statuses=frozenset({429}),
        is_rate_limit=True,
        quotes=False,
    ),
    Meaning(
        ModelNotFound,
        "the endpoint does not know the model",
        codes=_codes(
            "model_not_found deploymentnotfound model_not_available notfounderror model_not_exist unknown_model"
            " invalid_model unsupported_model"
        ),
        statuses=frozenset({404, 410}),
        wording=r"\bmodel\b[^.]{0,200}?(does not exist|not found|is not (available|supported|valid)|unknown)"
        r"|(unknown|invalid|no such) model",
    ),
    Meaning(
        ModelUnavailable,
        "the endpoint failed",
        codes=_codes(
            "server_error internal_error internal_server_error internalservererror overloaded_error overloaded"
            " unavailable service_unavailable serviceunavailableerror timeout api_error engine_overloaded_error"
        ),
        quotes=False,
        in_stream_only=True,
    ),
    Meaning(
        ModelRejectedRequest,
        "the endpoint refused the request",
        codes=_codes(
            "invalid_request_error badrequesterror bad_request invalid_argument invalid_request validation_error"
            " unprocessable_entity unsupported_parameter unsupported_value"
        ),
        in_stream_only=True,
    ),
)
"""The kinds of errors. The first one that applies counts, so the most specific ones come first."""


def model_error(error: EndpointError, *, status: int | None = None, secret: str = "") -> ModelError:
    """Returns what an error means. `status` is that of the response; None for an error within a stream."""
    quoted = quote(error.message, secret)
    status = error.status or status
    for meaning in MEANINGS:
        if meaning.applies_to(error, status):
            return meaning.make(error, quoted)
    if status is None or status < 400:
        return ModelStreamBroken("the endpoint ended its reply with an error")
    if status >= 500 or status in (408, 409, 425):
        return ModelUnavailable(f"the endpoint failed with HTTP status {status}", retry_after=error.retry_after)
    return ModelRejectedRequest(f"the endpoint refused the request{f': {quoted}' if quoted else ''}")


def quote(text: str, secret: str) -> str:
    """Returns an endpoint's words as callers may read them: short, and without keys and addresses."""
    text = _without(secret, text)
    text = KEY.sub("[key]", text)
    text = re.sub(r"\b[a-z]+://\S+", "[address]", text)
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= MAX_QUOTED_CHARACTERS else text[: MAX_QUOTED_CHARACTERS - 1] + "…"


def _without(secret: str, text: str) -> str:
    if len(secret) >= MIN_SECRET_CHARACTERS:
        return text.replace(secret, "[key]")
    if not secret or secret.isalpha():
        return text
    return re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "[key]", text)
