"""The channel: TLS, token, retries and options."""

from __future__ import annotations

import json
import socket
from importlib import resources

import grpc
import pytest

import palaver
from palaver.v1 import assistant_service_pb2
from tests.support import replies
from tests.support.certificates import issue_certificates
from tests.support.scripted_server import Failure, ScriptedServer

FOUND = assistant_service_pb2.GetAssistantResponse(assistant=replies.assistant())
UNAVAILABLE = Failure(grpc.StatusCode.UNAVAILABLE, "try again")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return issue_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secure_server(certificates):
    with ScriptedServer(certificates.server_credentials) as server:
        server.script("GetAssistant", FOUND)
        server.script("PostUserQuery", replies.turn("Hi"))
        yield server


@pytest.mark.parametrize("kind", ["bytes", "path", "text"])
async def test_tls_with_a_custom_authority(connect, secure_server, certificates, kind):
    file = certificates.authority
    tls = {"bytes": file.read_bytes(), "path": file, "text": str(file)}[kind]
    driver = await connect(secure_server.target, tls=tls)
    assert await driver.call("get_assistant", "support")


async def test_a_certificate_of_an_unknown_authority_is_rejected(connect, secure_server):
    driver = await connect(secure_server.target, tls=True)
    with pytest.raises(palaver.UnavailableError):
        await driver.call("delete_assistant", "support")
    assert secure_server.calls == []


async def test_the_token_is_sent_with_every_call_over_tls(connect, secure_server, certificates):
    driver = await connect(secure_server.target, tls=certificates.authority, token="s3cret")
    await driver.call("get_assistant", "support")
    await driver.post("support", "Hello!")
    assert [call.metadata["authorization"] for call in secure_server.calls] == ["Bearer s3cret"] * 2


async def test_the_token_is_sent_in_plaintext_to_this_machine(connect, server):
    server.script("GetAssistant", FOUND)
    server.script("PostUserQuery", replies.turn("Hi"))
    driver = await connect(server.target, token="s3cret")
    await driver.call("get_assistant", "support")
    await driver.post("support", "Hello!")
    assert [call.metadata["authorization"] for call in server.calls] == ["Bearer s3cret"] * 2


async def test_local_calls_bypass_the_proxy(connect, server, monkeypatch):
    with socket.socket() as proxy:  # it accepts no connections
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        server.script("GetAssistant", FOUND)
        driver = await connect(server.target, token="s3cret", timeout=10)
        assert await driver.call("get_assistant", "support")


async def test_without_a_token_no_authorization_is_sent(driver, server):
    server.script("GetAssistant", FOUND)
    await driver.call("get_assistant", "support")
    assert "authorization" not in server.calls[0].metadata
    assert str(server.calls[0].metadata["user-agent"]).startswith("palaver-python/")


@pytest.mark.parametrize("make", [palaver.Client, palaver.AsyncClient])
def test_a_token_is_never_sent_in_plaintext_to_another_machine(make):
    with pytest.raises(ValueError, match="in the clear: use TLS"):
        make("palaver.example:443", token="s3cret")


@pytest.mark.parametrize("token", ["", "a\nb", " a", "grün"])
def test_a_token_that_is_not_a_valid_header_is_rejected(token):
    with pytest.raises(ValueError, match="visible ASCII characters") as caught:
        palaver.Client(token=token)
    assert not token.strip() or token not in str(caught.value)


def test_a_missing_file_of_authorities_is_rejected(tmp_path):
    with pytest.raises(FileNotFoundError):
        palaver.Client(tls=tmp_path / "missing.pem")


@pytest.mark.parametrize(("method", "rpc"), [("get_assistant", "GetAssistant"), ("list_messages", "ListMessages")])
async def test_reads_are_retried_while_the_server_is_unavailable(driver, server, method, rpc):
    server.script("GetAssistant", UNAVAILABLE, UNAVAILABLE, FOUND)
    server.script(
        "ListMessages",
        UNAVAILABLE,
        UNAVAILABLE,
        assistant_service_pb2.ListMessagesResponse(messages=[replies.message()]),
    )
    assert await (driver.collect if method == "list_messages" else driver.call)(method, "support")
    assert len(server.requests(rpc)) == 3


async def test_reads_are_retried_three_times_at_most(driver, server):
    server.script("GetAssistant", UNAVAILABLE)
    with pytest.raises(palaver.UnavailableError, match="try again"):
        await driver.call("get_assistant", "support")
    assert len(server.calls) == 4


async def test_writes_are_not_retried(driver, server):
    for rpc in ("CreateAssistant", "DeleteAssistant", "CancelTurn"):
        server.script(rpc, UNAVAILABLE)
    for call in (
        driver.call("create_assistant", "support", if_exists="reset"),
        driver.call("delete_assistant", "support"),
        driver.call("cancel_turn", "support", "r1"),
    ):
        with pytest.raises(palaver.UnavailableError):
            await call
    assert len(server.calls) == 3


def test_the_service_config_names_methods_that_exist():
    config = json.loads(resources.files("palaver").joinpath("service_config.json").read_text())
    service = assistant_service_pb2.DESCRIPTOR.services_by_name["AssistantService"]
    for name in config["methodConfig"][0]["name"]:
        assert name["service"] == service.full_name
        assert name["method"] in service.methods_by_name


async def test_channel_options_override_the_defaults(connect, server):
    server.script("GetAssistant", FOUND)
    server.script("DeleteAssistant", FOUND)
    driver = await connect(server.target, options=[("grpc.max_receive_message_length", 4)])
    with pytest.raises(palaver.ResourceExhaustedError):
        await driver.call("get_assistant", "support")
