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
from palaver_server.llm.endpoint_errors import EndpointError
from palaver_server.llm.quoting import quote

NAME = re.compile(r"[A-Za-z0-9_.\[\]-]{1,64}")
"""A code or a parameter. Anything else in its place could be a text that the endpoint quotes."""

MAX_LOGGED_CODES = 5


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
    """A regular expression for the message of a refusal: an error with a 4xx status or 500, or within a stream."""
    wording_of_429: str = ""
    """The same for a 429 without a pause, which tells what no pause would mend from what comes too fast."""
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
        # Servers that raise wherever they are answer even a refusal with 500, but never with 502, 503 or 504.
        is_refusal = is_in_stream or (status is not None and status <= 500)
        if not is_refusal or (error.retry_after is not None and not self.is_rate_limit):
            return False
        wording = self.wording_of_429 if status == 429 else self.wording
        return bool(wording) and re.search(wording, error.message, re.IGNORECASE) is not None

    def make(self, error: EndpointError, quoted: str) -> ModelError:
        """Returns the error that callers receive."""
        text = f"{self.text}: {quoted}" if self.quotes and quoted else self.text
        if issubclass(self.kind, RetryableError):
            return self.kind(text, retry_after=error.retry_after)
        return self.kind(text)


def _codes(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NO_MONEY = (
    r"insufficient[ _](balance|credit|quota|funds)|(no|out of|not enough|add more|used all available) credits?\b"
    r"|(credit )?balance is (too low|insufficient|not enough)|billing (hard )?limit|budget has been exceeded"
    r"|over budget|exceededbudget|quota is not enough|monthly (included credits|spending limit|usage limit)"
    r"|(specified|monthly) api usage limits?|余额不足|额度不足"
)
"""Wordings of an account without money, whatever the status."""

MEANINGS = (
    Meaning(
        ModelContentFiltered,
        "the endpoint's content filter refused the prompt",
        codes=_codes(
            "content_filter content_policy_violation responsibleaipolicyviolation data_inspection_failed"
            " datainspectionfailed content_filtered moderation_blocked safety prohibited_content 1301"
        ),
        wording=r"content management policy|content exists risk|inappropriate content|(in)?put new_sensitive"
        r"|(flagged|considered)\b.{0,80}?\b(moderation|policy|safety|high risk|violat\w+)"
        r"|(rejected|blocked)\b.{0,80}?\b(moderation|(content|usage) polic|safety)|moderation flagged|不安全或敏感",
    ),
    Meaning(
        ContextLengthExceeded,
        "the conversation is too long for the model; set a smaller history.max_messages",
        codes=_codes(
            "context_length_exceeded exceed_context_size_error context_window_exceeded string_above_max_length"
            " request_too_large prompt_too_long model_context_window_exceeded contextwindowexceedederror 3051 1261"
        ),
        statuses=frozenset({413}),
        wording=r"maximum context length|max(imum)? (model )?(context|sequence|input|prompt) (length|size|tokens)"
        r"|context (length|window|size) (of|is|was|has|limit|exceed)"
        r"|(exceed|larger|longer|greater|over|beyond)\w*( than)?( the| its)?( available| allowed| model'?s?| maximum)*"
        r" (context|input token|prompt token|token limit)"
        r"|(prompt|input|request|conversation|messages?)( \([^)]*\))?( is| are| was| contains?| has)?( too| much)"
        r" (long|large|many tokens)|too many (input |prompt |total )?tokens|context_length|context length"
        r"|max_model_len|n_ctx|reduce (the length|your message size|your prompt|the number of tokens)"
        r"|(input|prompt|message) (tokens?|length|token (count|length))( \([^)]*\))? exceeds?|input token count is"
        r"|(input|prompt) (exceeds?|is longer)|range of input length should be|contextwindowexceeded|context shift is"
        r"|`?inputs`? (tokens \+|must have less)|\b(text|prompt|input)\b.{0,20} too long|超长",
        # A request that alone is larger than what a minute allows never succeeds.
        wording_of_429=r"request too large for|tokens must be reduced",
    ),
    Meaning(
        ModelQuotaExhausted,
        "the account of the AI connection has no quota left",
        codes=_codes(
            "insufficient_quota billing_hard_limit_reached billing_not_active insufficient_balance insufficient_credits"
            " exceeded_current_quota_error payment_required credit_exhausted arrearage access_terminated"
            " budget_exceeded insufficient_user_quota 1113"
        ),
        statuses=frozenset({402}),
        wording=rf"{_NO_MONEY}|payment required|check your plan and billing|key limit exceeded",
        wording_of_429=_NO_MONEY,
        quotes=False,
    ),
    Meaning(
        ModelNotFound,
        "the endpoint does not know the model",
        codes=_codes(
            "model_not_found deploymentnotfound model_not_available notfounderror model_not_exist unknown_model"
            " invalid_model unsupported_model model_not_supported model_decommissioned 1211"
        ),
        statuses=frozenset({404, 410}),
        wording=r"\bmodel\b[^.]{0,200}?(does not exist|not exist|not found|is not (available|supported|valid)|unknown"
        r"|decommissioned)|(unknown|invalid|no such) model|not a valid model",
    ),
    Meaning(
        ModelCredentialsRejected,
        "the endpoint refused the server's credentials",
        codes=_codes(
            "invalid_api_key authentication_error authenticationerror unauthorized unauthenticated permission_denied"
            " permissiondenied invalid_authentication_error incorrect_api_key api_key_invalid"
        ),
        statuses=frozenset({401, 403}),
        wording=r"(incorrect|invalid|expired|missing|no) api[- _]?key|api[- _]?key (is )?(not valid|invalid|expired)",
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
        wording=r"rate[- ]?limit(ed)?\b|too many requests",
        is_rate_limit=True,
        quotes=False,
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
    meaning = _meaning(error, status, quoted)
    told = str(meaning).removesuffix(f": {quoted}")
    facts = [fact for fact in _facts(error, status) if fact not in told]
    meaning.log_text = f"{told}: {', '.join(facts)}" if facts else told
    return meaning


def _meaning(error: EndpointError, status: int | None, quoted: str) -> ModelError:
    if status is not None and 300 <= status < 400:
        return ModelRejectedRequest(
            f"the endpoint answered with HTTP status {status}, a redirect, which is not followed;"
            " the AI connection must name the address that it leads to"
        )
    status = error.status or status
    for meaning in MEANINGS:
        if meaning.applies_to(error, status):
            return meaning.make(error, quoted)
    if status is None or status < 400:
        return ModelStreamBroken(f"the endpoint ended its reply with an error{f': {quoted}' if quoted else ''}")
    if status >= 500 or status in (408, 409, 425):
        return ModelUnavailable(f"the endpoint failed with HTTP status {status}", retry_after=error.retry_after)
    return ModelRejectedRequest(f"the endpoint refused the request{f': {quoted}' if quoted else ''}")


def _facts(error: EndpointError, status: int | None) -> list[str]:
    """Returns what an error says besides its words, in which endpoints quote messages."""
    facts = ["an error within the stream" if status is None else f"HTTP status {status}"]
    codes = sorted(filter(NAME.fullmatch, error.codes - {str(status)}))
    if codes:
        facts.append(f"code {' '.join(codes[:MAX_LOGGED_CODES])}")
    if NAME.fullmatch(error.parameter):
        facts.append(f"parameter {error.parameter}")
    return facts
