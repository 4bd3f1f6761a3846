"""What a turn sends to the model: the parameters in effect, and the messages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import dropwhile

from palaver_server.engine.options import EngineOptions
from palaver_server.models import Draft, ModelParameters, Role, Sampling
from palaver_server.stores.store import Window


def parameters_in_effect(sampling: Sampling, options: EngineOptions) -> ModelParameters:
    """Applies the server's defaults, its cap and the rule of reasoning models to what the caller set."""
    if sampling.is_reasoning_model:
        temperature = top_p = None
        max_tokens = sampling.max_tokens
    else:
        # With top_p alone, OpenAI's advice to set one of the two is taken as the caller's wish.
        default_temperature = options.default_temperature if sampling.top_p is None else None
        temperature = sampling.temperature if sampling.temperature is not None else default_temperature
        top_p = sampling.top_p
        max_tokens = sampling.max_tokens if sampling.max_tokens is not None else options.default_max_tokens
    limits = [limit for limit in (max_tokens, options.max_tokens_cap) if limit is not None]
    return ModelParameters(
        chat_model=sampling.chat_model or options.default_chat_model,
        temperature=temperature,
        top_p=top_p,
        max_tokens=min(limits, default=None),
        is_reasoning_model=sampling.is_reasoning_model,
    )


def history(window: Window, opening: Sequence[Draft], max_messages: int) -> tuple[Draft, ...]:
    """Assembles the instructions, so many of the newest messages at most, and what the turn begins with."""
    messages = window.messages[max(len(window.messages) - max_messages, 0) :] if max_messages else ()
    # A window may begin behind a tool call; its results mean nothing without it, and endpoints refuse them.
    messages = tuple(dropwhile(lambda message: message.role is Role.TOOL, messages))
    if opening[0].role is Role.TOOL and not any(message.skill_calls for message in messages):
        # These results, too, need the calls that they answer, however small the window is.
        start = max(number for number, message in enumerate(window.messages) if message.skill_calls)
        messages = window.messages[start:]
    instructions = (window.instructions,) if window.instructions else ()
    return (*instructions, *messages, *opening)
