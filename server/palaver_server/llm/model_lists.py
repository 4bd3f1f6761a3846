"""The answers of endpoints that were asked for their models."""

from __future__ import annotations

import json

from palaver_server.domain.errors import ModelCredentialsRejected, ModelError, ModelQuotaExhausted, RetryableError
from palaver_server.llm.endpoint_errors import read_error
from palaver_server.llm.error_meanings import model_error

PATH = "/models"

NOT_IMPLEMENTED = 501

MEANINGS_FOR_ALL_REQUESTS = (ModelCredentialsRejected, ModelQuotaExhausted, RetryableError)
"""The errors that a model call would meet, too. A refusal for any other reason is one of this request."""


def is_list(body: bytes) -> bool:
    """Returns whether the beginning of a successful response is that of a list; raises `ModelError` for an error.

    Lists differ from each other, and nothing in them is used.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return body.lstrip()[:1] in (b"{", b"[")  # the beginning of a long one, or a page
    if isinstance(document, dict) and document.get("error"):
        raise model_error(read_error(body))
    return isinstance(document, (dict, list))


def error_of_refusal(meaning: ModelError, status: int) -> ModelError | None:
    """Returns the error of a refused request, or None if it says no more than that there is no list."""
    says_nothing = 400 <= status < 500 and not isinstance(meaning, MEANINGS_FOR_ALL_REQUESTS)
    return None if says_nothing or status == NOT_IMPLEMENTED else meaning
