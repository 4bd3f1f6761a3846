"""Listing the assistants of a collection, in every store: the part of the contract that operators use."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator

import pytest

from palaver_server.domain.conversation import Assistant, AssistantPage, CollectionKey
from palaver_server.domain.errors import InvalidFields, StoreUnavailable
from palaver_server.domain.limits import MAX_PAGE_SIZE
from palaver_server.domain.ports import Store
from palaver_server.stores.azure import AzureTablesStore
from palaver_server.stores.common import REPORTING_MARGIN, StoreTimeouts
from tests.stores.conftest import Place
from tests.support.azurite import Account
from tests.support.conversations import COLLECTION, add_turn, create, key
from tests.support.table_proxy import Exchange, TableProxy, hang, once, refuse

# Ids that a store could take for syntax, or order or compare in a way of its own.
IDS = ["' or '1' eq '1", "%", "*", "A", "a", "a ", "a'", "ab", "b", "msg-0001", "state", "é", "家", "😀", "x" * 255]


NEXT_ROW = {"PartitionKey": b"b", "RowKey": b"msg-0001"}


def collection(name: str = COLLECTION) -> CollectionKey:
    return CollectionKey(key().connection, name)


async def pages(store: Store, size: int, name: str = COLLECTION) -> AsyncIterator[AssistantPage]:
    """Yields the pages of a listing. It must end."""
    position = ""
    for _ in range(1000):
        page = await store.list_assistants(collection(name), size, position)
        yield page
        if not page.next_position:
            return
        position = page.next_position
    raise AssertionError("the listing does not end")


async def listed(store: Store, size: int = MAX_PAGE_SIZE, name: str = COLLECTION) -> list[Assistant]:
    return [assistant async for page in pages(store, size, name) for assistant in page.assistants]


async def test_a_collection_that_does_not_exist_has_no_assistants(store: Store):
    assert await store.list_assistants(collection(), 10, "") == AssistantPage(())


async def test_assistants_are_listed_with_their_state(store: Store):
    await create(store)
    stored = await add_turn(store)
    await create(store, "b", instructions="")
    assert await listed(store) == [stored.assistant, await store.get_assistant(key("b"))]


@pytest.mark.parametrize("size", [1, 2, 7, len(IDS), MAX_PAGE_SIZE])
async def test_each_assistant_is_on_one_page(store: Store, size: int):
    for name in IDS:
        await create(store, name)
    found = [page async for page in pages(store, size)]
    assert all(len(page.assistants) <= size for page in found)
    names = [assistant.id for page in found for assistant in page.assistants]
    assert sorted(names) == sorted(IDS)
    ascii_names = [name for name in names if name.isascii()]
    assert ascii_names == sorted(ascii_names)


async def test_only_the_assistants_of_the_collection_are_listed(store: Store, place: Place):
    for name in ("Chats", "ChatState", "ChatStates"):
        await create(store, f"of {name}", collection=name)
    assert [assistant.id for assistant in await listed(store)] == ["of ChatState"]
    if place.ignores_case:
        assert [assistant.id for assistant in await listed(store, name="CHATSTATE")] == ["of ChatState"]


async def test_the_messages_of_an_assistant_do_not_hide_the_next_one(store: Store):
    for name in ("a", "b", "c"):
        await create(store, name)
        for _ in range(3):
            await add_turn(store, name=name)
    assert [assistant.id for assistant in await listed(store, size=1)] == ["a", "b", "c"]


async def test_an_assistant_that_was_deleted_is_not_listed_and_its_place_is_kept(store: Store):
    for name in ("a", "b", "c", "d"):
        await create(store, name)
    first = await store.list_assistants(collection(), 2, "")
    await store.delete_assistant(key("b"))
    await store.delete_assistant(key("c"))
    rest = await store.list_assistants(collection(), 2, first.next_position)
    assert [assistant.id for assistant in (*first.assistants, *rest.assistants)] == ["a", "b", "d"]


async def test_a_damaged_assistant_does_not_hide_the_others(store: Store, place: Place):
    await create(store, "a")
    place.skip_to(-1)
    await create(store, "b")
    page = await store.list_assistants(collection(), 10, "")
    assert [assistant.id for assistant in page.assistants] == ["b"]
    assert page.damaged_ids == ("a",)


class TestAzure:
    """Queries that end before they have found anything, as those of the service do after five seconds."""

    @pytest.fixture
    async def proxy(self, account: Account) -> AsyncIterator[TableProxy]:
        async with TableProxy(account) as running:
            yield running

    @pytest.fixture
    async def store(self, proxy: TableProxy) -> AsyncIterator[AzureTablesStore]:
        store = AzureTablesStore(connection_string=proxy.connection_string)
        await store.open()
        yield store
        await store.close()

    async def test_a_page_without_assistants_leads_to_the_next_one(self, store: AzureTablesStore, proxy: TableProxy):
        for name in ("a", "b"):
            await create(store, name)

        async def end_early(exchange: Exchange) -> bytes | None:
            next_row = (f"x-ms-continuation-Next{name}: {b64encode(text).decode()}" for name, text in NEXT_ROW.items())
            head = ["HTTP/1.1 200 OK", "Content-Type: application/json", *next_row, "Content-Length: 12"]
            return "\r\n".join([*head, "Connection: close", "", '{"value":[]}']).encode()

        proxy.fault = once(end_early)
        found = [page async for page in pages(store, 10)]
        assert [[assistant.id for assistant in page.assistants] for page in found] == [[], ["b"]]

    async def test_a_page_is_one_query_however_many_messages_there_are(
        self, store: AzureTablesStore, proxy: TableProxy
    ):
        await create(store, "a")
        for _ in range(5):
            await add_turn(store, name="a")
        proxy.exchanges.clear()
        await store.list_assistants(collection(), 10, "")
        assert len(proxy.exchanges) == 1

    async def test_a_query_has_more_time_than_other_calls(self, account: Account):
        async with TableProxy(account) as proxy:
            store = AzureTablesStore(
                connection_string=proxy.connection_string, timeouts=StoreTimeouts(call=2 * REPORTING_MARGIN)
            )
            await store.open()
            try:
                await create(store)
                reached, ended = asyncio.Event(), asyncio.Event()

                async def scan_long(exchange: Exchange) -> bytes | None:
                    reached.set()
                    await ended.wait()
                    return await exchange.forward()

                proxy.fault = once(scan_long)
                listing = asyncio.create_task(store.list_assistants(collection(), 10, ""))
                await reached.wait()
                proxy.fault = hang
                with pytest.raises(StoreUnavailable):
                    await store.get_assistant(key())  # takes all of its time
                ended.set()
                assert [assistant.id for assistant in (await listing).assistants] == ["a"]
            finally:
                await store.close()

    @pytest.mark.parametrize("position", ["x", " ", "a b c", "\n", "家", "x" * 5000])
    async def test_a_position_that_is_not_one_is_an_invalid_page_token(self, store: AzureTablesStore, position: str):
        with pytest.raises(InvalidFields, match="page_token"):
            await store.list_assistants(collection(), 10, position)

    async def test_a_position_that_the_service_refuses_is_an_invalid_page_token(
        self, store: AzureTablesStore, proxy: TableProxy
    ):
        await create(store)
        proxy.fault = refuse(400, "InvalidInput")
        with pytest.raises(InvalidFields, match="page_token"):
            await store.list_assistants(collection(), 10, "a b")
