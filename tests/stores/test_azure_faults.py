"""Faults of Azure Table Storage: a status in time, and no turn lost, duplicated or partially stored."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from azure.data.tables.aio import TableServiceClient

from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.domain.conversation import IfExists, Listing, Order, Role
from palaver_server.domain.errors import AssistantNotFound, StoreError
from palaver_server.stores.azure import AzureTablesStore
from tests.support import table_proxy as proxy_faults
from tests.support.azurite import Account
from tests.support.calls import contents as served_contents
from tests.support.calls import query
from tests.support.conversations import (
    COLLECTION,
    add_turn,
    contents,
    create,
    draft,
    finished,
    history,
    key,
    version_of,
)
from tests.support.endpoint import Endpoint
from tests.support.palaver_server import Served, palaver_server, server_with_assistant
from tests.support.statuses import failure_of
from tests.support.table_proxy import Exchange, Fault, TableProxy, refuse

UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
REJECTED = (grpc.StatusCode.FAILED_PRECONDITION, "STORE_CREDENTIALS_REJECTED")
IN_TIME = 5.0
"""Seconds. A call that takes longer ends with DEADLINE_EXCEEDED."""

CALLS: dict[str, Callable[[Served], Awaitable[Any]]] = {
    "CreateAssistant": lambda served: served.stub.CreateAssistant(
        pb.CreateAssistantRequest(id="b", instructions="Be brief."), timeout=IN_TIME
    ),
    "GetAssistant": lambda served: served.stub.GetAssistant(pb.GetAssistantRequest(id="a"), timeout=IN_TIME),
    "ListMessages": lambda served: served.stub.ListMessages(pb.ListMessagesRequest(id="a"), timeout=IN_TIME),
    "DeleteAssistant": lambda served: served.stub.DeleteAssistant(pb.DeleteAssistantRequest(id="a"), timeout=IN_TIME),
    "PostUserQuery": lambda served: served.stub.PostUserQuery(query(), timeout=IN_TIME).read(),
    "PostUserQueryUnary": lambda served: served.stub.PostUserQueryUnary(query(), timeout=IN_TIME),
}
FAULTS: dict[str, tuple[Fault, tuple[grpc.StatusCode, str], float | None]] = {
    "hangs": (proxy_faults.hang, UNAVAILABLE, 1),
    "breaks off": (proxy_faults.drop_request, UNAVAILABLE, 1),
    "fails": (proxy_faults.fail_before, UNAVAILABLE, 1),
    "answers with garbage": (proxy_faults.garbage, UNAVAILABLE, 1),
    "is cut off": (proxy_faults.cut_answer, UNAVAILABLE, 1),
    "throttles": (refuse(503, "ServerBusy"), UNAVAILABLE, 1),
    "throttles for a while": (refuse(503, "ServerBusy", Retry_After="30"), UNAVAILABLE, 30),
    "limits the rate": (refuse(429, "TooManyRequests", Retry_After="7"), UNAVAILABLE, 7),
    "limits the rate in milliseconds": (refuse(429, "TooManyRequests", x_ms_retry_after_ms="30000"), UNAVAILABLE, 30),
    "refuses the key": (refuse(403, "AuthenticationFailed"), REJECTED, None),
    "refuses the account": (refuse(403, "AuthorizationFailure"), REJECTED, None),
    "wants a token": (refuse(401, "InvalidAuthenticationInfo"), REJECTED, None),
}


@pytest.fixture
async def proxy(account: Account) -> AsyncIterator[TableProxy]:
    async with TableProxy(account) as running:
        yield running


@asynccontextmanager
async def serving(tmp_path: Path, proxy: TableProxy, endpoint: Endpoint, **settings: Any) -> AsyncIterator[Served]:
    """Serves for the time of the block with the store behind the proxy, and with the assistant `a`."""
    variables = {"AzureWebJobsStorage": proxy.connection_string}
    async with server_with_assistant(
        tmp_path, endpoint.url, variables, **settings, instructions="Be brief."
    ) as running:
        yield running


@pytest.fixture
async def served(tmp_path: Path, proxy: TableProxy, endpoint: Endpoint) -> AsyncIterator[Served]:
    async with serving(tmp_path, proxy, endpoint) as running:
        yield running


@asynccontextmanager
async def store_at(connection_string: str) -> AsyncIterator[AzureTablesStore]:
    store = AzureTablesStore(connection_string=connection_string)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(proxy: TableProxy) -> AsyncIterator[AzureTablesStore]:
    async with store_at(proxy.connection_string) as opened:
        yield opened


async def row_keys(account: Account, name: str = "a") -> list[str]:
    """Returns the keys of all rows of an assistant, read without the proxy."""
    async with TableServiceClient.from_connection_string(account.connection_string) as service:
        rows = service.get_table_client(COLLECTION).query_entities(
            "PartitionKey eq @name", parameters={"name": name}, select=["RowKey"]
        )
        return sorted([row["RowKey"] async for row in rows])


class TestStatuses:
    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("name", FAULTS)
    async def test_a_failing_store_has_its_status_in_time_and_no_model_is_called(
        self, served: Served, proxy: TableProxy, endpoint: Endpoint, name: str, call: str
    ):
        proxy.fault, expected, retry_delay = FAULTS[name]
        failure = await failure_of(CALLS[call](served))
        assert (failure.code, failure.reason) == expected
        assert failure.retry_delay == retry_delay
        assert not any(secret in failure.text for secret in ("127.0.0.1", "tests0", "odata", "RequestId"))
        assert endpoint.calls == []
        proxy.fault = proxy_faults.none
        assert await served_contents(served) == ["Be brief."]
        response = await served.stub.PostUserQueryUnary(query())
        assert response.completed.assistant.total_messages == 3

    @pytest.mark.parametrize("call", ["create", "reset", "delete"])
    @pytest.mark.parametrize("name", ["error before it was applied", "request lost"])
    async def test_a_transaction_that_keeps_failing_is_reported_after_few_retries(
        self, served: Served, proxy: TableProxy, call: str, name: str
    ):
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "create": lambda: CALLS["CreateAssistant"](served),
            "reset": lambda: served.stub.CreateAssistant(
                pb.CreateAssistantRequest(id="a", if_exists=pb.IF_EXISTS_RESET), timeout=IN_TIME
            ),
            "delete": lambda: CALLS["DeleteAssistant"](served),
        }
        proxy.exchanges.clear()
        proxy.fault = proxy_faults.always(LOST[name], lambda exchange: exchange.target.endswith("/$batch"))
        failure = await failure_of(calls[call]())
        assert (failure.code, failure.reason) == UNAVAILABLE
        assert failure.retry_delay is not None
        assert len(proxy.exchanges) < 100

    @pytest.mark.parametrize("call", CALLS)
    async def test_a_store_that_is_down_is_unavailable(
        self, tmp_path: Path, account: Account, endpoint: Endpoint, call: str
    ):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            nobody = f"http://127.0.0.1:{listener.getsockname()[1]}/{account.name}"
        variables = {"AzureWebJobsStorage": account.connection_string_at(nobody)}
        async with palaver_server(tmp_path, endpoint.url, variables) as served:
            failure = await failure_of(CALLS[call](served))
        assert (failure.code, failure.reason) == UNAVAILABLE
        assert failure.retry_delay is not None
        assert endpoint.calls == []

    @pytest.mark.parametrize("call", CALLS)
    async def test_a_wrong_key_is_refused(self, tmp_path: Path, account: Account, endpoint: Endpoint, call: str):
        wrong = account.connection_string.replace(account.key, "d3Jvbmcga2V5")
        async with palaver_server(tmp_path, endpoint.url, {"AzureWebJobsStorage": wrong}) as served:
            failure = await failure_of(CALLS[call](served))
        assert (failure.code, failure.reason) == REJECTED
        assert "d3Jvbmcga2V5" not in failure.text
        assert endpoint.calls == []


LOST: dict[str, Fault] = {
    "answer cut off": proxy_faults.cut_answer,
    "answer lost": proxy_faults.drop_answer,
    "error after it was applied": proxy_faults.fail_after,
    "error before it was applied": proxy_faults.fail_before,
    "request lost": proxy_faults.drop_request,
}


class TestCommitting:
    @pytest.mark.parametrize("name", LOST)
    async def test_a_commit_that_fails_once_stores_the_turn_once(
        self, served: Served, proxy: TableProxy, endpoint: Endpoint, name: str
    ):
        proxy.fault = proxy_faults.once(LOST[name], lambda exchange: exchange.is_commit)
        response = await served.stub.PostUserQueryUnary(query())
        assert await served_contents(served) == ["Be brief.", "Hello", "Hello, world"]
        assert response.completed.assistant.total_messages == 3
        assert [message.index for message in response.completed.messages] == [2, 3]
        assert len(endpoint.calls) == 1

    @pytest.mark.parametrize("name", ["answer cut off", "answer lost", "error after it was applied"])
    async def test_a_commit_whose_responses_are_all_lost_is_found_in_the_store(
        self, served: Served, proxy: TableProxy, endpoint: Endpoint, name: str
    ):
        proxy.fault = proxy_faults.always(LOST[name], lambda exchange: exchange.is_commit)
        await served.stub.PostUserQueryUnary(query())
        assert await served_contents(served) == ["Be brief.", "Hello", "Hello, world"]
        assert len(endpoint.calls) == 1

    @pytest.mark.parametrize("extent", [proxy_faults.always, proxy_faults.since], ids=["the commit", "all after it"])
    @pytest.mark.parametrize("name", [name for name in FAULTS if name != "is cut off"])  # that one is stored
    async def test_a_commit_is_not_retried_for_ever(
        self,
        tmp_path: Path,
        proxy: TableProxy,
        endpoint: Endpoint,
        name: str,
        extent: Callable[[Fault, Callable[[Exchange], bool]], Fault],
    ):
        fault, expected, retry_delay = FAULTS[name]
        seconds = 1 if name == "hangs" else 4.5
        async with serving(tmp_path, proxy, endpoint, commit_timeout=0.5, store_timeout=seconds) as served:
            proxy.fault = extent(fault, lambda exchange: exchange.is_commit)
            failure = await failure_of(served.stub.PostUserQueryUnary(query()))
            assert (failure.code, failure.reason) == expected
            assert failure.retry_delay == retry_delay
            assert len(endpoint.calls) == 1
            proxy.fault = proxy_faults.none
            assert await served_contents(served) == ["Be brief."]
            # Without waiting, although the lease may not have been released.
            await served.stub.PostUserQueryUnary(query("Again"), timeout=IN_TIME)
            assert await served_contents(served) == ["Be brief.", "Again", "Hello, world"]

    async def test_a_short_retry_after_of_the_store_is_waited_for(self, served: Served, proxy: TableProxy):
        proxy.fault = proxy_faults.once(refuse(503, "ServerBusy", Retry_After="2"), lambda exchange: exchange.is_commit)
        await served.stub.PostUserQueryUnary(query())
        assert await served_contents(served) == ["Be brief.", "Hello", "Hello, world"]

    @pytest.mark.parametrize("status", [429, 500, 503])
    async def test_a_failure_within_a_successful_batch_response_is_retried(
        self, served: Served, proxy: TableProxy, endpoint: Endpoint, status: int
    ):
        proxy.fault = proxy_faults.once(fail_within(status), lambda exchange: exchange.is_commit)
        await served.stub.PostUserQueryUnary(query())
        assert await served_contents(served) == ["Be brief.", "Hello", "Hello, world"]
        assert len(endpoint.calls) == 1

    async def test_another_turn_in_place_of_a_lost_one_is_detected(self, store: AzureTablesStore, proxy: TableProxy):
        await create(store)
        version = await version_of(store)
        ours, theirs = finished(draft(Role.USER, "ours")), finished(draft(Role.USER, "theirs"))

        async def theirs_first(exchange: Exchange) -> bytes | None:
            proxy.fault = proxy_faults.none
            await store.commit_turn(key(), version, theirs)
            return None

        proxy.fault = proxy_faults.always(theirs_first, lambda exchange: exchange.is_commit)
        with pytest.raises(StoreError) as caught:
            await store.commit_turn(key(), version, ours)
        assert caught.value.reason == "CONCURRENT_WRITE"
        assert await contents(store) == ["Be brief.", "theirs"]


class TestCreatingAndDeleting:
    @pytest.mark.parametrize("if_exists", IfExists)
    @pytest.mark.parametrize("name", LOST)
    @pytest.mark.parametrize("number", range(6))
    async def test_creating_makes_one_assistant_whichever_request_fails_once(
        self, store: AzureTablesStore, proxy: TableProxy, account: Account, name: str, if_exists: IfExists, number: int
    ):
        if if_exists is IfExists.RESET:
            await create(store, instructions="Old")
            await add_turn(store)
        proxy.fault = nth(LOST[name], number)
        assistant, created = await store.create_assistant(key(), "Be brief.", if_exists)
        proxy.fault = proxy_faults.none
        assert created
        assert await store.get_assistant(key()) == assistant
        assert await row_keys(account) == ["msg-0001", "state"]
        assert await contents(store) == ["Be brief."]

    @pytest.mark.parametrize("name", LOST)
    @pytest.mark.parametrize("number", range(3))
    async def test_deleting_succeeds_whichever_request_fails_once(
        self, store: AzureTablesStore, proxy: TableProxy, account: Account, name: str, number: int
    ):
        await create(store)
        await add_turn(store)
        proxy.fault = nth(LOST[name], number)
        await store.delete_assistant(key())
        assert await row_keys(account) == []

    @pytest.mark.parametrize("operation", ["create", "reset", "delete"])
    async def test_an_assistant_is_whole_or_missing_whenever_the_server_dies(
        self, store: AzureTablesStore, proxy: TableProxy, account: Account, operation: str
    ):
        await create(store, "other")  # creates the table
        for requests in range(30):
            if operation != "create":
                await store.create_assistant(key(), "Old", IfExists.RESET)
                for _ in range(3):
                    await add_turn(store, *[draft(Role.USER, "old")] * 90)
            proxy.fault = proxy_faults.cut_after(requests)
            async with store_at(proxy.connection_string) as dying:
                try:
                    if operation == "delete":
                        await dying.delete_assistant(key())
                    else:
                        await dying.create_assistant(key(), "New", IfExists.RESET)
                    is_done = True
                except StoreError:
                    is_done = False
            proxy.fault = proxy_faults.none
            old, new = ["Old"] + ["old"] * 270, ["New"]
            possible = {"create": [[], new], "reset": [old, [], new], "delete": [old, []]}[operation]
            assert await whole_or_nothing(store) in possible
            await store.create_assistant(key(), "Again", IfExists.RESET)
            assert await row_keys(account) == ["msg-0001", "state"]
            assert await contents(store) == ["Again"]
            await store.delete_assistant(key())
            if is_done:
                return
        pytest.fail("the operation never succeeded")

    async def test_deleting_again_removes_the_rows_that_an_interrupted_deletion_left(
        self, store: AzureTablesStore, proxy: TableProxy, account: Account
    ):
        await create(store)
        await add_turn(store)
        proxy.fault = proxy_faults.cut_after(2)  # the state is read and deleted
        async with store_at(proxy.connection_string) as dying:
            with pytest.raises(StoreError):
                await dying.delete_assistant(key())
        proxy.fault = proxy_faults.none
        assert len(await row_keys(account)) == 4
        with pytest.raises(AssistantNotFound):
            await store.delete_assistant(key())
        assert await row_keys(account) == []


class TestArrivingLate:
    @pytest.mark.parametrize(
        ("operation", "number"),
        [("create", 0), ("reset", 0), ("reset", 1), ("reset", 2), ("delete", 0), ("delete", 1), ("commit", 0)],
    )
    async def test_a_late_write_of_a_dead_server_does_not_change_a_newer_conversation(
        self, store: AzureTablesStore, proxy: TableProxy, account: Account, operation: str, number: int
    ):
        await create(store, instructions="Old")
        if operation == "commit":
            await add_turn(store)  # its messages have indexes that the newer conversation does not have yet
        # The other operations delete rows whose keys exist in the newer conversation, too.
        version = await version_of(store)
        if operation == "create":
            await store.delete_assistant(key())
        late = Late(number)
        proxy.fault = late
        if operation == "commit":
            call: Awaitable[Any] = store.commit_turn(key(), version, finished())
        elif operation == "delete":
            call = store.delete_assistant(key())
        else:
            call = store.create_assistant(key(), "Late", IfExists.RESET)
        await late.outlive(call)
        async with store_at(account.connection_string) as other:
            await other.create_assistant(key(), "New", IfExists.RESET)
            await add_turn(other, draft(Role.USER, "new"))
            await late.arrive()
            assert await whole_or_nothing(other) == ["New", "new"]
        assert len(await row_keys(account)) == 4  # two messages, the turn and the state


class TestReading:
    async def test_a_window_does_not_mix_a_conversation_with_its_reset(
        self, store: AzureTablesStore, proxy: TableProxy, account: Account
    ):
        await create(store, instructions="Old")
        has_read_old = asyncio.Event()

        async def start_over(exchange: Exchange) -> bytes | None:
            if "filter=" in exchange.target:
                await has_read_old.wait()
                proxy.fault = proxy_faults.none
                async with store_at(account.connection_string) as other:
                    await other.create_assistant(key(), "New", IfExists.RESET)
            response = await exchange.forward()
            if "msg-0001" in exchange.target:
                has_read_old.set()
            return response

        proxy.fault = start_over
        window = await store.read_window(key(), 10)
        assert window.instructions is not None
        assert window.instructions.content.text == "New"


class TestOrder:
    async def test_messages_are_ordered_whatever_the_order_of_the_rows(
        self, store: AzureTablesStore, proxy: TableProxy
    ):
        await create(store, instructions="0")
        for start in range(1, 150, 10):
            await add_turn(store, *(draft(Role.USER, str(number)) for number in range(start, start + 10)))
        proxy.fault = proxy_faults.shuffle
        messages = await history(store)
        assert [message.content.text for message in messages] == [str(number) for number in range(151)]
        for limit in (1, 7, 100, 1000):
            newest = await store.list_messages(key(), Listing(Order.NEWEST_FIRST, limit=limit))
            assert list(newest.messages) == messages[::-1][:limit]
        later = await store.list_messages(key(), Listing(after_time=messages[100].create_time, limit=20))
        assert list(later.messages) == messages[101:121]
        window = await store.read_window(key(), 12)
        assert (window.instructions, list(window.messages)) == (messages[0], messages[-12:])
        await add_turn(store, draft(Role.USER, "151"))
        assert (await contents(store))[-2:] == ["150", "151"]


class Late:
    """A fault that delays the write with a number, counted from 0, until the test lets it arrive."""

    def __init__(self, number: int) -> None:
        self._earlier = number
        self._is_held = asyncio.Event()
        self._may_arrive = asyncio.Event()
        self._has_arrived = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> bytes | None:
        if not exchange.is_write:
            return await exchange.forward()
        self._earlier -= 1
        if self._earlier != -1:
            return await exchange.forward()
        self._is_held.set()
        await self._may_arrive.wait()
        response = await exchange.forward()
        self._has_arrived.set()
        return response

    async def outlive(self, call: Awaitable[Any]) -> None:
        """Cancels the caller while its write is in transit."""
        calling = asyncio.ensure_future(call)
        held = asyncio.ensure_future(self._is_held.wait())
        await asyncio.wait([calling, held], return_when=asyncio.FIRST_COMPLETED)
        assert held.done(), "the call never reached this write"
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling

    async def arrive(self) -> None:
        """Lets the write arrive at the store."""
        self._may_arrive.set()
        await self._has_arrived.wait()


def fail_within(status: int) -> Fault:
    """Returns a fault that is reported inside a batch response whose own status is a success."""

    async def fault(exchange: Exchange) -> bytes | None:
        parts = (
            b"--batch\r\nContent-Type: multipart/mixed; boundary=changes\r\n\r\n",
            b"--changes\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n",
            proxy_faults.answer(status, "ServerBusy"),
            b"\r\n--changes--\r\n--batch--\r\n",
        )
        body = b"".join(parts)
        head = (
            "HTTP/1.1 202 Accepted\r\nContent-Type: multipart/mixed; boundary=batch\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body

    return fault


def nth(fault: Fault, number: int) -> Fault:
    """Returns a fault of the request with a number, counted from 0."""
    count = 0

    async def pick(exchange: Exchange) -> bytes | None:
        nonlocal count
        count += 1
        return await (fault if count == number + 1 else proxy_faults.none)(exchange)

    return pick


async def whole_or_nothing(store: AzureTablesStore) -> list[str]:
    """Returns the contents of an assistant, whose state and messages must agree. Empty if there is no assistant."""
    try:
        assistant = await store.get_assistant(key())
    except AssistantNotFound:
        return []
    found = await contents(store)
    assert assistant.total_messages == len(found)
    return found
