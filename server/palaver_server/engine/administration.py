"""The view of operators. Every call needs admin access, and shows a caller only what it has a right to name."""

from __future__ import annotations

from dataclasses import replace

from palaver_server.domain.administration import RunningTurn, ServerSettings
from palaver_server.domain.conversation import AssistantPage, CollectionKey
from palaver_server.domain.rights import Access
from palaver_server.domain.turns import Caller
from palaver_server.engine.access import check, collection_names, may_name
from palaver_server.engine.chat import ChatEngine


class Administration:
    """The assistants, the running turns and the settings of this process, for callers with admin access."""

    def __init__(self, engine: ChatEngine, settings: ServerSettings) -> None:
        self._engine = engine
        self._settings = settings

    async def list_assistants(self, caller: Caller, key: CollectionKey, limit: int, position: str) -> AssistantPage:
        """Returns a page of the assistants to which the caller has a right. It may be empty although more follow."""
        check(caller, Access.ADMIN, collection_names(caller, key))
        page = await self._engine.list_assistants(caller, key, limit, position)
        ids = caller.rights.ids
        return replace(
            page,
            assistants=tuple(assistant for assistant in page.assistants if assistant.id in ids),
            damaged_ids=tuple(name for name in page.damaged_ids if name in ids),
        )

    def running_turns(self, caller: Caller) -> list[RunningTurn]:
        """Returns the turns of this process that the caller may see, the oldest one first."""
        check(caller, Access.ADMIN)
        return [turn for turn in self._engine.running_turns() if may_name(caller, turn.key.assistant)]

    def settings(self, caller: Caller) -> ServerSettings:
        """Returns the settings in effect, with the connections that the caller may use."""
        check(caller, Access.ADMIN)
        rights, settings = caller.rights, self._settings
        return replace(
            settings,
            storage_connections=tuple(
                each for each in settings.storage_connections if each.name in rights.storage_connections
            ),
            # The default needs no right.
            ai_connections=tuple(
                each for each in settings.ai_connections if each.is_default or each.name in rights.ai_connections
            ),
        )
