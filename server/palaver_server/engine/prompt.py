"""What a turn sends to the model: the parameters in effect, and the messages."""

from __future__ import annotations

from itertools import dropwhile

from palaver_server.engine.model import Prompt
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


def prompt(window: Window, user_message: Draft, parameters: ModelParameters) -> Prompt:
    """Assembles the instructions, the window of history and the new message."""
    # A window may begin behind a tool call; its results mean nothing without it, and endpoints refuse them.
    history = dropwhile(lambda message: message.role is Role.TOOL, window.messages)
    instructions = (window.instructions,) if window.instructions else ()
    return Prompt((*instructions, *history, user_message), parameters)
