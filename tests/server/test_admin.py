"""`AdminService` over a socket: what operators see of a server, and who may see it."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from palaver.v1 import admin_service_pb2 as pb
from palaver.v1 import assistant_service_pb2
from palaver.v1.admin_service_pb2_grpc import AdminServiceStub
from palaver_server.api.admin import SERVICE
from palaver_server.api.page_tokens import page_token
from tests.support.azurite import Account
from tests.support.callers import CallersFile
from tests.support.calls import create_assistant, query, read_rest
from tests.support.endpoint import Endpoint, Stream, skill_calls
from tests.support.palaver_server import Replicas, Served, palaver_server, server_with_assistant
from tests.support.ports import free_port
from tests.support.server_process import server_process
from tests.support.skill_host import SkillHost, content
from tests.support.statuses import failure_of

WAITING, MODEL = pb.RUNNING_TURN_PHASE_WAITING, pb.RUNNING_TURN_PHASE_MODEL
SKILL, STORING = pb.RUNNING_TURN_PHASE_SKILL, pb.RUNNING_TURN_PHASE_STORING
CONTINUE = assistant_service_pb2.ON_DISCONNECT_CONTINUE

PAGE_TOKEN = "must be the next_page_token of a page of the same listing"

Turns = list[pb.RunningTurn]


async def running_turns(stub: AdminServiceStub, **options: Any) -> Turns:
    return list((await stub.ListRunningTurns(pb.ListRunningTurnsRequest(), **options)).turns)


async def turns_when(stub: AdminServiceStub, condition: Callable[[Turns], bool]) -> Turns:
    """Returns the running turns as soon as they meet a condition."""
    while not condition(turns := await running_turns(stub)):
        pass
    return turns


async def read_until(call: Any, event: str) -> None:
    while not (await call.read()).HasField(event):
        pass


class TestRunningTurns:
    async def test_a_turn_is_listed_with_what_is_known_of_it(self, served: Served, endpoint: Endpoint):
        gate = asyncio.Event()
        endpoint.script(Stream("Grüße, ", "😀", gate))
        before = datetime.now(timezone.utc)
        call = served.stub.PostUserQuery(query(chat_model="gpt-x", request_id="r"))
        [turn] = await turns_when(served.admin, lambda turns: [turn.characters for turn in turns] == [8])
        response = await served.admin.ListRunningTurns(pb.ListRunningTurnsRequest())
        after = datetime.now(timezone.utc)
        assert before <= turn.create_time.ToDatetime(timezone.utc) <= after
        assert timedelta() <= turn.age.ToTimedelta() <= after - before + timedelta(seconds=1)
        turn.ClearField("create_time")
        turn.ClearField("age")
        assert turn == pb.RunningTurn(
            chat_storage_connection_setting="AzureWebJobsStorage",
            collection_name="ChatState",
            assistant_id="a",
            request_id="r",
            phase=MODEL,
            chat_model="gpt-x",
            ai_connection_name="OPENAI",
            characters=8,
            usage=assistant_service_pb2.Usage(),
            readers=1,
        )
        assert response.total_turns == 1
        assert response.process == pb.ServerProcess(host_name=socket.gethostname(), process_id=os.getpid())
        gate.set()
        await read_rest(call)
        assert await running_turns(served.admin) == []

    async def test_a_turn_that_waits_for_its_assistant_is_listed_behind_older_ones(
        self, served: Served, endpoint: Endpoint
    ):
        gate = asyncio.Event()
        endpoint.script(Stream("Hel", gate))
        first = served.stub.PostUserQuery(query(request_id="first"))
        await read_until(first, "text_delta")
        second = served.stub.PostUserQuery(query(request_id="second", chat_model="gpt-y"))
        turns = await turns_when(served.admin, lambda turns: [turn.chat_model for turn in turns][1:] == ["gpt-y"])
        assert [(turn.request_id, turn.phase, turn.characters) for turn in turns] == [
            ("first", MODEL, 3),
            ("second", WAITING, 0),
        ]
        gate.set()
        await read_rest(first)
        await read_rest(second)

    async def test_a_turn_that_waits_for_a_skill_tells_the_usage_of_its_model_calls(
        self, tmp_path: Path, endpoint: Endpoint
    ):
        called, gate = asyncio.Event(), asyncio.Event()

        async def answer(_request: object) -> object:
            called.set()
            await gate.wait()
            return content("noon")

        async with (
            SkillHost(clock=answer) as host,
            server_with_assistant(tmp_path, endpoint.url, skill_hosts=(host.target,)) as served,
        ):
            endpoint.script(skill_calls(("clock", '{"task": "x"}')))
            call = served.stub.PostUserQuery(query())
            await called.wait()
            [turn] = await running_turns(served.admin)
            assert turn.phase == SKILL
            assert (turn.usage.total_tokens, turn.usage.model_calls) == (18, 1)
            gate.set()
            events = await read_rest(call)
            assert events[-1].completed.usage.model_calls == 2

    async def test_a_turn_that_is_being_stored_says_so(self, served: Served, endpoint: Endpoint, tmp_path: Path):
        gate = asyncio.Event()
        endpoint.script(Stream("Hello", gate))
        call = served.stub.PostUserQuery(query())
        await read_until(call, "text_delta")
        with closing(sqlite3.connect(tmp_path / "palaver.db", isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")  # keeps the turn from being stored
            gate.set()
            await turns_when(served.admin, lambda turns: [turn.phase for turn in turns] == [STORING])
        await read_rest(call)

    async def test_readers_are_counted(self, served: Served, endpoint: Endpoint):
        gate = asyncio.Event()
        endpoint.script(Stream("Hel", gate))
        request = query(request_id="r", on_disconnect=CONTINUE)
        calls = [served.stub.PostUserQuery(request) for _ in range(2)]
        for call in calls:
            await read_until(call, "text_delta")
        assert [turn.readers for turn in await running_turns(served.admin)] == [2]
        for call in calls:
            call.cancel()
        await turns_when(served.admin, lambda turns: [turn.readers for turn in turns] == [0])
        gate.set()
        await turns_when(served.admin, lambda turns: not turns)

    async def test_a_limit_leaves_the_newest_turns_out(self, served: Served, endpoint: Endpoint):
        gate = asyncio.Event()
        endpoint.script(Stream("Hel", gate))
        calls = []
        for number in range(3):
            calls.append(served.stub.PostUserQuery(query(request_id=f"r{number}")))
            await turns_when(served.admin, lambda turns: len(turns) == len(calls))
        response = await served.admin.ListRunningTurns(pb.ListRunningTurnsRequest(limit=2))
        assert [turn.request_id for turn in response.turns] == ["r0", "r1"]
        assert response.total_turns == 3
        gate.set()
        for call in calls:
            await read_rest(call)

    @pytest.mark.parametrize("limit", [-1, 1001])
    async def test_an_invalid_limit_is_named(self, served: Served, limit: int):
        failure = await failure_of(served.admin.ListRunningTurns(pb.ListRunningTurnsRequest(limit=limit)))
        assert failure.reason == "INVALID_FIELD"
        assert failure.violations == {"limit": f"must be from 1 to 1,000, or 0 for the default, not {limit}"}

    async def test_a_listed_turn_can_be_cancelled(self, served: Served, endpoint: Endpoint):
        endpoint.script(Stream("Hel", asyncio.Event()))
        call = served.stub.PostUserQuery(query())
        await read_until(call, "text_delta")
        [turn] = await running_turns(served.admin)
        await served.stub.CancelTurn(
            assistant_service_pb2.CancelTurnRequest(
                id=turn.assistant_id,
                chat_storage_connection_setting=turn.chat_storage_connection_setting,
                collection_name=turn.collection_name,
                request_id=turn.request_id,
            )
        )
        assert (await failure_of(read_rest(call))).reason == "TURN_CANCELLED"
        assert await running_turns(served.admin) == []

    async def test_each_worker_answers_for_its_own_turns(self, tmp_path: Path, endpoint: Endpoint):
        endpoint.script(Stream("Hel", asyncio.Event()))
        async with server_process(tmp_path, endpoint.url, PALAVER_WORKERS="2") as server, AsyncExitStack() as stack:
            await create_assistant(server)
            call = server.stub.PostUserQuery(query())
            await read_until(call, "text_delta")
            found: dict[int, Turns] = {}
            # The operating system chooses the worker of a connection.
            for _ in range(100):
                options = [("grpc.use_local_subchannel_pool", 1)]
                channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address, options))
                response = await AdminServiceStub(channel).ListRunningTurns(pb.ListRunningTurnsRequest())
                found[response.process.process_id] = list(response.turns)
                if len(found) == 2:
                    break
            assert sorted(len(turns) for turns in found.values()) == [0, 1]
            call.cancel()


class TestAssistants:
    async def test_pages_lead_through_all_assistants(self, replicas: Replicas):
        async with replicas.another() as served:
            names = [f"user-{number}" for number in range(7)]
            for name in names:
                await create_assistant(served, name)
            await served.stub.PostUserQueryUnary(query(id="user-3"))
            request = pb.ListAssistantsRequest(page_size=3)
            listed = []
            while True:
                response = await served.admin.ListAssistants(request)
                assert len(response.assistants) <= 3
                listed += response.assistants
                if not response.next_page_token:
                    break
                request.page_token = response.next_page_token
            get = [assistant_service_pb2.GetAssistantRequest(id=name) for name in names]
            assert listed == [(await served.stub.GetAssistant(each)).assistant for each in get]

    async def test_a_page_token_belongs_to_its_listing(self, replicas: Replicas):
        async with replicas.another() as served:
            for name in ("a", "b"):
                await create_assistant(served, name)
            first = await served.admin.ListAssistants(pb.ListAssistantsRequest(page_size=1))
            for request in (
                pb.ListAssistantsRequest(page_token=first.next_page_token, collection_name="Others"),
                pb.ListAssistantsRequest(page_token=first.next_page_token[:-4]),
                pb.ListAssistantsRequest(page_token="not a token"),
            ):
                failure = await failure_of(served.admin.ListAssistants(request))
                assert (failure.reason, failure.violations) == ("INVALID_FIELD", {"page_token": PAGE_TOKEN})

    async def test_a_forged_page_token_is_invalid_if_it_is_not_even_text(self, replicas: Replicas):
        request = pb.ListAssistantsRequest()
        request.page_token = page_token(request, b"\xff")
        async with replicas.another() as served:
            assert (await failure_of(served.admin.ListAssistants(request))).violations == {"page_token": PAGE_TOKEN}

    @pytest.mark.parametrize(
        ("request_", "field", "words"),
        [
            (pb.ListAssistantsRequest(page_size=-1), "page_size", "not -1"),
            (pb.ListAssistantsRequest(page_size=1001), "page_size", "1,000"),
            (pb.ListAssistantsRequest(collection_name="a-b-c"), "collection_name", "letters"),
        ],
    )
    async def test_an_invalid_field_is_named(
        self, served: Served, request_: pb.ListAssistantsRequest, field: str, words: str
    ):
        failure = await failure_of(served.admin.ListAssistants(request_))
        assert (failure.reason, failure.violations.keys()) == ("INVALID_FIELD", {field})
        assert words in failure.violations[field]

    async def test_another_connection_is_not_configured(self, served: Served):
        request = pb.ListAssistantsRequest(chat_storage_connection_setting="Other")
        assert (await failure_of(served.admin.ListAssistants(request))).reason == "CONNECTION_NOT_CONFIGURED"


SECRETS = {
    "OPENAI_API_KEY": "sk-the-key-of-openai-1",
    "Spare__Key": "the-key-of-the-spare-1",
    "Archive": "DefaultEndpointsProtocol=https;AccountName=ledger;AccountKey=dGhlIGtleSBvZiB0aGUgdGFibGVz",
}


class TestSettings:
    @pytest.fixture
    async def response(self, tmp_path: Path) -> AsyncIterator[pb.GetServerSettingsResponse]:
        environment = {
            **SECRETS,
            "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
            "Spare__Endpoint": "https://spare.openai.azure.com/",
        }
        settings = {
            "turn_timeout": 77.0,
            "storage_connections": ("AzureWebJobsStorage", "Archive"),
            "ai_connections": ("Spare",),
        }
        async with palaver_server(tmp_path, None, environment, **settings) as served:
            yield await served.admin.GetServerSettings(pb.GetServerSettingsRequest())

    async def test_settings_are_told_as_they_are_written(self, response: pb.GetServerSettingsResponse, tmp_path: Path):
        settings = {setting.name: (setting.value, setting.is_default) for setting in response.settings}
        assert list(settings) == sorted(settings)
        assert settings["PALAVER_TURN_TIMEOUT"] == ("77", False)
        assert settings["PALAVER_STORE_TIMEOUT"] == ("4.5", True)
        assert settings["PALAVER_MAX_TURNS"] == ("1000", True)
        assert settings["PALAVER_REFLECTION"] == ("false", True)
        assert settings["PALAVER_MAX_TOKENS_CAP"] == ("", True)
        assert settings["PALAVER_DATA_DIR"] == (str(tmp_path), False)
        assert settings["PALAVER_SKILL_HOSTS"] == ("", True)
        assert settings["PALAVER_LOG_LEVEL"] == ("info", True)

    async def test_connections_are_told_without_their_keys(
        self, response: pb.GetServerSettingsResponse, tmp_path: Path
    ):
        assert list(response.storage_connections) == [
            pb.ServerConnection(
                name="AzureWebJobsStorage",
                kind=pb.SERVER_CONNECTION_KIND_SQLITE,
                location=str(tmp_path / "palaver.db"),
                is_default=True,
            ),
            pb.ServerConnection(
                name="Archive",
                kind=pb.SERVER_CONNECTION_KIND_AZURE_TABLES,
                location="ledger.table.core.windows.net",
            ),
        ]
        assert list(response.ai_connections) == [
            pb.ServerConnection(
                name="Spare", kind=pb.SERVER_CONNECTION_KIND_AZURE_OPENAI, location="spare.openai.azure.com"
            ),
            pb.ServerConnection(
                name="OPENAI", kind=pb.SERVER_CONNECTION_KIND_OPENAI, location="127.0.0.1:9", is_default=True
            ),
        ]

    async def test_no_secret_is_told(self, response: pb.GetServerSettingsResponse):
        text = str(response)
        for secret in (*SECRETS.values(), "dGhlIGtleSBvZiB0aGUgdGFibGVz"):
            assert secret not in text

    async def test_the_offline_model_is_a_connection(self, tmp_path: Path):
        async with palaver_server(tmp_path, offline_model=True) as served:
            [connection] = (await served.admin.GetServerSettings(pb.GetServerSettingsRequest())).ai_connections
        assert (connection.name, connection.kind) == ("OFFLINE", pb.SERVER_CONNECTION_KIND_OFFLINE)
        assert connection.location.startswith("127.0.0.1:")


RPCS: dict[str, Message] = {
    "ListAssistants": pb.ListAssistantsRequest(),
    "ListRunningTurns": pb.ListRunningTurnsRequest(),
    "GetServerSettings": pb.GetServerSettingsRequest(),
}


class TestAccess:
    @pytest.fixture
    def callers(self, tmp_path: Path) -> CallersFile:
        return CallersFile(tmp_path / "callers.toml")

    @asynccontextmanager
    async def serving(self, callers: CallersFile, endpoint: Endpoint, **settings: Any) -> AsyncIterator[Served]:
        folder = callers.path.parent / "data"
        async with palaver_server(folder, endpoint.url, callers=callers.path, **settings) as served:
            yield served

    def test_all_rpcs_are_tested(self):
        assert RPCS.keys() == {method.name for method in SERVICE.methods}

    @pytest.mark.parametrize("rpc", RPCS)
    @pytest.mark.parametrize("access", ["read", "write", "admin"])
    async def test_only_admins_may_call_it(self, callers: CallersFile, endpoint: Endpoint, rpc: str, access: str):
        callers.write(shop={"access": access})
        async with self.serving(callers, endpoint) as served:
            method = getattr(served.admin, rpc)
            assert (await failure_of(method(RPCS[rpc]))).reason == "UNAUTHENTICATED"
            call = method(RPCS[rpc], metadata=callers.as_caller("shop"))
            if access == "admin":
                await call
            else:
                failure = await failure_of(call)
                assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
                assert f'needs the access "admin", and the caller "shop" has "{access}"' in failure.text

    async def test_an_admin_lists_only_the_assistants_that_it_may_name(self, callers: CallersFile, endpoint: Endpoint):
        callers.write(root={"access": "admin"}, shop={"access": "admin", "ids": ["shop.*"], "collections": ["Shop*"]})
        async with self.serving(callers, endpoint) as served:
            root = callers.as_caller("root")
            for name in ("shop.1", "till.1"):
                request = assistant_service_pb2.CreateAssistantRequest(id=name, collection_name="Shops")
                await served.stub.CreateAssistant(request, metadata=root)

            async def listed(caller: str, collection: str, **fields: Any) -> pb.ListAssistantsResponse:
                request = pb.ListAssistantsRequest(collection_name=collection, **fields)
                return await served.admin.ListAssistants(request, metadata=callers.as_caller(caller))

            assert [each.id for each in (await listed("root", "Shops")).assistants] == ["shop.1", "till.1"]
            assert [each.id for each in (await listed("shop", "SHOPS")).assistants] == ["shop.1"]
            first = await listed("shop", "Shops", page_size=1)
            last = await listed("shop", "Shops", page_size=1, page_token=first.next_page_token)
            assert (list(last.assistants), last.next_page_token) == ([], "")
            failure = await failure_of(listed("shop", "Tills"))
            assert (failure.reason, failure.violations.keys()) == ("PERMISSION_DENIED", {"collection_name"})

    @pytest.mark.parametrize("rights", [{"access": "write"}, {"access": "admin", "collections": ["Tills"]}])
    async def test_a_refusal_reads_no_store(self, callers: CallersFile, endpoint: Endpoint, rights: dict[str, Any]):
        callers.write(shop=rights)
        account = Account("devstoreaccount1", f"http://127.0.0.1:{free_port()}/devstoreaccount1")
        environment = {"AzureWebJobsStorage": account.connection_string}  # leads nowhere
        async with self.serving(callers, endpoint, environment=environment, store_timeout=0.6) as served:
            metadata = callers.as_caller("shop")
            failure = await failure_of(served.admin.ListAssistants(pb.ListAssistantsRequest(), metadata=metadata))
            assert failure.reason == "PERMISSION_DENIED"
            allowed = pb.ListAssistantsRequest(collection_name="Tills")
            if rights["access"] == "admin":
                failure = await failure_of(served.admin.ListAssistants(allowed, metadata=metadata))
                assert failure.reason == "STORE_UNAVAILABLE"

    async def test_an_admin_sees_only_the_turns_of_assistants_that_it_may_name(
        self, callers: CallersFile, endpoint: Endpoint
    ):
        callers.write(
            root={"access": "admin"},
            by_id={"access": "admin", "ids": ["shop.*"]},
            by_collection={"access": "admin", "collections": ["Tills"]},
            by_connection={"access": "admin", "storage_connections": ["Archive"]},
        )
        endpoint.script(Stream("Hel", asyncio.Event()), Stream("Hel", asyncio.Event()))
        async with self.serving(callers, endpoint) as served:
            root = callers.as_caller("root")
            for fields in ({"id": "shop.1"}, {"id": "till.1", "collection_name": "Tills"}):
                create = assistant_service_pb2.CreateAssistantRequest(**fields)
                await served.stub.CreateAssistant(create, metadata=root)
                call = served.stub.PostUserQuery(query(**fields), metadata=root)
                await read_until(call, "text_delta")
            seen = {
                name: [(turn.caller, turn.assistant_id) for turn in await running_turns(served.admin, metadata=caller)]
                for name, caller in ((name, callers.as_caller(name)) for name in callers.keys)
            }
            assert seen == {
                "root": [("root", "shop.1"), ("root", "till.1")],
                "by_id": [("root", "shop.1")],
                "by_collection": [("root", "till.1")],
                "by_connection": [],
            }

    async def test_an_admin_sees_only_the_connections_that_it_may_name(self, callers: CallersFile, endpoint: Endpoint):
        callers.write(shop={"access": "admin", "storage_connections": ["Shop"], "ai_connections": []})
        environment = {"Shop": f"sqlite:{callers.path.parent / 'shop.db'}", "Spare__Key": "k"}
        environment["Spare__Endpoint"] = "https://spare.openai.azure.com/"
        names = {"storage_connections": ("AzureWebJobsStorage", "Shop"), "ai_connections": ("Spare",)}
        async with self.serving(callers, endpoint, environment=environment, **names) as served:
            metadata = callers.as_caller("shop")
            response = await served.admin.GetServerSettings(pb.GetServerSettingsRequest(), metadata=metadata)
        assert [each.name for each in response.storage_connections] == ["Shop"]
        assert [each.name for each in response.ai_connections] == ["OPENAI"]
        assert "Spare" not in str(response)


async def test_health_and_reflection_know_the_service(tmp_path: Path):
    async with palaver_server(tmp_path, offline_model=True, reflection=True) as served:
        request = health_pb2.HealthCheckRequest(service=SERVICE.full_name)
        health = await health_pb2_grpc.HealthStub(served.channel).Check(request)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        listing = reflection_pb2_grpc.ServerReflectionStub(served.channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        assert SERVICE.full_name in str(await listing.read())
        listing.cancel()


@pytest.mark.parametrize("rpc", RPCS)
async def test_malformed_bytes_are_an_invalid_argument(served: Served, rpc: str):
    failure = await failure_of(served.channel.unary_unary(f"/{SERVICE.full_name}/{rpc}")(b"\xff"))
    assert failure.reason == "INVALID_FIELD"
