"""`palaver-server check`: what it says about settings, stores, models, callers, certificates and skill hosts."""

# ruff: noqa: ASYNC240 - nothing else runs in the event loop meanwhile

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trustme

from palaver_server.checks import items
from palaver_server.checks.items import check_all
from palaver_server.checks.outcomes import Result, Status
from palaver_server.settings import Settings
from tests.support import table_proxy as faults
from tests.support.azurite import Account
from tests.support.callers import CallersFile
from tests.support.calls import contents, create_assistant, query, read_rest
from tests.support.certificates import issue_certificates
from tests.support.damages import DAMAGES
from tests.support.endpoint import Answer, Endpoint, HangUp, Raw, Refusal, Stream
from tests.support.issuer import Issuer
from tests.support.locks import another_process_holds_the_lock
from tests.support.palaver_server import palaver_server, server_with_assistant
from tests.support.ports import free_port
from tests.support.server_process import COMMAND
from tests.support.skill_host import SkillHost, content
from tests.support.table_proxy import TableProxy

LIST = Refusal(200, body=b'{"object": "list", "data": []}')
SECRET = "U0VDUkVU0123456789"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, which is empty. The settings of the machine are removed."""
    for name in list(os.environ):
        if name.startswith(("PALAVER_", "OPENAI_", "AZURE_", "AzureWebJobsStorage")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@dataclass(frozen=True)
class Ended:
    """The command, after its end."""

    status: int | None
    stdout: str
    stderr: str


async def run_check(*arguments: str, **environment: str) -> Ended:
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        "check",
        *arguments,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    return Ended(process.returncode, stdout.decode(), stderr.decode())


async def checked(environment: dict[str, str] | None = None, **settings: Any) -> dict[str, Result]:
    """Returns the results by name of checks with the offline model, unless there is another one."""
    variables = environment or {}
    has_model = any(name.startswith(("OPENAI", "AZURE_OPENAI")) for name in variables)
    chosen = Settings(**{"offline_model": not has_model, **settings})
    results = await check_all(chosen, variables)
    assert len({result.name for result in results}) == len(results)
    return {result.name: result for result in results}


def failed(results: dict[str, Result]) -> list[str]:
    return [name for name, result in results.items() if result.status is Status.FAILED]


STORAGE = "storage connection AzureWebJobsStorage"
MODEL = "default AI connection"


class TestCommand:
    async def test_everything_works(self, folder: Path, endpoint: Endpoint):
        endpoint.default = LIST
        CallersFile(folder / "callers.toml").write(shop={}, till={})
        issue_certificates(folder)
        async with palaver_server(folder / "data"), SkillHost(clock=lambda _: content("noon")) as host:
            ended = await run_check(
                *("--data-dir", "data", "--callers", "callers.toml", "--skill-hosts", host.target),
                *("--tls-certificate", "certificate.pem", "--tls-key", "key.pem"),
                OPENAI_API_KEY=SECRET,
                OPENAI_BASE_URL=endpoint.url,
            )
        assert (ended.status, ended.stderr) == (0, "")
        lines = [
            "settings: valid",
            f"{STORAGE}: data/palaver.db can be read and written",
            f"{MODEL}: OPENAI: the endpoint lists its models",
            "callers: 2 callers: shop, till",
            r"TLS certificate: valid until \d{4}-\d\d-\d\d",
            f"skill host {host.target}: 1 skill: clock",
        ]
        assert re.fullmatch("".join(rf"ok       {line} \(\d+\.\d\d s\)\n" for line in lines), ended.stdout), (
            ended.stdout
        )
        assert [call.path for call in endpoint.calls] == ["/v1/models"]

    async def test_a_failure_is_reported_and_the_others_go_on(self, folder: Path, endpoint: Endpoint):
        endpoint.default = Refusal(401, message=f"wrong key {SECRET}")
        environment = {"OPENAI_API_KEY": SECRET, "OPENAI_BASE_URL": endpoint.url}
        text = await run_check(**environment)
        assert (text.status, text.stderr) == (1, "")
        first, second, third = text.stdout.splitlines()
        assert first.startswith("ok       settings: ")
        assert second.startswith(
            f"ok       {STORAGE}: palaver-data/palaver.db does not exist; the server will create it"
        )
        assert third.startswith(f"FAILED   {MODEL}: OPENAI: the endpoint refused the server's credentials")
        as_json = await run_check("--json", **environment)
        assert (as_json.status, as_json.stderr) == (1, "")
        document = json.loads(as_json.stdout)
        assert document["ok"] is False
        assert [(check["name"], check["status"]) for check in document["checks"]] == [
            ("settings", "ok"),
            (STORAGE, "ok"),
            (MODEL, "failed"),
        ]
        assert all(check.keys() == {"name", "status", "detail", "seconds"} for check in document["checks"])
        assert SECRET not in text.stdout + as_json.stdout
        assert list(folder.iterdir()) == []

    @pytest.mark.parametrize("arguments", [("--workers", "0"), ("--json", "--listen", "nowhere")])
    async def test_an_invalid_setting_is_one_line(self, arguments: tuple[str, ...]):
        ended = await run_check(*arguments)
        assert (ended.status, ended.stdout) == (1, "")
        assert re.fullmatch(r"palaver-server: PALAVER_(WORKERS|LISTEN): .*\n", ended.stderr)

    async def test_the_help_of_the_server_mentions_it(self):
        process = await asyncio.create_subprocess_exec(COMMAND, "--help", stdout=asyncio.subprocess.PIPE)
        stdout, _ = await process.communicate()
        assert b"palaver-server check [--json]" in stdout

    async def test_a_check_that_takes_too_long_is_given_up(
        self, tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(items, "TIMEOUT", 0.5)
        endpoint.default = Stream(asyncio.Event())
        with socket.create_server(("127.0.0.1", 0)) as silent:
            results = await checked(
                {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": endpoint.url},
                skill_hosts=(f"127.0.0.1:{silent.getsockname()[1]}",),
            )
        assert len(failed(results)) == 2
        assert {results[name].detail for name in failed(results)} == {"no answer within 0.5 s"}


class TestSettings:
    async def test_what_would_stop_the_server_fails(self):
        results = await checked(listen="0.0.0.0:0")
        assert failed(results) == ["settings"]
        assert results["settings"].detail.startswith("PALAVER_LISTEN: on 0.0.0.0:0, everyone on the network")

    async def test_what_the_server_would_warn_of_is_a_warning(self):
        results = await checked({"PALAVER_COLOUR": "red"}, listen="0.0.0.0:0", allow_unauthenticated=True)
        assert failed(results) == []
        assert results["settings"].status is Status.WARNING
        assert "PALAVER_ALLOW_UNAUTHENTICATED" in results["settings"].detail
        assert "PALAVER_COLOUR is not a setting" in results["settings"].detail


class TestSqlite:
    async def test_it_creates_nothing(self, folder: Path):
        results = await checked(data_dir=folder / "new" / "data")
        assert results[STORAGE].detail.endswith("does not exist; the server will create it")
        assert list(folder.iterdir()) == []

    async def test_a_folder_that_can_not_be_created_fails(self, folder: Path):
        (folder / "file").touch()
        results = await checked(data_dir=folder / "file" / "data")
        assert failed(results) == [STORAGE]
        assert f"can't create it in {folder / 'file'}" in results[STORAGE].detail

    @pytest.mark.parametrize("damage", DAMAGES)
    async def test_a_damaged_database_fails_and_stays_as_it_is(self, folder: Path, damage: Callable[[bytes], bytes]):
        async with palaver_server(folder / "data") as served:
            await create_assistant(served, instructions="x" * 300_000)
        database = folder / "data" / "palaver.db"
        database.write_bytes(damage(database.read_bytes()))
        before = database.read_bytes()
        results = await checked(
            {"Other": f"sqlite:{database}"},
            data_dir=folder / "sound",
            storage_connections=("AzureWebJobsStorage", "Other"),
        )
        assert failed(results) == ["storage connection Other"]
        assert "the database is damaged" in results["storage connection Other"].detail
        assert database.read_bytes() == before
        assert [path.name for path in folder.rglob("*.db*")] == ["palaver.db"]

    async def test_a_database_of_another_program_fails(self, folder: Path):
        with closing(sqlite3.connect(folder / "palaver.db")) as connection:
            connection.execute("CREATE TABLE shop (name TEXT)")
        results = await checked(data_dir=folder)
        assert failed(results) == [STORAGE]
        assert "not one of Palaver's" in results[STORAGE].detail

    async def test_a_database_of_a_newer_server_fails(self, folder: Path):
        set_version(await database_in(folder), 99)
        results = await checked(data_dir=folder)
        assert failed(results) == [STORAGE]
        assert "schema version 99" in results[STORAGE].detail

    async def test_a_database_of_an_older_server_is_not_upgraded(self, folder: Path):
        database = await database_in(folder)
        set_version(database, 2)
        before = database.read_bytes()
        results = await checked(data_dir=folder)
        assert "the server will upgrade it from schema version 2 to 3" in results[STORAGE].detail
        assert database.read_bytes() == before

    async def test_a_locked_database_fails(self, folder: Path):
        with another_process_holds_the_lock(await database_in(folder)):
            results = await checked(data_dir=folder, store_timeout=0.7)
        assert failed(results) == [STORAGE]
        assert "database is locked" in results[STORAGE].detail

    async def test_a_running_server_is_not_disturbed(self, folder: Path, endpoint: Endpoint):
        gate = asyncio.Event()
        endpoint.script(Stream("Hel", gate, "lo"))
        async with server_with_assistant(folder / "data", endpoint.url) as served:
            running = served.stub.PostUserQuery(query())
            await running.read()
            ended = await run_check("--data-dir", "data", "--offline-model")
            assert ended.status == 0, ended.stdout
            gate.set()
            assert (await read_rest(running))[-1].WhichOneof("event") == "completed"
            assert await contents(served) == ["Hello", "Hello"]

    @pytest.mark.parametrize(("variable", "value"), [("Other", "sqlite:"), ("Unrelated", "x")])
    async def test_a_connection_that_is_not_configured_does_not_hide_the_others(
        self, folder: Path, variable: str, value: str
    ):
        results = await checked({variable: value}, storage_connections=("AzureWebJobsStorage", "Other"))
        assert failed(results) == ["storage connection Other"]
        assert results["storage connection Other"].detail.startswith("Other: ")


async def database_in(folder: Path) -> Path:
    async with palaver_server(folder):
        pass
    return folder / "palaver.db"


def set_version(database: Path, version: int) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class TestAzure:
    async def test_an_account_without_tables_works(self, account: Account):
        results = await checked({"AzureWebJobsStorage": account.connection_string})
        assert failed(results) == []
        assert results[STORAGE].detail == "the tables can be read"

    @pytest.mark.parametrize("fault", ["a wrong key", "nobody there", "no answer", "no connection string"])
    async def test_tables_that_can_not_be_read_fail(self, account: Account, fault: str):
        async with TableProxy(account) as proxy:
            proxy.fault = faults.hang
            values = {
                "a wrong key": account.connection_string.replace(account.key, "d3Jvbmcga2V5"),
                "nobody there": account.connection_string_at(f"http://127.0.0.1:{free_port()}/{account.name}"),
                "no answer": proxy.connection_string,
                "no connection string": f"AccountKey={SECRET}",
            }
            words = {
                "a wrong key": "refused the server's credentials",
                "nobody there": "can't be reached (",
                "no answer": "did not answer in time",
                "no connection string": "must be a connection string",
            }
            results = await checked({"AzureWebJobsStorage": values[fault]}, store_timeout=0.7)
        assert failed(results) == [STORAGE]
        assert words[fault] in results[STORAGE].detail
        assert not any(secret in results[STORAGE].detail for secret in (account.key, "d3Jvbmcga2V5", SECRET))

    async def test_a_store_that_quotes_a_signature_reveals_nothing(self, endpoint: Endpoint):
        endpoint.default = Refusal(400, body=f"<html>GET /?sv=1&sig={SECRET}</html>".encode())
        value = f"TableEndpoint={endpoint.url};SharedAccessSignature=sv=2024-08-04&ss=t&sig={SECRET}"
        results = await checked({"AzureWebJobsStorage": value})
        assert failed(results) == [STORAGE]
        assert SECRET not in results[STORAGE].detail


FAILING: dict[str, tuple[Answer, str]] = {
    "no credentials": (Refusal(401), "refused the server's credentials"),
    "an error": (Refusal(503), "HTTP status 503"),
    "a redirect": (Refusal(302, headers={"Location": "http://127.0.0.1:1/"}), "redirect"),
    "a broken connection": (HangUp(), "can't be reached"),
    "garbage": (Raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "can't be reached"),
    "no such path": (Refusal(404, message="no such path"), "no such path"),
    "a page": (Refusal(200, body=b"<html>It works!</html>"), "It works!"),
}


class TestModels:
    @pytest.fixture
    def environment(self, endpoint: Endpoint) -> dict[str, str]:
        return {"OPENAI_API_KEY": SECRET, "OPENAI_BASE_URL": endpoint.url}

    @pytest.mark.parametrize("answer", [Refusal(404), Refusal(405), Refusal(501), Refusal(200, body=b"<html>")])
    async def test_an_endpoint_without_a_list_is_called_for_one_token(
        self, endpoint: Endpoint, environment: dict[str, str], answer: Answer
    ):
        endpoint.script(answer)
        results = await checked(environment, default_chat_model="tiny")
        assert results[MODEL].detail == (
            "OPENAI: the endpoint has no list of models; tiny answered a call for one token"
        )
        _, call = endpoint.calls
        assert (call.path, call.body["model"], call.body["max_tokens"]) == ("/v1/chat/completions", "tiny", 1)

    @pytest.mark.parametrize("name", FAILING)
    async def test_an_endpoint_that_fails_is_reported(self, endpoint: Endpoint, environment: dict[str, str], name: str):
        endpoint.default, words = FAILING[name]
        results = await checked(environment)
        assert failed(results) == [MODEL]
        assert words in results[MODEL].detail

    async def test_an_endpoint_that_throttles_is_a_warning(self, endpoint: Endpoint, environment: dict[str, str]):
        endpoint.default = Refusal(429)
        results = await checked(environment)
        assert results[MODEL].status is Status.WARNING
        assert "throttles" in results[MODEL].detail

    async def test_nobody_there_is_reported_with_the_cause(self):
        results = await checked({"OPENAI_API_KEY": SECRET, "OPENAI_BASE_URL": f"http://127.0.0.1:{free_port()}/v1"})
        assert failed(results) == [MODEL]
        assert re.search(r"can't be reached \(.*127\.0\.0\.1.*\)", results[MODEL].detail)

    async def test_every_connection_is_tried(self, endpoint: Endpoint, environment: dict[str, str]):
        endpoint.default = LIST
        named = {
            "Good__Endpoint": endpoint.url.removesuffix("/v1"),
            "Good__Key": SECRET,
            "Dated__Endpoint": endpoint.url.removesuffix("/v1"),
            "Dated__Key": SECRET,
            "Dated__ApiVersion": "2024-10-21",
            "Bad__Endpoint": "nonsense",
        }
        results = await checked(environment | named, ai_connections=("Good", "Dated", "Bad", "OPENAI"))
        assert failed(results) == ["AI connection Bad", "AI connection OPENAI"]
        assert results["AI connection Good"].detail == "the endpoint lists its models"
        assert sorted(call.path for call in endpoint.calls) == [
            "/openai/models?api-version=2024-10-21",
            "/openai/v1/models",
            "/v1/models",
        ]

    async def test_no_model_at_all_fails(self):
        results = await checked(offline_model=False)
        assert failed(results) == [MODEL]
        assert "set OPENAI_API_KEY" in results[MODEL].detail


class TestCallers:
    async def test_an_invalid_file_fails(self, folder: Path):
        (folder / "callers.toml").write_text("[callers.shop]\ncolour = 1")
        results = await checked(callers=folder / "callers.toml")
        assert failed(results) == ["callers"]
        assert results["callers"].detail.startswith("PALAVER_CALLERS: [callers.shop] 'colour': no such key")

    async def test_the_keys_of_issuers_are_fetched(self, folder: Path):
        nowhere = f"http://127.0.0.1:{free_port()}"
        file = CallersFile(folder / "callers.toml")
        async with Issuer() as issuer:
            file.write(users={"issuer": issuer.url, "audience": "palaver"})
            assert (await checked(callers=file.path))["callers"].detail == "1 caller: users"
            file.write(
                users={"issuer": issuer.url, "audience": "palaver"},
                others={"issuer": nowhere, "audience": "palaver"},
            )
            results = await checked(callers=file.path)
        assert failed(results) == ["callers"]
        assert results["callers"].detail.startswith(f"the keys of the issuer {nowhere} can't be fetched (")


DAY = timedelta(days=1)


class TestCertificates:
    @pytest.mark.parametrize(
        ("begin", "end", "status", "words"),
        [
            (-DAY, 15 * DAY, Status.OK, "valid until"),
            (-DAY, 13 * DAY, Status.WARNING, "it expires on"),
            (-30 * DAY, -DAY, Status.FAILED, "it expired on"),
            (DAY, 30 * DAY, Status.FAILED, "it is not valid before"),
        ],
    )
    async def test_the_validity_of_a_certificate_counts(
        self, folder: Path, begin: timedelta, end: timedelta, status: Status, words: str
    ):
        now = datetime.now(timezone.utc)
        issued = trustme.CA().issue_cert("localhost", not_before=now + begin, not_after=now + end)
        issued.cert_chain_pems[0].write_to_path("certificate.pem")
        issued.private_key_pem.write_to_path("key.pem")
        files = {"tls_certificate": folder / "certificate.pem", "tls_key": folder / "key.pem"}
        result = (await checked(**files))["TLS certificate"]
        assert result.status is status
        assert result.detail.startswith(words)
        async with SkillHost(clock=lambda _: content("noon")) as host:
            address = f"grpcs://{host.target};client-cert=certificate.pem;client-key=key.pem"
            result = (await checked(skill_hosts=(address,)))[f"certificate for skill host {host.target}"]
        assert result.status is status

    async def test_the_key_of_another_certificate_fails(self, folder: Path):
        certificates = issue_certificates(folder)
        trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(str(certificates.key))
        results = await checked(tls_certificate=certificates.certificate, tls_key=certificates.key)
        assert failed(results) == ["TLS certificate"]
        assert "the key is not that of the certificate" in results["TLS certificate"].detail

    async def test_an_old_authority_beside_its_successor_is_a_warning(self, folder: Path):
        certificates = issue_certificates(folder)
        now = datetime.now(timezone.utc)
        old = trustme.CA().issue_cert("old", not_before=now - 2 * DAY, not_after=now - DAY)
        pems = {
            Status.OK: certificates.authority.read_bytes(),
            Status.WARNING: certificates.authority.read_bytes() + old.cert_chain_pems[0].bytes(),
            Status.FAILED: old.cert_chain_pems[0].bytes(),
        }
        for status, pem in pems.items():
            certificates.authority.write_bytes(pem)
            results = await checked(
                tls_certificate=certificates.certificate, tls_key=certificates.key, tls_client_ca=certificates.authority
            )
            assert results["TLS client authorities"].status is status


class TestSkillHosts:
    async def test_each_host_is_asked_for_its_skills(self):
        good = {"type": "object", "properties": {}}
        schemas = {"clock": json.dumps(good), "broken": '{"type": "nonsense"}'}
        async with SkillHost(schemas, clock=content, broken=content) as host, SkillHost(alarm=content) as other:
            results = await checked(skill_hosts=(host.target, other.target, f"127.0.0.1:{free_port()}", "x;colour=1"))
        names = [name for name in results if "skill host" in name]
        warns, works, nobody, invalid = (results[name] for name in names)
        assert (warns.status, works.status) == (Status.WARNING, Status.OK)
        assert re.fullmatch(r"the skill 'broken' of .* can't be used: its schema: .*", warns.detail)
        assert works.detail == "1 skill: alarm"
        assert (nobody.status, invalid.status) == (Status.FAILED, Status.FAILED)
        assert "does not answer: UNAVAILABLE" in nobody.detail
        assert invalid.name == "skill host 4"
        assert invalid.detail.startswith("PALAVER_SKILL_HOSTS: ")

    async def test_a_host_that_sends_nonsense_fails(self):
        async with SkillHost(clock=content) as host:
            host.listing = b"\xff"
            results = await checked(skill_hosts=(host.target,))
        [result] = [result for name, result in results.items() if "skill host" in name]
        assert result.status is Status.FAILED
        assert "can't be parsed" in result.detail

    async def test_two_hosts_with_the_same_skill_fail_as_the_start_would(self):
        async with SkillHost(clock=content) as host, SkillHost(clock=content) as other:
            results = await checked(skill_hosts=(host.target, other.target))
        assert failed(results) == ["skill names"]
        assert "clock" in results["skill names"].detail
