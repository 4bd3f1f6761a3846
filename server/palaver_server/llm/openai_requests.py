"""The request bodies of chat completions."""

from __future__ import annotations

import json
from typing import Any

from palaver_server.domain.conversation import Draft, Skill
from palaver_server.domain.ports import Prompt

Body = dict[str, Any]


def chat_completion(prompt: Prompt) -> Body:
    """Returns the body of a streamed chat completion. Parameters that are None are left out."""
    parameters = prompt.parameters
    body: Body = {
        "model": parameters.chat_model,
        "messages": [_message(message) for message in prompt.messages],
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
    function: Body = {"name": skill.name, "description": skill.description}
    if skill.parameters_json_schema:
        function["parameters"] = json.loads(skill.parameters_json_schema)
    return {"type": "function", "function": function}


def _message(message: Draft) -> Body:
    body: Body = {"role": message.role.value, "content": message.content.text}
    if message.skill_calls:
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments_json}}
            for call in message.skill_calls
        ]
    if message.skill_call_id:
        body["tool_call_id"] = message.skill_call_id
    return body
