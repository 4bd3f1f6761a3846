"""The request bodies of chat completions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import msgspec

from palaver_server.domain.conversation import Draft, Skill
from palaver_server.domain.ports import Prompt
from palaver_server.llm import history

Body = dict[str, Any]

NO_PARAMETERS: Body = {"type": "object", "properties": {}}
"""The schema of a skill without arguments. Several providers refuse a function without one, or without a part of it."""

DETAIL_TEXTS = {"reasoning.text": "text", "reasoning.summary": "summary"}
"""The types of OpenRouter's reasoning details that arrive in pieces, and the field that the pieces continue."""


class _State(msgspec.Struct, frozen=True):
    """See `Draft.endpoint_state`."""

    message: list[dict[str, Any]] = []
    calls: list[dict[str, Any] | None] = []


_decode_state = msgspec.json.Decoder(_State).decode


def chat_completion(prompt: Prompt) -> Body:
    """Returns the body of a streamed chat completion. Parameters that are None are left out."""
    parameters = prompt.parameters
    body: Body = {
        "model": parameters.chat_model,
        "messages": [_message(message) for message in history.fit(prompt.messages)],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if prompt.skills:
        body["tools"] = [function_tool(skill) for skill in prompt.skills]
    max_tokens_name = "max_completion_tokens" if parameters.is_reasoning_model else "max_tokens"
    optional = {
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        max_tokens_name: parameters.max_tokens,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def function_tool(skill: Skill) -> Body:
    """Returns a skill as the model is offered it, with a schema that every provider accepts."""
    schema = json.loads(skill.parameters_json_schema) if skill.parameters_json_schema else {}
    function: Body = {"name": skill.name, "parameters": NO_PARAMETERS | schema}
    if skill.description:
        function["description"] = skill.description
    return {"type": "function", "function": function}


def _message(message: Draft) -> Body:
    # A message of calls alone has no text: some providers refuse an empty one there.
    content = message.content.text or None if message.skill_calls else message.content.text
    body: Body = {"role": message.role.value, "content": content}
    if message.skill_calls:
        state = _state_of(message)
        body["tool_calls"] = _tool_calls(message, state)
        if details := _joined(state.message):
            body["reasoning_details"] = details
        elif message.reasoning:
            body["reasoning_content"] = message.reasoning
    if message.skill_call_id:
        body["tool_call_id"] = history.call_id(message.skill_call_id)
    return body


def _tool_calls(message: Draft, state: _State) -> list[Body]:
    calls: list[Body] = []
    for call, fields in zip_longest(message.skill_calls, state.calls[: len(message.skill_calls)]):
        function = {"name": call.name, "arguments": call.arguments_json}
        calls.append({"id": history.call_id(call.id), "type": "function", "function": function, **(fields or {})})
    return calls


def _state_of(message: Draft) -> _State:
    try:
        return _decode_state(message.endpoint_state or "{}")
    except msgspec.DecodeError:
        return _State()  # the endpoint says so if it can't do without


def _joined(details: Sequence[Body]) -> list[Body]:
    """Returns OpenRouter's reasoning details in one piece each, as it wants them back."""
    joined: list[tuple[Body, list[str]]] = []
    for piece in details:
        kind = piece.get("type")
        text_name = DETAIL_TEXTS.get(kind) if isinstance(kind, str) else None
        is_rest = text_name and joined and all(joined[-1][0].get(name) == piece.get(name) for name in ("type", "index"))
        if not is_rest:
            joined.append(({}, []))
        whole, texts = joined[-1]
        whole.update({name: value for name, value in piece.items() if value is not None})
        if text_name and isinstance(text := piece.get(text_name), str):
            texts.append(text)
            whole[text_name] = ""
    for whole, texts in joined:
        if texts:
            whole[DETAIL_TEXTS[whole["type"]]] = "".join(texts)
    return [whole for whole, _ in joined]
