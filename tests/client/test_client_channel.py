"""The channel: TLS, token, retries and options."""

from __future__ import annotations

import asyncio
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


class Tokens:
    """A token function of the kind that the client takes, which returns "t-1", "t-2" and so on."""

    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1
        return f"t-{self.count}"

    async def later(self):
        await asyncio.sleep(0)
        return self()


async def test_a_token_function_is_called_before_every_call(connect, server):
    server.script("GetAssistant", FOUND)
    server.script("PostUserQuery", replies.turn("Hi"))
    tokens = Tokens()
    driver = await connect(server.target, token=tokens)
    assert tokens.count == 0
    await driver.call("get_assistant", "support")
    _, events = await driver.post("support", "Hello!")
    assert events
    assert [call.metadata["authorization"] for call in server.calls] == ["Bearer t-1", "Bearer t-2"]


async def test_an_async_client_awaits_its_token_function(secure_server, certificates):
    tokens = Tokens()
    async with palaver.AsyncClient(secure_server.target, tls=certificates.authority, token=tokens.later) as client:
        await client.get_assistant("support")
        assert [text async for text in client.post_user_query("support", "Hello!").text] == ["Hi"]
    assert [call.metadata["authorization"] for call in secure_server.calls] == ["Bearer t-1", "Bearer t-2"]


def test_a_blocking_client_takes_no_asynchronous_token_function():
    with pytest.raises(TypeError, match="AsyncClient"):
        palaver.Client(token=Tokens().later)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (lambda: {}["vault"], "the token function failed: 'vault'"),
        (lambda: "two\nlines", "visible ASCII"),
        (lambda: None, "it must return a string, not NoneType"),
    ],
)
async def test_the_error_of_a_token_function_reaches_the_caller(connect, server, token, message):
    driver = await connect(server.target, token=token)
    for call in (driver.call("get_assistant", "support"), driver.post("support", "Hello!")):
        with pytest.raises(palaver.UnauthenticatedError, match=message) as caught:
            await call
        assert isinstance(caught.value.__cause__, KeyError | ValueError | TypeError)
        assert caught.value.reason == ""
    assert server.calls == []


async def test_waiting_for_a_token_counts_towards_the_timeout(server):
    async with palaver.AsyncClient(server.target, token=asyncio.Event().wait, timeout=0.05) as client:  # type: ignore[arg-type]
        with pytest.raises(palaver.DeadlineExceededError):
            await client.get_assistant("support")
        with pytest.raises(palaver.DeadlineExceededError):
            await anext(client.post_user_query("support", "Hello!"))
    assert server.calls == []


async def test_a_reply_can_be_canceled_while_it_waits_for_a_token(server):
    asked = asyncio.Event()

    async def token():
        asked.set()
        await asyncio.Event().wait()

    async with palaver.AsyncClient(server.target, token=token) as client:
        reply = client.post_user_query("support", "Hello!")
        reading = asyncio.create_task(anext(reply))
        await asked.wait()
        reply.cancel()
        with pytest.raises(palaver.CanceledError):
            await reading
    assert server.calls == []


@pytest.fixture
def mutual_server(certificates):
    with ScriptedServer(certificates.mutual_server_credentials) as server:
        server.script("GetAssistant", FOUND)
        yield server


async def test_a_server_may_require_a_certificate(connect, mutual_server, certificates):
    files = {"client_certificate": certificates.certificate, "client_key": str(certificates.key)}
    driver = await connect(mutual_server.target, tls=certificates.authority, **files)
    assert await driver.call("get_assistant", "support")
    driver = await connect(mutual_server.target, tls=certificates.authority)
    with pytest.raises(palaver.UnavailableError):
        await driver.call("delete_assistant", "support")
    assert len(mutual_server.calls) == 1


def test_a_client_certificate_needs_tls_and_its_own_key(certificates, tmp_path):
    file, key = certificates.certificate, certificates.key
    with pytest.raises(ValueError, match="requires TLS"):
        palaver.Client(client_certificate=file, client_key=key)
    with pytest.raises(ValueError, match="require each other"):
        palaver.Client(tls=True, client_certificate=file)
    with pytest.raises(ValueError, match="not a certificate and its key"):
        palaver.Client(tls=True, client_certificate=file, client_key=file)
    with pytest.raises(FileNotFoundError):
        palaver.Client(tls=True, client_certificate=tmp_path / "missing.pem", client_key=key)


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
