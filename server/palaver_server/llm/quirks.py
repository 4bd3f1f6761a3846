"""The quirks of endpoints: what they refuse only in form, and what they accept instead.

A default that nobody set may be changed or left out. A value that the caller set may be sent under another name, but it
is never left out: an endpoint that does not take it refuses the caller's request.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass

from palaver_server.domain.conversation import Skill
from palaver_server.llm import history
from palaver_server.llm.endpoint_errors import EndpointError
from palaver_server.llm.openai_chunks import CALL_STATE_FIELDS
from palaver_server.llm.openai_requests import Body, function_tool

REFUSAL = re.compile(
    r"not (?:a )?(?:support|permit|allow|recogni[sz]|valid|accept|expect|implemented)|unsupported|unrecogni[sz]ed"
    r"|unknown|unexpected|extra (?:inputs?|fields?|parameters?)|extra_forbidden|forbidden|invalid|cannot|can't"
    r"|(?:must|should) (?:be|not)|may only|only (?:the default|1)|deprecated|does not (?:support|exist|accept)"
    r"|(?:doesn't|don't|do not) support|no longer|rejects|too (?:large|high)|at most|exceeds",
    re.IGNORECASE,
)

NO_INSTRUCTIONS = re.compile(
    r"(?:system|developer)\W+(?:role|message|instruction|prompt)s?\b.{0,20}?(?:not|unsupported)"
    r"|\brole\W.{0,60}?['\"`](?:system|developer)['\"`]"
    r"|['\"`](?:system|developer)['\"`].{0,20}?supported values"
    r"|only user\b.*\broles",
    re.IGNORECASE,
)
"""The wording of a refusal of the system message."""

NO_NULL = re.compile(
    r"(?<![\w])content\b.{0,120}?(?:null|none\b|(?:valid|a) string|required|missing|non-?empty|invalid type)"
    r"|(?:null|none|missing|invalid type|expected a string).{0,120}?(?<![\w])content\b",
    re.IGNORECASE | re.DOTALL,
)
"""The wording of a refusal of a message without content."""

NO_TOOLS = re.compile(
    r"tools?=?[`'\"]* (?:param|field)|must define [`'\"]*tools|without [`'\"]*tools|toolConfig field must be",
    re.IGNORECASE,
)
"""The wording of a refusal of skill calls in the history of a request without skills."""

STATE_FIELDS = ("reasoning_content", "reasoning_details", *CALL_STATE_FIELDS)
"""The fields of earlier messages that an endpoint may want back."""


@dataclass(frozen=True, slots=True)
class Quirk:
    """A form that some endpoints refuse."""

    name: str
    parameter: str
    """The parameter that must be in the body."""
    change: Callable[[Body], None]
    """Changes the body into a form that these endpoints accept."""
    refusal: re.Pattern[str] = REFUSAL
    """The wording of the refusal, besides the name of the parameter."""
    keeps_value: bool = False
    """True if the value is sent all the same. Otherwise the quirk only applies to defaults."""
    needs_name: bool = True
    """True if the refusal must name the parameter."""

    def explains(self, error: EndpointError, body: Body, defaults: frozenset[str]) -> bool:
        """Returns whether this quirk explains why an endpoint refused a body. `defaults` are values that nobody set."""
        if self.parameter not in body or not (self.keeps_value or self.parameter in defaults):
            return False
        names_parameter = error.parameter.rpartition(".")[2] == self.parameter or re.search(
            rf"(?<![\w.]){re.escape(self.parameter)}(?![\w])", error.message, re.IGNORECASE
        )
        if not (names_parameter or not self.needs_name) or self.refusal.search(error.message) is None:
            return False
        changed = copy.deepcopy(body)
        self.change(changed)
        return changed != body


def _rename(old: str, new: str) -> Callable[[Body], None]:
    def rename(body: Body) -> None:
        body[new] = body.pop(old)

    return rename


def _drop(name: str) -> Callable[[Body], None]:
    def drop(body: Body) -> None:
        del body[name]

    return drop


def _system_as_user(body: Body) -> None:
    match body["messages"]:
        case [{"role": "system", "content": instructions}, first, *rest]:  # the user's is first, see `history`
            body["messages"] = [first | {"content": f"{instructions}\n\n{first['content']}"}, *rest]


def _without(name: str) -> Callable[[Body], None]:
    def without(body: Body) -> None:
        for message in body["messages"]:
            for holder in (message, *message.get("tool_calls", ())):
                holder.pop(name, None)

    return without


def _text_beside_calls(body: Body) -> None:
    for message in body["messages"]:
        message["content"] = message["content"] or history.NO_TEXT.text


def _tools_of_history(body: Body) -> None:
    calls = (call["function"]["name"] for message in body["messages"] for call in message.get("tool_calls", ()))
    if names := dict.fromkeys(calls):
        body.setdefault("tools", [function_tool(Skill(name, "", "")) for name in names])


def _empty_reasoning(body: Body) -> None:
    for message in body["messages"]:
        if message.get("tool_calls"):
            message.setdefault("reasoning_content", "")


def _dummy_signatures(body: Body) -> None:
    # Gemini's documentation names this value for calls that another model made.
    extra = {"google": {"thought_signature": "skip_thought_signature_validator"}}
    for message in body["messages"]:
        for call in message.get("tool_calls", ()):
            call.setdefault("extra_content", extra)


def _unknown(name: str) -> re.Pattern[str]:
    """Returns the wording with which an endpoint refuses a field that it does not know."""
    words = (
        r"unsupported|unknown|unexpected|unrecogni[sz]ed|extra\W?(?:inputs?|fields?)|extra_forbidden"
        r"|not (?:supported|permitted|allowed|recogni[sz]ed|accepted)"
    )
    return re.compile(rf"{name}\b.*(?:{words})|(?:{words}).*{name}\b", re.IGNORECASE | re.DOTALL)


QUIRKS = (
    # Newer models of OpenAI and Azure OpenAI. Their refusal names the parameter that they accept.
    Quirk("max_completion_tokens", "max_tokens", _rename("max_tokens", "max_completion_tokens"),
          re.compile(r"unsupported|not supported|replaced|instead|max_completion_tokens", re.IGNORECASE),
          keeps_value=True),
    # Older servers do not know the newer name, under which a reasoning model gets its limit.
    Quirk("max_tokens", "max_completion_tokens", _rename("max_completion_tokens", "max_tokens"), keeps_value=True),
    # Servers without it report no usage.
    Quirk("no stream_options", "stream_options", _drop("stream_options"), keeps_value=True),
    # Reasoning models that nobody declared as such accept only their own default.
    Quirk("no temperature", "temperature", _drop("temperature")),
    Quirk("no max_tokens", "max_tokens", _drop("max_tokens")),
    # Gemma's and other templates know no instructions, so they are sent as the user's words.
    Quirk("instructions from the user", "messages", _system_as_user, NO_INSTRUCTIONS, keeps_value=True,
          needs_name=False),
    # What one endpoint wants back, another one does not know: the next model of a conversation, for instance.
    *(
        Quirk(f"no {name}", "messages", _without(name), _unknown(name), keeps_value=True, needs_name=False)
        for name in STATE_FIELDS
    ),
    # Calls without text have no content, as OpenAI sends them.
    Quirk("text beside calls", "messages", _text_beside_calls, NO_NULL, keeps_value=True, needs_name=False),
    # Anthropic and Bedrock, behind gateways, want to know the skills of earlier turns in every turn.
    Quirk("the skills of the history", "messages", _tools_of_history, NO_TOOLS, keeps_value=True, needs_name=False),
    # DeepSeek wants back the reasoning before calls. Reasoning is not stored, so a later turn returns an empty one.
    Quirk("empty reasoning_content", "tools", _empty_reasoning, re.compile("reasoning_content"), keeps_value=True,
          needs_name=False),
    # Gemini wants its signatures back, which calls of another model do not have.
    Quirk("dummy thought_signature", "tools", _dummy_signatures, re.compile("thought_signature"), keeps_value=True,
          needs_name=False),
)  # fmt: skip


def apply(quirks: tuple[Quirk, ...], body: Body, defaults: frozenset[str]) -> None:
    """Changes a body so that an endpoint with these quirks accepts it."""
    for quirk in quirks:
        if quirk.parameter in body and (quirk.keeps_value or quirk.parameter in defaults):
            quirk.change(body)


def find(error: EndpointError, body: Body, defaults: frozenset[str], known: tuple[Quirk, ...]) -> Quirk | None:
    """Returns the quirk that explains why an endpoint refused a body, or None. Known ones have been tried already."""
    return next((quirk for quirk in QUIRKS if quirk not in known and quirk.explains(error, body, defaults)), None)
