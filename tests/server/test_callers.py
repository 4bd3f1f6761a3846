"""Callers with keys: who may do what to whose assistants. What is refused is refused before any store is read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from typing_extensions import Self

from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from palaver_server.domain.limits import MAX_DENIED_FIELDS
from palaver_server.health import PROBE_KEY
from tests.support.callers import CallersFile, Metadata, bearer
from tests.support.calls import query, read_rest
from tests.support.endpoint import Endpoint, Stream, skill_calls
from tests.support.palaver_server import Served, palaver_server
from tests.support.skill_host import SkillHost, content
from tests.support.statuses import failure_of

UNAUTHENTICATED, PERMISSION_DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED

READ, WRITE, ADMIN = "read", "write", "admin"
LEVELS = (READ, WRITE, ADMIN)


class Rpcs:
    """The RPCs as one caller calls them. Each takes the fields that name the assistant."""

    def __init__(self, stub: AssistantServiceStub, metadata: Metadata | None) -> None:
        self._stub = stub
        self._options: Any = {"metadata": metadata, "timeout": 30}

    async def create(self, **fields: Any) -> Any:
        return await self._stub.CreateAssistant(pb.CreateAssistantRequest(**fields), **self._options)

    async def reset(self, **fields: Any) -> Any:
        return await self.create(if_exists=pb.IF_EXISTS_RESET, **fields)

    async def get(self, **fields: Any) -> Any:
        return await self._stub.GetAssistant(pb.GetAssistantRequest(**fields), **self._options)

    async def list(self, **fields: Any) -> Any:
        return await self._stub.ListMessages(pb.ListMessagesRequest(**fields), **self._options)

    async def delete(self, **fields: Any) -> Any:
        return await self._stub.DeleteAssistant(pb.DeleteAssistantRequest(**fields), **self._options)

    async def post(self, **fields: Any) -> Any:
        return await read_rest(self.stream(**fields))

    def stream(self, **fields: Any) -> Any:
        return self._stub.PostUserQuery(query(**fields), **self._options)

    async def unary(self, **fields: Any) -> Any:
        return await self._stub.PostUserQueryUnary(query(**fields), **self._options)

    async def cancel(self, request_id: str = "r", **fields: Any) -> Any:
        return await self._stub.CancelTurn(pb.CancelTurnRequest(request_id=request_id, **fields), **self._options)


NEEDED = {
    "create": WRITE,
    "reset": ADMIN,
    "get": READ,
    "list": READ,
    "delete": ADMIN,
    "post": WRITE,
    "unary": WRITE,
    "cancel": WRITE,
}
"""The access that each RPC needs."""


class Watched:
    """A storage account that counts how often calls reach it, besides the probes of health, and serves nobody."""

    requests = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._refuse, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.connection_string = (
            "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=aGVsbG8=;"
            f"TableEndpoint=http://127.0.0.1:{port}/devstoreaccount1"
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if PROBE_KEY.id.encode() not in await reader.readline():
            self.requests += 1
        writer.close()


@pytest.fixture
def callers(tmp_path: Path) -> CallersFile:
    return CallersFile(tmp_path / "callers.toml")


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    async with Watched() as running:
        yield running


@asynccontextmanager
async def serving(callers: CallersFile, endpoint: Endpoint, **settings: Any) -> AsyncIterator[Served]:
    async with palaver_server(
        callers.path.parent / "data", endpoint.url, settings.pop("environment", None), callers=callers.path, **settings
    ) as served:
        yield served


def rpcs(served: Served, callers: CallersFile, name: str) -> Rpcs:
    return Rpcs(served.stub, callers.as_caller(name))


async def is_denied(call: Awaitable[Any]) -> bool:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code() is PERMISSION_DENIED
    return False


class TestCredentials:
    @pytest.mark.parametrize(
        ("metadata", "words"),
        [
            ((), "credentials are missing"),
            ((("authorization", ""),), "credentials are missing"),
            ((("authorization", "Bearer"),), 'must be "Bearer <key or token>"'),
            ((("authorization", "Bearer  "),), 'must be "Bearer <key or token>"'),
            ((("authorization", "Basic {key}"),), 'must be "Bearer <key or token>"'),
            ((("authorization", "{key}"),), 'must be "Bearer <key or token>"'),
            ((("authorization", "Bearer {key}x"),), "the key is not one of a caller"),
            ((("authorization", "Bearer {key} {key}"),), "the key is not one of a caller"),
            ((("authorization", "Bearer a.b.c"),), "the key is not one of a caller"),
            ((("authorization", "Bearer {key}"), ("authorization", "Bearer {key}")), "the key is not one of a caller"),
            ((("authorization", "Bearer x"), ("authorization", "Bearer {key}")), "the key is not one of a caller"),
            ((("x-api-key", "{key}"),), "credentials are missing"),
        ],
    )
    async def test_a_call_without_valid_credentials_is_refused(
        self, callers: CallersFile, endpoint: Endpoint, metadata: Any, words: str
    ):
        callers.write(shop={"access": "admin"})
        key = callers.keys["shop"]
        async with serving(callers, endpoint) as served:
            given = tuple((name, value.format(key=key)) for name, value in metadata)
            for name in NEEDED:
                failure = await failure_of(getattr(Rpcs(served.stub, given), name)(id="a"))
                assert (failure.code, failure.reason) == (UNAUTHENTICATED, "UNAUTHENTICATED")
                assert words in failure.text
                assert key not in failure.text

    async def test_credentials_are_checked_before_the_request_is_parsed(self, callers: CallersFile, endpoint: Endpoint):
        callers.write(shop={})
        async with serving(callers, endpoint) as served:
            call = served.channel.unary_unary("/palaver.v1.AssistantService/GetAssistant")
            assert (await failure_of(call(b"\xff"))).code is UNAUTHENTICATED
            failure = await failure_of(call(b"\xff", metadata=callers.as_caller("shop")))
            assert failure.reason == "INVALID_FIELD"

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    async def test_a_key_identifies_its_caller(self, callers: CallersFile, endpoint: Endpoint, scheme: str):
        callers.write(shop={})
        async with serving(callers, endpoint) as served:
            caller = Rpcs(served.stub, (("authorization", f"{scheme} {callers.keys['shop']}"),))
            await caller.create(id="a")
            assert (await caller.unary(id="a")).completed.messages[-1].content == "Hello, world"

    async def test_health_and_reflection_need_no_key(self, callers: CallersFile, endpoint: Endpoint):
        callers.write(shop={})
        async with serving(callers, endpoint, reflection=True) as served:
            health = await health_pb2_grpc.HealthStub(served.channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            listing = reflection_pb2_grpc.ServerReflectionStub(served.channel).ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            )
            assert "AssistantService" in str(await listing.read())
            listing.cancel()

    async def test_no_key_and_no_digest_is_logged(
        self, callers: CallersFile, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
    ):
        caplog.set_level(logging.DEBUG)
        callers.write(shop={"ids": ["shop.*"]})
        wrong = "plv_wrong-key"
        async with serving(callers, endpoint) as served:
            await failure_of(rpcs(served, callers, "shop").get(id="other"))
            await failure_of(Rpcs(served.stub, bearer(wrong)).get(id="other"))
        text = caplog.text + repr(caplog.records)
        for secret in (callers.keys["shop"], callers.digest("shop"), wrong):
            assert secret not in text


class TestAccess:
    @pytest.mark.parametrize("rpc", NEEDED)
    @pytest.mark.parametrize("access", LEVELS)
    async def test_a_level_of_access_allows_its_calls(
        self, callers: CallersFile, endpoint: Endpoint, watched: Watched, access: str, rpc: str
    ):
        callers.write(shop={"access": access})
        environment = {"AzureWebJobsStorage": watched.connection_string}
        async with serving(callers, endpoint, environment=environment, store_timeout=0.6) as served:
            failure = await failure_of(getattr(rpcs(served, callers, "shop"), rpc)(id="a"))
            if LEVELS.index(access) >= LEVELS.index(NEEDED[rpc]):
                assert failure.reason == "STORE_UNAVAILABLE"
                assert watched.requests > 0
            else:
                assert (failure.code, failure.reason) == (PERMISSION_DENIED, "PERMISSION_DENIED")
                assert f'needs the access "{NEEDED[rpc]}", and the caller "shop" has "{access}"' in failure.text
                assert watched.requests == 0


RIGHTS: dict[str, Any] = {
    "access": "admin",
    "ids": ["shop.*", "é.*"],
    "collections": ["Shop*"],
    "storage_connections": ["AzureWebJobsStorage", "Watched"],
}


class TestNames:
    async def test_an_error_lists_only_the_storage_connections_that_the_caller_may_use(
        self, callers: CallersFile, endpoint: Endpoint, watched: Watched
    ):
        callers.write(shop={"storage_connections": ["Shop*"]}, till={"storage_connections": ["Till*"]})
        environment = {"Shop1": watched.connection_string, "Secret": watched.connection_string}
        async with serving(
            callers, endpoint, environment=environment, storage_connections=("Shop1", "Secret")
        ) as served:
            missing = {"id": "a", "chat_storage_connection_setting": "Shop2"}
            failure = await failure_of(rpcs(served, callers, "shop").get(**missing))
            assert failure.reason == "CONNECTION_NOT_CONFIGURED"
            assert "it offers Shop1 (" in failure.text
            missing["chat_storage_connection_setting"] = "Till1"
            failure = await failure_of(rpcs(served, callers, "till").get(**missing))
            assert "it offers none of those that this caller may use (" in failure.text

    @pytest.mark.parametrize("rpc", NEEDED)
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("id", "till.1"),
            ("id", "SHOP.1"),
            ("id", " shop.1"),
            ("id", "e\u0301.1"),
            ("id", "shop"),
            ("id", "*"),
            ("collection_name", "Orders"),
            ("collection_name", "xShop"),
            ("collection_name", ""),
            ("chat_storage_connection_setting", "Other"),
            ("chat_storage_connection_setting", "watched"),
            ("chat_storage_connection_setting", "Nowhere"),
        ],
    )
    async def test_a_foreign_name_is_refused_before_any_store_is_read(
        self, callers: CallersFile, endpoint: Endpoint, watched: Watched, rpc: str, field: str, value: str
    ):
        callers.write(shop=RIGHTS)
        environment = {"Watched": watched.connection_string, "Other": watched.connection_string}
        names = ("AzureWebJobsStorage", "Watched", "Other")
        allowed = {"id": "shop.1", "collection_name": "Shop1", "chat_storage_connection_setting": "Watched"}
        async with serving(callers, endpoint, environment=environment, storage_connections=names) as served:
            failure = await failure_of(getattr(rpcs(served, callers, "shop"), rpc)(**{**allowed, field: value}))
            assert (failure.code, failure.reason) == (PERMISSION_DENIED, "PERMISSION_DENIED")
            assert failure.violations.keys() == {field}
            assert 'of the caller "shop" (' in failure.violations[field]
            assert watched.requests == 0
            assert endpoint.calls == []

    @pytest.mark.parametrize("rpc", NEEDED)
    async def test_the_store_of_an_allowed_name_is_read(
        self, callers: CallersFile, endpoint: Endpoint, watched: Watched, rpc: str
    ):
        callers.write(shop=RIGHTS)
        names = ("AzureWebJobsStorage", "Watched")
        environment = {"Watched": watched.connection_string}
        async with serving(
            callers, endpoint, environment=environment, storage_connections=names, store_timeout=0.6
        ) as served:
            call = getattr(rpcs(served, callers, "shop"), rpc)
            failure = await failure_of(
                call(id="shop.1", collection_name="Shop", chat_storage_connection_setting="Watched")
            )
            assert failure.reason == "STORE_UNAVAILABLE"
            assert watched.requests > 0

    async def test_all_foreign_names_are_reported_at_once(self, callers: CallersFile, endpoint: Endpoint):
        callers.write(shop={**RIGHTS, "chat_models": ["gpt-4o*"], "ai_connections": [], "skills": []})
        async with serving(callers, endpoint) as served:
            failure = await failure_of(
                rpcs(served, callers, "shop").post(
                    id="till.1",
                    collection_name="Orders",
                    chat_storage_connection_setting="Other",
                    chat_model="o3",
                    ai_connection_name="Spare",
                    skill_names=["add"] * 30,
                )
            )
            assert {
                "id",
                "collection_name",
                "chat_storage_connection_setting",
                "chat_model",
            } < failure.violations.keys()
            assert {"ai_connection_name", "skill_names[0]"} < failure.violations.keys()
            assert len(failure.violations) == MAX_DENIED_FIELDS

    async def test_long_rules_and_names_fit_into_an_error(self, callers: CallersFile, endpoint: Endpoint):
        names = [f"{number}-{'x' * 200}" for number in range(500)]
        callers.write(shop={"ids": names, "chat_models": names, "skills": names, "ai_connections": names})
        async with serving(callers, endpoint) as served:
            failure = await failure_of(
                rpcs(served, callers, "shop").post(
                    id="\u202e" * 255,
                    chat_model="y" * 256,
                    ai_connection_name="\u202e" * 999,
                    skill_names=[*names[:127], "z"],
                )
            )
            assert failure.reason == "PERMISSION_DENIED"
            assert failure.violations.keys() == {"id", "chat_model", "ai_connection_name", "skill_names[127]"}

    async def test_letter_case_of_a_collection_does_not_matter(self, callers: CallersFile, endpoint: Endpoint):
        callers.write(shop=RIGHTS, till={"access": "admin", "collections": ["TILL"]})
        async with serving(callers, endpoint) as served:
            for name in ("Shop", "SHOP", "shopping"):
                await rpcs(served, callers, "shop").create(id=f"shop.{name}", collection_name=name)
            assert (await rpcs(served, callers, "shop").get(id="shop.Shop", collection_name="sHOP")).assistant.id
            for name in ("Shop", "SHOP", "sHOP"):
                assert await is_denied(rpcs(served, callers, "till").get(id="shop.Shop", collection_name=name))

    async def test_a_refusal_is_the_same_whether_or_not_the_assistant_exists(
        self, callers: CallersFile, endpoint: Endpoint
    ):
        callers.write(shop=RIGHTS, till={"ids": ["till.*"]})
        async with serving(callers, endpoint) as served:
            await rpcs(served, callers, "till").create(id="till.1", collection_name="Shop")
            shop = rpcs(served, callers, "shop")
            exists, missing = [
                await failure_of(shop.get(id=name, collection_name="Shop")) for name in ("till.1", "till.2")
            ]
            assert exists.text.replace("till.1", "till.2") == missing.text


class TestModelsAndSkills:
    @pytest.mark.parametrize("model", ["gpt-5", "GPT-4o", " gpt-4o", "xgpt-4o", "gpt-4"])
    async def test_a_foreign_model_is_refused(self, callers: CallersFile, endpoint: Endpoint, model: str):
        callers.write(shop={"chat_models": ["gpt-4o*"]})
        async with serving(callers, endpoint) as served:
            failure = await failure_of(rpcs(served, callers, "shop").post(id="a", chat_model=model))
            assert failure.code is PERMISSION_DENIED
            assert failure.violations == {
                "chat_model": f'must be among the chat_models of the caller "shop" (gpt-4o*), not {model!r}'
            }
            assert endpoint.calls == []

    async def test_the_defaults_and_what_is_listed_are_allowed(self, callers: CallersFile, endpoint: Endpoint):
        callers.write(shop={"chat_models": ["gpt-4o*"], "ai_connections": ["Spare"]}, till={"ai_connections": []})
        environment = {"Spare__Endpoint": endpoint.url, "Spare__Key": "k", "Best__Endpoint": endpoint.url}
        environment["Best__Key"] = "k"
        async with serving(callers, endpoint, environment=environment, ai_connections=("Spare", "Best")) as served:
            shop, till = rpcs(served, callers, "shop"), rpcs(served, callers, "till")
            await shop.create(id="a")
            await shop.post(id="a")
            await shop.post(id="a", chat_model="gpt-4o-mini", ai_connection_name="Spare")
            assert await is_denied(shop.post(id="a", ai_connection_name="Best"))
            await till.post(id="a")
            for name in ("Best", "Spare", "OPENAI", "unknown"):
                failure = await failure_of(till.post(id="a", ai_connection_name=name))
                assert failure.violations.keys() == {"ai_connection_name"}
                assert "(none)" in failure.text

    async def test_only_the_skills_of_the_caller_are_offered_and_run(self, callers: CallersFile, endpoint: Endpoint):
        callers.write(shop={"skills": ["shop_*"]}, till={"skills": []}, chief={})
        async with (
            SkillHost(shop_add=lambda _: content("1"), fire=lambda _: content("!")) as host,
            serving(callers, endpoint, skill_hosts=(host.target,)) as served,
        ):
            shop, till, chief = (rpcs(served, callers, name) for name in ("shop", "till", "chief"))
            await shop.create(id="a")
            task = '{"task": "t"}'
            endpoint.script(skill_calls(("fire", task), ("shop_add", task)), Stream("Done."))
            messages = (await shop.unary(id="a")).completed.messages
            assert [tool["function"]["name"] for tool in endpoint.calls[0].body["tools"]] == ["shop_add"]
            assert messages[2].content == "There is no skill fire. The skills are: shop_add."
            assert [request.name for request in host.requests] == ["shop_add"]

            failure = await failure_of(shop.post(id="a", skill_names=["shop_add", "fire", "unknown"]))
            assert failure.code is PERMISSION_DENIED
            assert failure.violations.keys() == {"skill_names[1]", "skill_names[2]"}

            await till.post(id="a")
            assert "tools" not in endpoint.calls[-1].body
            await chief.post(id="a")
            assert len(endpoint.calls[-1].body["tools"]) == 2


class TestRunningTurns:
    async def test_nobody_else_joins_or_cancels_a_turn(self, callers: CallersFile, endpoint: Endpoint):
        callers.write(
            shop={"ids": ["shop.*"]}, till={"ids": ["till.*"]}, audit={"access": "read"}, helper={"ids": ["shop.*"]}
        )
        async with serving(callers, endpoint) as served:
            shop, till, audit, helper = (rpcs(served, callers, name) for name in ("shop", "till", "audit", "helper"))
            await shop.create(id="shop.1")
            finish = asyncio.Event()
            endpoint.script(Stream("Hel", finish, "lo"))
            turn = shop.stream(id="shop.1", request_id="r")
            assert (await turn.read()).started.request_id == "r"
            for other in (till, audit):
                assert await is_denied(other.post(id="shop.1", request_id="r"))
                assert await is_denied(other.cancel(id="shop.1"))
            joined = helper.stream(id="shop.1", request_id="r")
            assert (await joined.read()).started.request_id == "r"
            finish.set()
            assert (await read_rest(turn))[-1].completed.messages[-1].content == "Hello"
            assert (await read_rest(joined))[-1].completed.messages[-1].content == "Hello"
            for other in (till, audit):
                assert await is_denied(other.post(id="shop.1", request_id="r"))
            assert len(endpoint.calls) == 1


class TestLimits:
    async def test_turns_at_a_time_without_those_that_are_joined(self, callers: CallersFile, endpoint: Endpoint):
        callers.write(shop={"max_turns": 1}, till={})
        async with serving(callers, endpoint) as served:
            shop, till = rpcs(served, callers, "shop"), rpcs(served, callers, "till")
            for name in "ab":
                await shop.create(id=name)
            await shop.post(id="a", request_id="stored")
            finish = asyncio.Event()
            endpoint.script(Stream(finish, "Hello"))
            turn = shop.stream(id="a", request_id="r")
            await turn.read()
            failure = await failure_of(shop.post(id="b"))
            assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
            assert failure.text == 'the caller "shop" is already running 1 turns (max_turns)'
            assert failure.retry_delay
            joined = shop.stream(id="a", request_id="r")
            await joined.read()
            assert (await shop.post(id="a", request_id="stored"))[0].started.replayed
            await till.post(id="b")
            finish.set()
            await read_rest(turn)
            await read_rest(joined)
            await shop.post(id="b")

    async def test_turns_within_a_minute_without_those_that_are_replayed(
        self, callers: CallersFile, endpoint: Endpoint
    ):
        callers.write(shop={"turns_per_minute": 2})
        async with serving(callers, endpoint) as served:
            shop = rpcs(served, callers, "shop")
            await shop.create(id="a")
            for _ in range(3):
                await shop.post(id="a", request_id="r")
            await shop.post(id="a")
            failure = await failure_of(shop.unary(id="a", request_id="another"))
            assert failure.reason == "QUOTA_EXCEEDED"
            assert 0 < (failure.retry_delay or 0) <= 30
            assert (await shop.post(id="a", request_id="r"))[0].started.replayed
            assert len(endpoint.calls) == 2


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Waits until a condition, which makes a call, holds."""
    while not await condition():
        pass


async def accepts(served: Served, credentials: Metadata) -> bool:
    """Returns whether a caller with these credentials may read the assistant `a`."""
    try:
        await Rpcs(served.stub, credentials).get(id="a")
    except grpc.aio.AioRpcError as error:
        if error.code() is not UNAUTHENTICATED:
            raise
        return False
    return True


class TestReloading:
    async def test_a_key_is_replaced_under_load_without_a_failed_call(self, callers: CallersFile, endpoint: Endpoint):
        callers.write(shop={})
        old, old_digest = callers.keys["shop"], callers.digest("shop")
        del callers.keys["shop"]
        new_digest = callers.digest("shop")
        key = old
        served_calls = 0
        callers.write(shop={"key_sha256": [old_digest]})
        async with serving(callers, endpoint) as served:
            await Rpcs(served.stub, bearer(old)).create(id="a")

            async def load() -> None:
                nonlocal served_calls
                while True:
                    await Rpcs(served.stub, bearer(key)).unary(id="a", request_id=f"r{served_calls % 20}")
                    served_calls += 1

            loads = [asyncio.create_task(load()) for _ in range(4)]
            callers.write(shop={"key_sha256": [old_digest, new_digest]})
            await until(lambda: accepts(served, callers.as_caller("shop")))
            key = callers.keys["shop"]
            before = served_calls + 50

            async def no_call_has_the_old_key() -> bool:
                return await accepts(served, bearer(key)) and served_calls > before

            await until(no_call_has_the_old_key)
            callers.write(shop={"key_sha256": [new_digest]})

            async def is_withdrawn() -> bool:
                return not await accepts(served, bearer(old))

            await until(is_withdrawn)
            assert not any(task.done() for task in loads), [task for task in loads if task.done()]
            for task in loads:
                task.cancel()
            await asyncio.gather(*loads, return_exceptions=True)

    async def test_a_file_is_read_at_once_on_demand(self, callers: CallersFile, endpoint: Endpoint):
        callers.write(shop={})
        async with serving(callers, endpoint) as served:
            callers.write(shop={}, till={"ids": []})
            await served.application.reload()
            assert await is_denied(rpcs(served, callers, "till").get(id="a"))
            callers.write(shop={}, till={})
            await served.application.reload()
            await rpcs(served, callers, "till").create(id="a")

    @pytest.mark.parametrize("broken", ["[callers.shop", '[callers.shop]\nkey_sha256 = "x"', "", None])
    async def test_a_broken_file_keeps_the_callers_and_is_logged(
        self, callers: CallersFile, endpoint: Endpoint, caplog: pytest.LogCaptureFixture, broken: str | None
    ):
        callers.write(shop={})
        async with serving(callers, endpoint) as served:
            shop = rpcs(served, callers, "shop")
            await shop.create(id="a")
            if broken is None:
                callers.path.unlink()
            else:
                callers.path.write_text(broken)

            async def is_logged() -> bool:
                assert await accepts(served, callers.as_caller("shop"))
                return any(record.levelno == logging.ERROR for record in caplog.records)

            await until(is_logged)
            [line] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
            assert line.startswith("PALAVER_CALLERS: ")
            assert line.endswith("; the previous version stays in use")
            callers.write(till={})

            await until(lambda: accepts(served, callers.as_caller("till")))
            assert (await failure_of(shop.get(id="a"))).code is UNAUTHENTICATED
