"""The request bodies of chat completions."""

from __future__ import annotations

import json
from typing import Any

from palaver_server.domain.conversation import Draft, Skill
from palaver_server.domain.ports import Prompt
from palaver_server.llm import history

Body = dict[str, Any]

NO_PARAMETERS: Body = {"type": "object", "properties": {}}
"""The schema of a skill without arguments. Several providers refuse a function without one."""


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
        body["tools"] = [_tool(skill) for skill in prompt.skills]
    max_tokens_name = "max_completion_tokens" if parameters.is_reasoning_model else "max_tokens"
    optional = {
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        max_tokens_name: parameters.max_tokens,
    }
    return body | {name: value for name, value in optional.items() if value is not None}


def _tool(skill: Skill) -> Body:
    schema = json.loads(skill.parameters_json_schema) if skill.parameters_json_schema else NO_PARAMETERS
    return {
        "type": "function",
        "function": {"name": skill.name, "description": skill.description, "parameters": schema},
    }


def _message(message: Draft) -> Body:
    # A message of calls alone has no text: some providers refuse an empty one there.
    content = message.content.text or None if message.skill_calls else message.content.text
    body: Body = {"role": message.role.value, "content": content}
    if message.skill_calls:
        body["tool_calls"] = _tool_calls(message)
    if message.reasoning and message.skill_calls:
        body["reasoning_content"] = message.reasoning
    if message.skill_call_id:
        body["tool_call_id"] = history.call_id(message.skill_call_id)
    return body


def _tool_calls(message: Draft) -> list[Body]:
    states = json.loads(message.endpoint_state or "[]")
    calls: list[Body] = []
    for number, call in enumerate(message.skill_calls):
        function = {"name": call.name, "arguments": call.arguments_json}
        calls.append({"id": history.call_id(call.id), "type": "function", "function": function})
        if number < len(states) and states[number] is not None:
            calls[-1]["extra_content"] = states[number]
    return calls
