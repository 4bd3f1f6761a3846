"""The AI connections of the server."""

from __future__ import annotations

from collections.abc import Mapping

from palaver_server.domain.errors import ConnectionNotConfigured
from palaver_server.domain.ports import ChatModel


class NamedModels:
    """A `ModelConnections` with named models and a fallback."""

    def __init__(self, models: Mapping[str, ChatModel], fallback: str | None) -> None:
        """Takes the models by name. `fallback` is the name of the model for requests that name no other."""
        self._models = models
        self._fallback = fallback

    def resolve(self, name: str) -> tuple[str, ChatModel]:
        """Returns the name and the model of the connection with this name, or else of the fallback."""
        found = name if name in self._models else self._fallback
        if found is None:
            raise ConnectionNotConfigured(
                f"the server has no AI connection{f' {name!r}' if name else ''}, and no fallback: "
                "set OPENAI_API_KEY, or AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_KEY, or PALAVER_OFFLINE_MODEL"
            )
        return found, self._models[found]
