"""What the model reads of a call: the result of the function, or in words that are meant for it, why there is none."""

from __future__ import annotations

import logging

from pydantic_core import to_json

from palaver.skills._definition import Definition
from palaver.skills._types import Invocation, SkillError
from palaver.v1.skill_host_service_pb2 import InvokeSkillResponse

logger = logging.getLogger("palaver.skills")

MAX_RESULT_BYTES = 256 * 1024
"""How long a result may be, in bytes of UTF-8. The model is told of a longer one, which it does not get."""

FAILED = InvokeSkillResponse(error="the skill failed")


async def run_async(definition: Definition, arguments_json: str, invocation: Invocation) -> InvokeSkillResponse:
    """Calls an asynchronous function. Only the cancellation of the task is raised."""
    try:
        return _content(await definition.function(**definition.arguments(arguments_json, invocation)))
    except (Exception, SystemExit) as error:  # a skill that would end the program fails, as any other that raises
        return _error(definition.name, invocation, error)


def run(definition: Definition, arguments_json: str, invocation: Invocation) -> InvokeSkillResponse:
    """Calls a synchronous function. Nothing is raised: not every exception makes it from a thread to a coroutine."""
    try:
        return _content(definition.function(**definition.arguments(arguments_json, invocation)))
    except (Exception, SystemExit) as error:
        return _error(definition.name, invocation, error)


def _content(result: object) -> InvokeSkillResponse:
    if result is None:
        text = ""
    elif isinstance(result, str):
        text = result
    else:
        text = to_json(result, inf_nan_mode="null").decode()
    return InvokeSkillResponse(error=too_long) if (too_long := _too_long(text)) else InvokeSkillResponse(content=text)


def _error(name: str, invocation: Invocation, error: BaseException) -> InvokeSkillResponse:
    try:
        if isinstance(error, SkillError):
            return InvokeSkillResponse(error=_too_long(error.message) or error.message)
    except Exception as unspeakable:  # a message that is no text, or not one that has a form in UTF-8
        error = unspeakable
    logger.error("the skill %s failed in the call %r", name, invocation.call_id, exc_info=error)
    return FAILED


def _too_long(text: str) -> str:
    size = len(text.encode())
    if size <= MAX_RESULT_BYTES:
        return ""
    return f"the result of the skill is too long: {size:,} bytes, where {MAX_RESULT_BYTES:,} are allowed; ask for less"
