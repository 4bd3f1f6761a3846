"""The errors of endpoints are understood in every form, and mean what they say."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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
from palaver_server.domain.limits import MAX_REFUSAL_BYTES
from palaver_server.llm import quirks
from palaver_server.llm.endpoint_errors import MAX_MESSAGE_CHARACTERS, read_error
from palaver_server.llm.error_meanings import model_error
from palaver_server.llm.pauses import MAX_RETRY_AFTER
from palaver_server.llm.quoting import quote

FORMS: dict[str, Callable[[str, str], object]] = {
    "OpenAI's object": lambda words, code: {"error": {"message": words, "type": "x", "param": None, "code": code}},
    "the error itself": lambda words, code: {"message": words, "code": code},
    "vLLM's object": lambda words, code: {"object": "error", "message": words, "type": code, "code": 400},
    "Gemini's array": lambda words, code: [{"error": {"code": 400, "message": words, "status": code.upper()}}],
    "Anthropic's object": lambda words, code: {"type": "error", "error": {"type": code, "message": words}},
    "FastAPI's detail": lambda words, code: {"detail": words, "code": code},
    "pydantic's details": lambda words, code: {"detail": [{"loc": ["body", "x"], "msg": words, "type": code}]},
    "a message that is an object": lambda words, code: {"message": {"detail": [{"msg": words}]}, "code": code},
    "problem details": lambda words, code: {"title": "Bad Request", "detail": words, "type": code, "status": 400},
    "a list of errors": lambda words, code: {"errors": [{"message": words, "code": code}]},
    "JSON in the message of JSON": lambda words, code: {
        "error": {"message": json.dumps({"error": {"message": words, "code": code}}), "code": 400}
    },
    "OpenRouter's metadata": lambda words, code: {
        "error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": json.dumps(
            {"error": {"message": words, "type": code}}
        )}}
    },
    "Azure's inner error": lambda words, code: {
        "error": {"message": words, "code": "BadRequest", "innererror": {"code": code}}
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("encode", [lambda body: body, json.dumps, lambda body: json.dumps(body).encode()])
def test_words_and_code_are_found_in_every_form(form: Callable[[str, str], object], encode: Callable[[object], object]):
    error = read_error(encode(form("The water is cold.", "too_cold")))
    assert "The water is cold." in error.message
    assert "too_cold" in error.codes


@given(st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["error", "message", "detail", "code", "status", "retryDelay", "loc", "type", "errors", "x"]),
        inner, max_size=4,
    ),
))  # fmt: skip
def test_nothing_that_an_endpoint_sends_raises(body: object):
    for form in (body, json.dumps(body), json.dumps(body).encode()):
        for status in (None, 200, 400, 429, 500):
            assert isinstance(model_error(read_error(form), status=status), ModelError)


@given(st.binary(max_size=200))
def test_no_bytes_raise(body: bytes):
    assert isinstance(model_error(read_error(body), status=400), ModelError)


MEANINGS: list[tuple[int | None, object, type[ModelError]]] = [
    # The context is too long, in the words of each kind of endpoint.
    *(
        (400, {"error": {"message": words}}, ContextLengthExceeded)
        for words in (
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
            "Input tokens exceed the configured limit of 272000 tokens. Please reduce the length of the messages.",
            "The input (132000 tokens) is longer than the model's context length (131072 tokens).",
            "the request exceeds the available context size. try increasing the context size or enable context shift",
            "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
            "prompt is too long: 210000 tokens > 200000 maximum",
            "input length and `max_tokens` exceed context limit: 199000 + 4096 > 200000",
            "The input token count (1100000) exceeds the maximum number of tokens allowed (1048576).",
            "Requested token count exceeds the model's maximum context length of 4096 tokens.",
            "Range of input length should be [1, 30720]",
            "Please reduce the length of the messages or completion.",
            "This request has too many input tokens.",
            "Input length (5000 tokens) exceeds the maximum allowed length (4096 tokens).",
            "messages: text is too long: 200000 tokens",
            "The input token count exceeds the maximum number of tokens allowed 1048576.",
            "the input token count is 40000 but model only supports up to 32768. Reduce the input token count.",
            "litellm.BadRequestError: ContextWindowExceededError: OpenAIException",
            "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens",
            "Total message token length exceed model limit",
        )
    ),
    (400, {"error": {"code": "context_length_exceeded", "message": "x"}}, ContextLengthExceeded),
    (400, {"error": {"code": 400, "type": "exceed_context_size_error", "message": "x"}}, ContextLengthExceeded),
    (413, b"<html><head><title>413 Request Entity Too Large</title></head></html>", ContextLengthExceeded),
    (None, {"error": {"code": 400, "message": "maximum context length is 10"}}, ContextLengthExceeded),
    (None, {"choices": [{"finish_reason": "error", "error": {"code": 400, "message": "maximum context length is 10"}}]},
     ContextLengthExceeded),
    (500, {"error": {"message": "Requested tokens (5023) exceed context window of 4096"}}, ContextLengthExceeded),
    (500, {"error": {"code": 500, "message": "Context size has been exceeded."}}, ContextLengthExceeded),
    (429, {"error": {"message": "Request too large for x on tokens per min (TPM): Limit 10000, Requested 12000. The "
                                "input or output tokens must be reduced in order to run successfully.",
                     "code": "rate_limit_exceeded"}}, ContextLengthExceeded),
    # Money
    (402, {"error": {"message": "Insufficient Balance"}}, ModelQuotaExhausted),
    (429, {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}, ModelQuotaExhausted),
    (400, {"error": {"message": "Your credit balance is too low to access the API."}}, ModelQuotaExhausted),
    (200, {"error": {"code": 402, "message": "This request requires more credits"}}, ModelQuotaExhausted),
    (403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}, ModelQuotaExhausted),
    (403, {"error": {"code": 403, "message": "Key limit exceeded (total limit)."}}, ModelQuotaExhausted),
    (403, {"code": "No permission", "error": "Your team has either used all available credits or reached its monthly "
                                             "spending limit."}, ModelQuotaExhausted),
    (403, {"error": {"code": "insufficient_user_quota", "message": "user quota is not enough"}}, ModelQuotaExhausted),
    (429, {"error": {"code": "1113", "message": "余额不足"}}, ModelQuotaExhausted),
    (429, {"error": {"message": "Budget has been exceeded! Current cost: 10.2, Max budget: 10"}}, ModelQuotaExhausted),
    (400, {"error": {"message": "You have reached your specified API usage limits."}}, ModelQuotaExhausted),
    # Pace: a quota of each minute is a rate limit.
    (429, {"error": {"message": "slow down"}}, ModelRateLimited),
    (429, b"Too Many Requests", ModelRateLimited),
    (200, {"code": 1302, "msg": "rate limit", "success": False}, ModelRateLimited),
    (None, {"error": {"code": 429, "message": "slow down"}}, ModelRateLimited),
    (None, {"error": {"type": "rate_limit_error", "message": "slow down"}}, ModelRateLimited),
    (429, [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "You exceeded your current quota.",
                      "details": [{"@type": "RetryInfo", "retryDelay": "17s"}]}}], ModelRateLimited),
    (429, {"error": {"message": "Rate limit reached: Limit 6000, Used 5900, Requested 300. Too many tokens per "
                                "minute for this context length."}}, ModelRateLimited),
    # Credentials
    (401, b"", ModelCredentialsRejected),
    (403, b"<html>Forbidden</html>", ModelCredentialsRejected),
    (200, {"error": {"code": "invalid_api_key", "message": "x"}}, ModelCredentialsRejected),
    (None, {"error": {"code": 401, "message": "x"}}, ModelCredentialsRejected),
    (400, [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT",
                      "details": [{"reason": "API_KEY_INVALID"}]}}], ModelCredentialsRejected),
    (400, {"code": "Invalid argument", "error": "Incorrect API key provided: te***00."}, ModelCredentialsRejected),
    # The model
    (403, {"error": {"code": "model_not_found", "message": "The project has no access to the model"}}, ModelNotFound),
    (400, {"error": {"message": "Model Not Exist", "type": "invalid_request_error"}}, ModelNotFound),
    (400, {"error": {"message": "The model `x` has been decommissioned and is no longer supported."}}, ModelNotFound),
    (400, {"error": {"message": "x is not a valid model ID"}}, ModelNotFound),
    (404, {"error": {"code": "DeploymentNotFound", "message": "x"}}, ModelNotFound),
    (400, {"error": {"message": "The model `gpt-9` does not exist or you do not have access to it."}}, ModelNotFound),
    (404, {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError"}, ModelNotFound),
    (400, {"error": {"message": "Invalid model: x", "type": "invalid_request_error"}}, ModelNotFound),
    # Filters
    (400, {"error": {"code": "content_filter", "message": "x"}}, ModelContentFiltered),
    (400, {"error": {"code": "BadRequest", "message": "x",
                     "innererror": {"code": "ResponsibleAIPolicyViolation"}}}, ModelContentFiltered),
    (400, {"error": {"code": "data_inspection_failed", "message": "x"}}, ModelContentFiltered),
    (400, {"code": "DataInspectionFailed", "message": "x"}, ModelContentFiltered),
    (400, {"error": {"message": "Content Exists Risk", "type": "invalid_request_error"}}, ModelContentFiltered),
    (400, {"error": {"message": "Your prompt was flagged as potentially violating our policy."}}, ModelContentFiltered),
    (403, {"error": {"code": 403, "message": "moderation flagged your input"}}, ModelContentFiltered),
    # The rest
    (400, {"detail": "No."}, ModelRejectedRequest),
    (422, {"detail": [{"loc": ["body", "n"], "msg": "No."}]}, ModelRejectedRequest),
    (None, {"error": {"type": "invalid_request_error", "message": "No."}}, ModelRejectedRequest),
    (None, {"error": {"code": 400, "message": "No."}}, ModelRejectedRequest),
    (500, b"oops", ModelUnavailable),
    (503, {"error": {"message": "maximum context length"}}, ModelUnavailable),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, ModelUnavailable),
    (None, {"error": {"type": "overloaded_error", "message": "Overloaded"}}, ModelUnavailable),
    (None, {"error": {"code": 502, "message": "Bad Gateway"}}, ModelUnavailable),
    (None, {"error": "something"}, ModelStreamBroken),
    (200, b"<html><title>Please log in</title></html>", ModelStreamBroken),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind"), MEANINGS)
def test_an_error_means_what_it_says(status: int | None, body: object, kind: type[ModelError]):
    assert type(model_error(read_error(body), status=status)) is kind


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": {"text": "No swimming."}}}, {"errors": {"temperature": ["No swimming."]}},
        {"error_msg": "No swimming.", "error_code": 336000}, {"errorMessage": "No swimming."},
        {"Message": "No swimming."}, {"fault": {"faultstring": "No swimming."}}, {"exception": "No swimming."},
        {"base_resp": {"status_code": 1004, "status_msg": "No swimming."}}, {"description": "No swimming."},
        b'event: error\ndata: {"message": "No swimming."}\n\n', b'error: {"message": "No swimming."}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [None, 400])
def test_the_words_arrive_wherever_they_stand(body: object, status: int | None):
    assert "No swimming." in str(model_error(read_error(body), status=status))


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        ({}, {"retry-after": "7"}, 7),
        ({}, {"retry-after": "7", "retry-after-ms": "1500"}, 1.5),
        ({}, {"retry-after": "Fri, 01 Jan 2021 00:00:00 GMT"}, 0),
        ({}, {"retry-after": "inf"}, None),
        ({}, {"retry-after": "nan"}, None),
        ({}, {"retry-after": "1e300"}, None),
        ({}, {"retry-after": "-5"}, None),
        ({}, {"retry-after": "soon"}, None),
        ({"error": {"details": [{"retryDelay": "17.5s"}]}}, {}, 17.5),
        ({"error": {"details": [{"retryDelay": {"seconds": 17, "nanos": 5}}]}}, {}, 17),
        ({"error": {"retry_after": 3}}, {}, 3),
        ({"error": {"retryDelay": 1e400}}, {}, None),
        ({"message": "Token limit is exceeded. Try again in 22 seconds."}, {}, 22),
        ({"error": {"message": "Please try again in 6m0.5s."}}, {}, 360.5),
        ({"error": {"message": "Please try again in 250ms."}}, {}, 0.25),
        ({"error": {"message": "Please retry after 1 minute."}}, {}, 60),
        ({"error": {"message": "Please try again later."}}, {}, None),
        ({}, {"retry-after": "5s"}, 5),
        ({}, {"retry-after-ms": "-1", "retry-after": "5"}, 5),
        ({}, {"x-ratelimit-reset-requests": "12s"}, None),
        (
            {},
            {
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-requests": "12s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "1m2s",
            },
            62,
        ),
        ({}, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1609459200000"}, 0),
        (
            {"error": {"metadata": {"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1609459200"}}}},
            {},
            0,
        ),
        ({"error": {"retry_after_ms": 1500}}, {}, 1.5),
        ({"error": {"message": "Please wait 30 seconds before retrying"}}, {}, 30),
        ({"error": {"message": "Try again in 1 minute and 30 seconds."}}, {}, 90),
        ({"error": {"message": "try again in 1d2h"}}, {}, 93600),
        ({"error": {"message": "retry-after: 7"}}, {}, 7),
    ],
)
def test_the_pause_is_found(body: object, headers: dict[str, str], seconds: float | None):
    assert read_error(body, headers).retry_after == seconds


@pytest.mark.parametrize(
    ("text", "secret", "quoted"),
    [
        ("but not none. See nonessential", "none", "but not none. See nonessential"),
        ("Incorrect key EMPTY, x", "EMPTY", "Incorrect key EMPTY, x"),
        ("the key k1 of k12 is wrong", "k1", "the key [key] of k12 is wrong"),
        ("Incorrect API key provided: abcdefgh12345", "abcdefgh12345", "Incorrect API key provided: [key]"),
        ("Incorrect API key provided: sk-abc*****wxyz.", "", "Incorrect API key provided: [key]."),
        ("token eyJhbGciOiJI.eyJzdWIi.sig", "", "token [key]"),
        ('bad "ab\\/cdefghi\\"j"', 'ab/cdefghi"j', 'bad "[key]"'),
        ("bad ab%2Fcdefghij%2B", "ab/cdefghij+", "bad [key]"),
        ("bad SK_ABCDEFGH", "sk_abcdefgh", "bad [key]"),
        ("Incorrect API key provided: abcd...wxyz", "abcdefghijklmnopqrstuvwxyz", "Incorrect API key provided: [key]"),
        ("Incorrect API key provided: te***00.", "test-key-0000", "Incorrect API key provided: [key]."),
        ("wait... messages...more", "messenger-more", "wait... messages...more"),
        ("Authorization: Bearer xyz123456 is wrong", "", "Authorization: Bearer [key] is wrong"),
        ('passed {"api_key": "zzz111222333"}', "", 'passed {"api_key": "[key]"}'),
        ("AIzaSyA1234567890abc gsk_abcdefgh1234 xai-abcdef12", "", "[key] [key] [key]"),
        ("api-key: required; Bearer authentication", "", "api-key: required; Bearer authentication"),
        ("see https://10.example/x?key=1 now", "", "see [address] now"),
        ("sky-high task-force", "", "sky-high task-force"),
        ("a\x1b[31mb\u202ec\n", "", "a [31mb c "),
        ("x" * 1000, "", "x" * 399 + "…"),
    ],
)  # fmt: skip
def test_words_are_quoted_without_secrets(text: str, secret: str, quoted: str):
    assert quote(text, secret) == quoted


@pytest.mark.parametrize("end", ["", "!"])
@pytest.mark.parametrize(
    "piece",
    [
        "a", "a-", "1min", "1 and ", "wait in ", "try again in 1min", "model ", "flagged ", "exceed", "prompt (",
        "text ", "system role ", "role 'system' ", "only user ", "reasoning_content ", "sk-a", "Bearer ", "api-key: a",
        "a*", "ab..", "http://a", "<title", "<title>", "<script>", "<", "&", "{", "[", '"', "\\", "data:", " ", "\n",
        "\ud800",
    ],
)  # fmt: skip
def test_hostile_words_are_read_soon(piece: str, end: str):
    text = piece * (MAX_REFUSAL_BYTES // len(piece)) + end
    for body in (text, f"<html>{text}", {"error": {"message": text}}, {"detail": [{"loc": [text], "msg": text}]}):
        error = read_error(body, {"retry-after": text[:8_000], "x-ratelimit-remaining": "0"})
        assert len(error.message) <= MAX_MESSAGE_CHARACTERS
        error.message.encode()
        for status in (None, 400, 429, 500):
            meaning = model_error(error, status=status, secret="k0123456789abcdef")
            str(meaning).encode()
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
        request = {"messages": messages, "tools": [], "max_tokens": 1, "temperature": 1}
        quirks.find(error, request, frozenset(), ())


def test_a_long_message_without_spaces_is_quoted():
    assert "额度额度" in str(model_error(read_error("额度" * MAX_MESSAGE_CHARACTERS), status=400))


def test_a_key_that_is_cut_is_not_quoted():
    text = "http://" + "a" * (MAX_MESSAGE_CHARACTERS - 20) + " the key k0123456789abcdef"
    assert "k01" not in str(model_error(read_error(text), status=400, secret="k0123456789abcdef"))


@given(
    st.text() | st.from_regex(r"[0-9.e+-]+", fullmatch=True) | st.from_regex(r"\w{3}, \d+ \w{3} \d+ [\d:]+ [+-]?\w+")
)
@example("Wed, 21 Oct 99999 07:28:00 GMT")
@example("Wed, 21 Oct 2015 07:28:00 +9999999999")
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
def test_any_pause_is_finite_and_bounded(value: str):
    for headers, body in (
        ({"retry-after": value}, {}),
        ({}, {"retry_after": value}),
        ({}, {"message": f"wait {value}"}),
    ):
        pause = read_error(body, headers).retry_after
        assert pause is None or 0 <= pause <= MAX_RETRY_AFTER
