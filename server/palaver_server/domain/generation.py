"""Generation parameters: the options of a caller, the defaults of the server, and the values in effect."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """The options that a caller may set. None means the server's default."""

    ai_connection: str = ""
    chat_model: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    is_reasoning_model: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParameters:
    """The parameters in effect for a turn. A parameter that is None is not sent."""

    ai_connection: str = ""
    """The connection in use: a configured name, or the name of a fallback."""
    chat_model: str = ""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    is_reasoning_model: bool = False
    defaulted: frozenset[str] = field(default=frozenset(), compare=False)
    """The names of the parameters that are the server's defaults. An endpoint that refuses one need not get it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """The operator's defaults and caps. The values here are the contract's defaults."""

    chat_model: str = "gpt-3.5-turbo"
    temperature: float = 0.5
    max_tokens: int = 100
    max_tokens_cap: int | None = None

    def resolve(self, options: GenerationOptions, ai_connection: str) -> GenerationParameters:
        """Returns the parameters in effect for a caller's options on a connection."""
        if options.is_reasoning_model:
            temperature = top_p = None
            max_tokens = options.max_tokens
        else:
            # OpenAI advises against setting both, so top_p alone means that no temperature is wanted.
            default_temperature = self.temperature if options.top_p is None else None
            temperature = options.temperature if options.temperature is not None else default_temperature
            top_p = options.top_p
            max_tokens = options.max_tokens if options.max_tokens is not None else self.max_tokens
        limits = [limit for limit in (max_tokens, self.max_tokens_cap) if limit is not None]
        return GenerationParameters(
            ai_connection=ai_connection,
            chat_model=options.chat_model or self.chat_model,
            temperature=temperature,
            top_p=top_p,
            max_tokens=min(limits, default=None),
            is_reasoning_model=options.is_reasoning_model,
            defaulted=self._defaulted(options),
        )

    def _defaulted(self, options: GenerationOptions) -> frozenset[str]:
        names = {name for name in ("temperature", "top_p", "max_tokens") if getattr(options, name) is None}
        if self.max_tokens_cap is not None:
            names.discard("max_tokens")  # a limit of the operator's is not a default
        return frozenset(names)
