"""Runs the function of a skill and returns the outcome for the model: the result, or an error that it can read."""

from __future__ import annotations

import logging

from pydantic_core import to_json

from palaver.skills._definition import Definition
from palaver.skills._types import Invocation, SkillError
from palaver.v1.skill_host_service_pb2 import InvokeSkillResponse

logger = logging.getLogger("palaver.skills")

MAX_RESULT_BYTES = 256 * 1024
"""The maximum length of a result, in bytes of UTF-8. The model gets an error instead of a longer result."""

FAILED = InvokeSkillResponse(error="the skill failed")


async def run_async(definition: Definition, arguments_json: str, invocation: Invocation) -> InvokeSkillResponse:
    """Calls an asynchronous function and returns the outcome. Raises only `CancelledError`."""
    try:
        return _content_outcome(await definition.function(**definition.arguments(arguments_json, invocation)))
    except (Exception, SystemExit) as error:  # a skill must not exit the program
        return _error_outcome(definition.name, invocation, error)


def run(definition: Definition, arguments_json: str, invocation: Invocation) -> InvokeSkillResponse:
    """Calls a synchronous function and returns the outcome.

    Raises nothing, because some exceptions can't propagate from a thread to a coroutine.
    """
    try:
        return _content_outcome(definition.function(**definition.arguments(arguments_json, invocation)))
    except (Exception, SystemExit) as error:
        return _error_outcome(definition.name, invocation, error)


def _content_outcome(result: object) -> InvokeSkillResponse:
    """Returns the outcome for the result of a function."""
    if result is None:
        text = ""
    elif isinstance(result, str):
        text = result
    else:
        text = to_json(result, inf_nan_mode="null").decode()
    return InvokeSkillResponse(error=error) if (error := _length_error(text)) else InvokeSkillResponse(content=text)


def _error_outcome(name: str, invocation: Invocation, error: BaseException) -> InvokeSkillResponse:
    """Returns the outcome for an exception, which is logged unless it is a `SkillError`."""
    try:
        if isinstance(error, SkillError):
            return InvokeSkillResponse(error=_length_error(error.message) or error.message)
    except Exception as invalid_message:  # the message is not a string, or can't be encoded as UTF-8
        error = invalid_message
    logger.error("the skill %s failed in the call %r", name, invocation.call_id, exc_info=error)
    return FAILED


def _length_error(text: str) -> str:
    """Returns the error message for a text that is too long, or an empty string."""
    size = len(text.encode())
    if size <= MAX_RESULT_BYTES:
        return ""
    return f"the result of the skill is too long: {size:,} bytes, but the limit is {MAX_RESULT_BYTES:,}; request less"
