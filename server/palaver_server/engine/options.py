"""What an operator may decide about turns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """The limits and defaults of turns; times are in seconds. `settings` documents each of them."""

    default_chat_model: str = "gpt-3.5-turbo"
    default_temperature: float = 0.5
    default_max_tokens: int = 100
    max_tokens_cap: int | None = None
    history_messages: int = 100
    first_token_timeout: float = 60.0
    token_timeout: float = 30.0
    turn_timeout: float = 600.0
    max_turns: int = 1000
    queue_limit: int = 32
    lease_duration: float = 15.0
    max_skill_rounds: int = 10
