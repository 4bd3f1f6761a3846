"""The parameters that some endpoints refuse, and what they accept instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from palaver_server.llm.openai_requests import Body


@dataclass(frozen=True, slots=True)
class Quirk:
    """A parameter, the wording with which endpoints refuse it, and the change of the body that they accept."""

    parameter: str
    refusal: re.Pattern[str]
    change: Callable[[Body], None]

    def applies_to(self, body: Body, refusal: str) -> bool:
        """Returns whether an endpoint's words refuse the parameter of a body."""
        return self.parameter in body and self.refusal.search(refusal) is not None


def _rename_max_tokens(body: Body) -> None:
    body["max_completion_tokens"] = body.pop("max_tokens")


def _drop_stream_options(body: Body) -> None:
    del body["stream_options"]


QUIRKS = (
    # Newer models of OpenAI and Azure OpenAI. Their refusal names the parameter that they accept.
    Quirk("max_tokens", re.compile("max_completion_tokens"), _rename_max_tokens),
    # Older servers, which then report no usage.
    Quirk("stream_options", re.compile("stream_options"), _drop_stream_options),
)


def apply(quirks: frozenset[Quirk], body: Body) -> None:
    """Changes a body so that an endpoint with these quirks accepts it."""
    for quirk in quirks:
        if quirk.parameter in body:
            quirk.change(body)


def find(body: Body, refusal: str) -> Quirk | None:
    """Returns the quirk that explains why an endpoint refused a body, or None."""
    return next((quirk for quirk in QUIRKS if quirk.applies_to(body, refusal)), None)
