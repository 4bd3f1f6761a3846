"""The cost of a turn in Azure Table Storage: requests and bytes, counted between the store and the emulator."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.load import MAX_HISTORY
from palaver_server.domain.conversation import Draft, IfExists, Role
from palaver_server.domain.limits import MAX_TURN_MESSAGES
from palaver_server.stores.azure import AzureTablesStore
from tests.support.azurite import Azurite, why_missing
from tests.support.conversations import draft, finished, key, lease
from tests.support.table_proxy import TableProxy

SIZES = (20, 2_000, 20_000)


@dataclass(frozen=True)
class TurnTraffic:
    """The traffic of the window and the commit of a turn."""

    requests: int
    sent: int
    received: int
    milliseconds: float
    """The speed of the emulator. Azure is a network away."""


async def traffic() -> dict[int, TurnTraffic] | str:
    """Returns the traffic of a turn by the length of the conversation, or why it can't be measured."""
    if missing := why_missing():
        return missing
    with Azurite() as azurite:
        account = azurite.account()
        async with TableProxy(account) as proxy:
            directly = AzureTablesStore(connection_string=account.connection_string)
            counted = AzureTablesStore(connection_string=proxy.connection_string)
            for store in (directly, counted):
                await store.open()
            try:
                return {size: await _measure(directly, counted, proxy, size) for size in SIZES}
            finally:
                for store in (directly, counted):
                    await store.close()


async def _measure(directly: AzureTablesStore, counted: AzureTablesStore, proxy: TableProxy, size: int) -> TurnTraffic:
    name = f"after {size:06}"  # names of equal length, because every row contains the name
    await directly.create_assistant(key(name), "Be brief.", IfExists.FAIL)
    stored = 1
    while stored < size:
        count = min(MAX_TURN_MESSAGES, size - stored)
        await _turn(directly, name, *[draft(Role.USER, "word " * 20)] * count, max_messages=0)
        stored += count
    proxy.exchanges.clear()
    begun = time.perf_counter()
    await _turn(counted, name, draft(Role.USER, "Hello"), draft(Role.ASSISTANT, "word"), max_messages=MAX_HISTORY)
    return TurnTraffic(
        requests=len(proxy.exchanges),
        sent=sum(len(exchange.request) for exchange in proxy.exchanges),
        received=sum(len(exchange.response) for exchange in proxy.exchanges),
        milliseconds=(time.perf_counter() - begun) * 1e3,
    )


async def _turn(store: AzureTablesStore, name: str, *drafts: Draft, max_messages: int) -> None:
    window = await store.read_window(key(name), max_messages, lease("turn"))
    request_id = f"turn {window.assistant.total_messages:06}"
    await store.commit_turn(key(name), window.version, finished(*drafts, request_id=request_id))
