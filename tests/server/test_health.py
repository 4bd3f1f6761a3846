"""The health service while a store or an endpoint fails, and when it works again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from palaver_server import health
from palaver_server.settings import SettingsError
from tests.support import table_proxy as faults
from tests.support.azurite import Account
from tests.support.calls import create_assistant, query, read_rest
from tests.support.endpoint import Answer, Endpoint, HangUp, Raw, Refusal, Stream
from tests.support.health import NOT_SERVING, SERVING, reported, wait_until
from tests.support.locks import another_process_holds_the_lock
from tests.support.palaver_server import palaver_server, server_with_assistant
from tests.support.ports import free_port
from tests.support.table_proxy import Exchange, Fault, TableProxy, refuse

STORE_TIMEOUT = 0.7
"""Seconds. It is short, so that a store that hangs fails soon."""


@pytest.fixture(autouse=True)
def _quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STORE_INTERVAL", "MODEL_INTERVAL", "CONFIRMATION_INTERVAL"):
        monkeypatch.setattr(health, name, 0.01)


@pytest.fixture
async def proxy(account: Account) -> AsyncIterator[TableProxy]:
    """A proxy before an empty account, without a table."""
    async with TableProxy(account) as running:
        yield running


class Lines(logging.Handler):
    """The lines of the log, for which a test can wait."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._added = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self._added.set()

    async def wait_for(self, *words: str) -> str:
        """Waits for a line with these words, and returns it."""
        while True:
            for text in self.texts:
                if all(word in text for word in words):
                    return text
            self._added.clear()
            await self._added.wait()


@pytest.fixture
async def lines() -> AsyncIterator[Lines]:
    """The lines of the monitor."""
    handler = Lines()
    health.logger.addHandler(handler)
    yield handler
    health.logger.removeHandler(handler)


STORE_FAULTS: dict[str, tuple[Fault, str]] = {
    "hangs": (faults.hang, "did not answer in time"),
    "breaks off": (faults.drop_request, "can't be reached"),
    "fails": (faults.fail_before, "HTTP status 500"),
    "throttles": (refuse(503, "ServerBusy", Retry_After="60"), "throttles"),
    "answers with garbage": (faults.garbage, "can't be read"),
    "refuses the key": (refuse(403, "AuthorizationFailure"), "refused the server's credentials"),
}


class TestStores:
    @pytest.mark.parametrize("name", STORE_FAULTS)
    async def test_a_store_that_fails_stops_the_service_until_it_works(
        self, tmp_path: Path, endpoint: Endpoint, proxy: TableProxy, lines: Lines, name: str
    ):
        variables = {"AzureWebJobsStorage": proxy.connection_string}
        timeouts = {"store_timeout": STORE_TIMEOUT} if name == "hangs" else {}
        async with palaver_server(tmp_path, endpoint.url, variables, **timeouts) as served:
            assert await reported(served) == SERVING
            proxy.fault, words = STORE_FAULTS[name]
            await wait_until(served, NOT_SERVING)
            assert not served.application.is_ready
            assert await reported(served, "") == SERVING
            proxy.fault = faults.none
            await wait_until(served, SERVING)
            assert served.application.is_ready
            await create_assistant(served)
            await served.stub.PostUserQueryUnary(query())
        fails, works = lines.texts
        assert fails.startswith("the server is NOT_SERVING: the storage connection AzureWebJobsStorage fails: ")
        assert words in fails
        assert works == "the server is SERVING: the storage connection AzureWebJobsStorage works again"

    @pytest.mark.parametrize("name", ["nobody there", "hangs"])
    async def test_the_first_probe_decides_before_the_server_listens(
        self, tmp_path: Path, endpoint: Endpoint, account: Account, proxy: TableProxy, name: str
    ):
        proxy.fault = faults.hang
        connection_string = (
            proxy.connection_string
            if name == "hangs"
            else account.connection_string_at(f"http://127.0.0.1:{free_port()}/{account.name}")
        )
        variables = {"AzureWebJobsStorage": connection_string}
        async with palaver_server(tmp_path, endpoint.url, variables, store_timeout=STORE_TIMEOUT) as served:
            assert await reported(served) == NOT_SERVING
            assert await reported(served, "") == SERVING

    async def test_a_database_that_another_process_has_locked_stops_the_service(
        self, tmp_path: Path, endpoint: Endpoint, lines: Lines
    ):
        async with server_with_assistant(tmp_path, endpoint.url, store_timeout=STORE_TIMEOUT) as served:
            with another_process_holds_the_lock(tmp_path / "palaver.db") as release:
                await wait_until(served, NOT_SERVING)
                release()
                await wait_until(served, SERVING)
            await served.stub.PostUserQueryUnary(query())
        assert "database is locked" in lines.texts[0]

    async def test_a_database_file_that_is_gone_stops_the_service(self, tmp_path: Path, endpoint: Endpoint):
        folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
        async with server_with_assistant(folder, endpoint.url) as served:
            folder.rename(elsewhere)
            await wait_until(served, NOT_SERVING)
            elsewhere.rename(folder)
            await wait_until(served, SERVING)
            await served.stub.PostUserQueryUnary(query())

    async def test_another_storage_connection_is_logged_and_leaves_the_service_alone(
        self, tmp_path: Path, endpoint: Endpoint, proxy: TableProxy, lines: Lines
    ):
        names = ("AzureWebJobsStorage", "Other")
        variables = {"Other": proxy.connection_string}
        async with palaver_server(tmp_path, endpoint.url, variables, storage_connections=names) as served:
            proxy.fault = faults.drop_request
            assert (await lines.wait_for("fails")).startswith(
                "the storage connection Other fails: the store can't be reached"
            )
            assert await reported(served) == SERVING
            proxy.fault = faults.none
            await lines.wait_for("the storage connection Other works again")
        assert len(lines.texts) == 2

    async def test_another_storage_connection_does_not_delay_the_start(
        self, tmp_path: Path, endpoint: Endpoint, proxy: TableProxy, lines: Lines
    ):
        proxy.fault = faults.hang
        names = ("AzureWebJobsStorage", "Other")
        variables = {"Other": proxy.connection_string}
        async with palaver_server(
            tmp_path, endpoint.url, variables, storage_connections=names, store_timeout=STORE_TIMEOUT
        ) as served:
            assert lines.texts == []
            assert await reported(served) == SERVING
            await lines.wait_for("the storage connection Other fails")
        assert len(lines.texts) == 1

    async def test_probes_go_on_while_turns_run_and_change_nothing(
        self, tmp_path: Path, endpoint: Endpoint, proxy: TableProxy
    ):
        probed = asyncio.Event()

        async def notice(exchange: Exchange) -> bytes | None:
            if exchange.is_probe:
                probed.set()
            return await exchange.forward()

        proxy.fault = notice
        endpoint.default = Stream("Hel", probed, "lo")
        variables = {"AzureWebJobsStorage": proxy.connection_string}
        async with server_with_assistant(tmp_path, endpoint.url, variables) as served:
            probed.clear()
            call = served.stub.PostUserQuery(query())
            assert (await read_rest(call))[-1].WhichOneof("event") == "completed"
        assert not any(exchange.is_probe and exchange.is_write for exchange in proxy.exchanges)

    async def test_the_log_has_no_secret_of_a_store(self, tmp_path: Path, endpoint: Endpoint, lines: Lines):
        secret = "U0VDUkVU0123456789"
        endpoint.default = Refusal(400, body=f"<html>GET /?sig={secret}</html>".encode())
        variables = {"AzureWebJobsStorage": f"TableEndpoint={endpoint.url};SharedAccessSignature=sv=1&sig={secret}"}
        async with palaver_server(tmp_path, None, variables, store_timeout=STORE_TIMEOUT) as served:
            assert await reported(served) == NOT_SERVING
        assert lines.texts
        assert secret not in "".join(lines.texts)


class TestDraining:
    async def test_nothing_makes_a_server_that_stops_serve_again(
        self, tmp_path: Path, endpoint: Endpoint, proxy: TableProxy, lines: Lines
    ):
        gate = asyncio.Event()
        endpoint.script(Stream("Hel", gate, "lo"))
        variables = {"AzureWebJobsStorage": proxy.connection_string}
        async with server_with_assistant(tmp_path, endpoint.url, variables) as served:
            running = served.stub.PostUserQuery(query())
            await running.read()
            proxy.fault = faults.always(faults.drop_request, lambda exchange: exchange.is_probe)
            await wait_until(served, NOT_SERVING)
            stopping = asyncio.ensure_future(served.application.stop(grace=60))
            while await reported(served, "") != NOT_SERVING:
                pass
            proxy.fault = faults.none
            await served.application.listener.health.report(is_ready=True)
            assert await reported(served) == NOT_SERVING
            assert not served.application.is_ready
            gate.set()
            assert (await read_rest(running))[-1].WhichOneof("event") == "completed"
            await stopping
        assert len(lines.texts) == 1


LIST = b'{"object": "list", "data": [{"id": "m", "object": "model"}]}'

REACHABLE: dict[str, Answer] = {
    "a list": Refusal(200, body=LIST),
    "a list in another form": Refusal(200, body=b'[{"id": "m"}]'),
    "a list that is longer than what is read of it": Refusal(200, body=b'{"data": ["' + b"x" * 200_000 + b'"]}'),
    "a list that breaks off": Raw(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"data": ['),
    "a page": Refusal(200, body=b"<html>It works!</html>", headers={"Content-Type": "text/html"}),
    "nothing": Refusal(200, body=b""),
    "no such path": Refusal(404),
    "no such method": Refusal(405),
    "not implemented": Refusal(501),
    "a request that it does not understand": Refusal(400),
    "too many requests": Refusal(429, headers={"Retry-After": "60"}),
}
FAILING: dict[str, tuple[Answer, str]] = {
    "no credentials": (Refusal(401), "refused the server's credentials"),
    "no rights": (Refusal(403), "refused the server's credentials"),
    "no money": (Refusal(402), "quota"),
    "an error": (Refusal(500), "HTTP status 500"),
    "an overload": (Refusal(503), "HTTP status 503"),
    "a redirect": (Refusal(302, headers={"Location": "http://127.0.0.1:1/"}), "redirect"),
    "a broken connection": (HangUp(), "can't be reached"),
    "garbage": (Raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "can't be reached"),
    "an error with the status 200": (
        Refusal(200, body=b'{"error": {"message": "wrong key", "code": "invalid_api_key"}}'),
        "refused the server's credentials",
    ),
    "no answer": (Stream(asyncio.Event()), "no answer within 0.3 s"),
}


class TestModels:
    async def test_the_endpoint_is_not_asked_by_default(self, tmp_path: Path, endpoint: Endpoint):
        endpoint.default = Refusal(500)
        async with palaver_server(tmp_path, endpoint.url) as served:
            assert await reported(served) == SERVING
        assert endpoint.calls == []

    @pytest.mark.parametrize("name", REACHABLE)
    async def test_an_endpoint_that_answers_is_reachable(self, tmp_path: Path, endpoint: Endpoint, name: str):
        endpoint.default = REACHABLE[name]
        async with palaver_server(tmp_path, endpoint.url, health_requires_model=True) as served:
            assert await reported(served) == SERVING
            await endpoint.call(health.FAILURES + 1)
            assert await reported(served) == SERVING
        assert {(call.path, call.headers["authorization"]) for call in endpoint.calls} == {
            ("/v1/models", "bearer sk-secret-key")
        }

    @pytest.mark.parametrize("name", FAILING)
    async def test_an_endpoint_that_fails_stops_the_service_until_it_works(
        self, tmp_path: Path, endpoint: Endpoint, lines: Lines, monkeypatch: pytest.MonkeyPatch, name: str
    ):
        monkeypatch.setattr(health, "MODEL_TIMEOUT", 0.3)
        endpoint.default = Refusal(200, body=LIST)
        async with palaver_server(tmp_path, endpoint.url, health_requires_model=True) as served:
            assert await reported(served) == SERVING
            endpoint.default, words = FAILING[name]
            await wait_until(served, NOT_SERVING)
            assert await reported(served, "") == SERVING
            endpoint.default = Refusal(200, body=LIST)
            await wait_until(served, SERVING)
        fails, works = lines.texts
        assert fails.startswith("the server is NOT_SERVING: the AI connection OPENAI fails: ")
        assert words in fails
        assert "sk-secret-key" not in fails
        assert works == "the server is SERVING: the AI connection OPENAI works again"

    async def test_the_offline_model_is_reachable(self, tmp_path: Path, lines: Lines):
        async with palaver_server(tmp_path, offline_model=True, health_requires_model=True) as served:
            assert await reported(served) == SERVING
        assert lines.texts == []

    async def test_the_service_needs_all_that_it_requires(
        self, tmp_path: Path, endpoint: Endpoint, proxy: TableProxy, lines: Lines
    ):
        endpoint.default = Refusal(404)
        variables = {"AzureWebJobsStorage": proxy.connection_string}
        async with palaver_server(tmp_path, endpoint.url, variables, health_requires_model=True) as served:
            proxy.fault, endpoint.default = faults.drop_request, Refusal(500)
            await lines.wait_for("AzureWebJobsStorage fails")
            await lines.wait_for("OPENAI fails")
            endpoint.default = Refusal(404)
            assert await lines.wait_for("OPENAI works") == (
                "the server is still NOT_SERVING: the AI connection OPENAI works again"
            )
            assert await reported(served) == NOT_SERVING
            proxy.fault = faults.none
            await wait_until(served, SERVING)

    async def test_a_model_can_only_be_required_if_there_is_a_default_one(self, tmp_path: Path):
        with pytest.raises(SettingsError, match=r"^PALAVER_HEALTH_REQUIRES_MODEL: there is no default AI connection"):
            async with palaver_server(tmp_path, health_requires_model=True):
                pass


class Flaky:
    """A dependency that answers as a test says, and notices probes that overlap."""

    def __init__(self, outcomes: str) -> None:
        """Takes the outcome of each probe: "." for success, "x" for failure, and "~" for no answer."""
        self.outcomes = list(outcomes)
        self.is_over = asyncio.Event()
        self._is_running = False

    async def probe(self) -> None:
        assert not self._is_running
        if not self.outcomes:
            self.is_over.set()
            await asyncio.Event().wait()
        self._is_running = True
        try:
            outcome = self.outcomes.pop(0)
            await asyncio.sleep(0)
            if outcome == "~":
                await asyncio.Event().wait()
            if outcome == "x":
                raise ConnectionError("refused")
        finally:
            self._is_running = False


@pytest.mark.parametrize(
    ("outcomes", "reports"),
    [
        ("." * 20, []),
        (".xx." * 5, []),
        (".x.x.xx.x.x", []),
        (".xxx", [False]),
        ("..xxxx", [False]),
        (".~~~", [False]),
        (".x~x", [False]),
        (".xxx.x.x.x.x", [False]),
        (".xxx..", [False, True]),
        (".xxx..xx..xxx..", [False, True, False, True]),
        ("x.", []),
        ("x.x.x.", []),
        ("x..", [True]),
    ],
)
async def test_only_several_outcomes_in_a_row_change_the_state(outcomes: str, reports: list[bool]):
    flaky = Flaky(outcomes)
    monitor = health.HealthMonitor([health.Dependency("it", flaky.probe, timeout=0.05, interval=0)])
    received: list[bool] = []

    async def report(*, is_ready: bool) -> None:
        received.append(is_ready)

    await monitor.look()
    assert monitor.is_ready is (outcomes[0] == ".")
    monitor.start(report)
    await flaky.is_over.wait()
    await monitor.stop()
    assert received == reports


@pytest.mark.parametrize("steps", range(12))
async def test_a_monitor_can_be_stopped_at_any_moment(steps: int):
    async def probe() -> None:
        await asyncio.sleep(0)

    async def report(*, is_ready: bool) -> None:
        pass

    monitor = health.HealthMonitor([health.Dependency("it", probe, timeout=1, interval=0)])
    await monitor.look()
    monitor.start(report)
    for _ in range(steps):
        await asyncio.sleep(0)
    await monitor.stop()
