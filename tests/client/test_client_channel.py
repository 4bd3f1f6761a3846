"""The channel: TLS, token, retries and options."""

from __future__ import annotations

import json
import socket
from importlib import resources

import grpc
import pytest
import trustme

import palaver
from palaver.v1 import assistant_service_pb2
from tests.support import replies
from tests.support.scripted_server import Failure, ScriptedServer

FOUND = assistant_service_pb2.GetAssistantResponse(assistant=replies.assistant())
UNAVAILABLE = Failure(grpc.StatusCode.UNAVAILABLE, "try again")


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def secure_server(authority):
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    credentials = grpc.ssl_server_credentials(
        [(certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())]
    )
    with ScriptedServer(credentials) as server:
        server.script("GetAssistant", FOUND)
        server.script("PostUserQuery", replies.turn("Hi"))
        yield server


@pytest.mark.parametrize("kind", ["bytes", "path", "text"])
async def test_tls_with_an_authority_of_ones_own(connect, secure_server, authority, tmp_path, kind):
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    tls = {"bytes": authority.cert_pem.bytes(), "path": file, "text": str(file)}[kind]
    driver = await connect(secure_server.target, tls=tls)
    assert await driver.call("get_assistant", "support")


async def test_a_certificate_of_an_unknown_authority_is_refused(connect, secure_server):
    driver = await connect(secure_server.target, tls=True)
    with pytest.raises(palaver.UnavailableError):
        await driver.call("delete_assistant", "support")
    assert secure_server.calls == []


async def test_the_token_goes_along_with_every_call_over_tls(connect, secure_server, authority):
    driver = await connect(secure_server.target, tls=authority.cert_pem.bytes(), token="s3cret")
    await driver.call("get_assistant", "support")
    await driver.post("support", "Hello!")
    assert [call.metadata["authorization"] for call in secure_server.calls] == ["Bearer s3cret"] * 2


async def test_the_token_goes_along_in_plaintext_on_this_machine(connect, server):
    server.script("GetAssistant", FOUND)
    server.script("PostUserQuery", replies.turn("Hi"))
    driver = await connect(server.target, token="s3cret")
    await driver.call("get_assistant", "support")
    await driver.post("support", "Hello!")
    assert [call.metadata["authorization"] for call in server.calls] == ["Bearer s3cret"] * 2


async def test_what_is_for_this_machine_does_not_go_through_a_proxy(connect, server, monkeypatch):
    with socket.socket() as proxy:  # it is there, and answers nobody
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        server.script("GetAssistant", FOUND)
        driver = await connect(server.target, token="s3cret", timeout=10)
        assert await driver.call("get_assistant", "support")


async def test_without_a_token_there_is_no_authorization(driver, server):
    server.script("GetAssistant", FOUND)
    await driver.call("get_assistant", "support")
    assert "authorization" not in server.calls[0].metadata
    assert str(server.calls[0].metadata["user-agent"]).startswith("palaver-python/")


@pytest.mark.parametrize("make", [palaver.Client, palaver.AsyncClient])
def test_a_token_never_leaves_the_machine_in_plaintext(make):
    with pytest.raises(ValueError, match="in the clear: use TLS"):
        make("palaver.example:443", token="s3cret")


@pytest.mark.parametrize("token", ["", "a\nb", " a", "grün"])
def test_a_token_that_is_no_header_is_refused(token):
    with pytest.raises(ValueError, match="visible ASCII characters") as caught:
        palaver.Client(token=token)
    assert not token.strip() or token not in str(caught.value)


def test_an_unreadable_file_of_authorities_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        palaver.Client(tls=tmp_path / "missing.pem")


@pytest.mark.parametrize(("method", "rpc"), [("get_assistant", "GetAssistant"), ("list_messages", "ListMessages")])
async def test_reading_is_repeated_while_the_server_is_unavailable(driver, server, method, rpc):
    server.script("GetAssistant", UNAVAILABLE, UNAVAILABLE, FOUND)
    server.script(
        "ListMessages",
        UNAVAILABLE,
        UNAVAILABLE,
        assistant_service_pb2.ListMessagesResponse(messages=[replies.message()]),
    )
    assert await (driver.collect if method == "list_messages" else driver.call)(method, "support")
    assert len(server.requests(rpc)) == 3


async def test_repeating_ends(driver, server):
    server.script("GetAssistant", UNAVAILABLE)
    with pytest.raises(palaver.UnavailableError, match="try again"):
        await driver.call("get_assistant", "support")
    assert len(server.calls) == 4


async def test_nothing_is_repeated_that_would_do_harm(driver, server):
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


async def test_options_of_the_caller_win(connect, server):
    server.script("GetAssistant", FOUND)
    server.script("DeleteAssistant", FOUND)
    driver = await connect(server.target, options=[("grpc.max_receive_message_length", 4)])
    with pytest.raises(palaver.ResourceExhaustedError):
        await driver.call("get_assistant", "support")
