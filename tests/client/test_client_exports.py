"""The public API of the library: its names, signatures, documentation and types."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys

import pytest

import palaver


def public_names(cls):
    return {name for name in dir(cls) if not name.startswith("_")}


def test_all_lists_exactly_the_public_names():
    public = {name for name, value in vars(palaver).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert set(palaver.__all__) == public
    assert palaver.__all__ == sorted(palaver.__all__)


def test_every_error_is_exported():
    assert {error.__name__ for error in palaver.PalaverError.__subclasses__()} <= set(palaver.__all__)


@pytest.mark.parametrize(
    ("sync", "asynchronous", "only_asynchronous"),
    [(palaver.Client, palaver.AsyncClient, set()), (palaver.Reply, palaver.AsyncReply, {"aclose"})],
)
def test_sync_and_async_classes_have_the_same_methods_with_the_same_parameters(sync, asynchronous, only_asynchronous):
    assert public_names(asynchronous) - public_names(sync) == only_asynchronous
    assert public_names(sync) <= public_names(asynchronous)
    for name in public_names(sync):
        method, twin = getattr(sync, name), getattr(asynchronous, name)
        assert isinstance(method, property) == isinstance(twin, property), name
        if not isinstance(method, property):
            # This compares the names, kinds, defaults and annotations of the parameters.
            assert inspect.signature(method).parameters == inspect.signature(twin).parameters, name


@pytest.mark.parametrize("client", [palaver.Client, palaver.AsyncClient])
def test_help_documents_every_method_with_all_of_its_parameters(client):
    for name in public_names(client):
        method = getattr(client, name)
        shown = pydoc.render_doc(method, renderer=pydoc.plaintext)
        documentation = inspect.getdoc(method)
        assert documentation, name
        assert documentation.partition("\n")[0] in shown
        if not isinstance(method, property):
            for parameter in list(inspect.signature(method).parameters.values())[1:]:
                stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
                assert f" {stars}{parameter.name}: " in documentation.partition("Args:")[2], (name, parameter)


@pytest.mark.parametrize("client", [palaver.Client, palaver.AsyncClient])
def test_help_documents_every_argument_of_the_constructor(client):
    documentation = pydoc.render_doc(client.__init__, renderer=pydoc.plaintext)
    for parameter in inspect.signature(client).parameters:
        assert f" {parameter}: " in documentation.partition("Args:")[2], parameter


@pytest.mark.parametrize("reply", [palaver.Reply, palaver.AsyncReply])
def test_help_documents_every_member_of_a_reply(reply):
    for name in public_names(reply):
        assert inspect.getdoc(getattr(reply, name)), name


def test_importing_the_library_does_not_import_extras_or_the_server():
    code = "import sys, palaver; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    modules = set(output.split())
    assert "palaver" in modules
    assert {"palaver.cli", "click", "rich", "prompt_toolkit"}.isdisjoint(modules)
    assert {"palaver.skills", "pydantic", "pydantic_core", "grpc_health.v1"}.isdisjoint(modules)
    assert {"palaver_server", "openai"}.isdisjoint(modules)


TYPED_USAGE = """
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from typing_extensions import assert_type

import palaver

if TYPE_CHECKING:
    from palaver.v1.assistant_service_pb2_grpc import AssistantServiceAsyncStub


def synchronous(client: palaver.Client) -> str:
    created = client.create_assistant("a", if_exists="keep")
    assert_type(created.assistant, palaver.Assistant)
    assert_type(client.get_assistant("a"), palaver.Assistant)
    assert_type(client.list_messages("a", order=palaver.Order.NEWEST_FIRST), Iterator[palaver.Message])
    options: palaver.QueryOptions = {"temperature": 0, "max_tokens": None}
    with client.post_user_query("a", "b", timeout=3, **options) as reply:
        assert_type(reply, palaver.Reply)
        for event in reply:
            assert_type(event, palaver.Event)
            if isinstance(event, palaver.TextDelta):
                return event.text
    assert_type(reply.text, Iterator[str])
    assert_type(reply.completed.finish_reason, palaver.FinishReason)
    return client.post_user_query_unary("a", "b", on_disconnect="continue").text


async def asynchronous(client: palaver.AsyncClient) -> None:
    async with client:
        call = assert_type(client.get_assistant("a"), Coroutine[Any, Any, palaver.Assistant])
        assert_type(await call, palaver.Assistant)
        assert_type(client.stub, AssistantServiceAsyncStub)
        assert_type(client.list_messages("a"), AsyncIterator[palaver.Message])
        async with client.post_user_query("a", "b") as reply:
            assert_type(reply, palaver.AsyncReply)
            async for text in reply.text:
                assert_type(text, str)


def wrong(client: palaver.Client) -> None:
    client.create_assistant("a", if_exists="replace")
    client.post_user_query("a", "b", temprature=1)
    client.post_user_query("a", "b", temperature="hot")
"""


def test_the_library_is_typed(tmp_path):
    file = tmp_path / "usage.py"
    file.write_text(TYPED_USAGE)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", str(file)]
    output = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    wrong = TYPED_USAGE.splitlines().index("def wrong(client: palaver.Client) -> None:") + 1
    expected = [f"{file}:{wrong + line}" for line in (1, 2, 3)]
    errors = [line for line in output.splitlines() if ": error:" in line]
    assert len(errors) == 3, output
    assert all(error.startswith(place) for error, place in zip(errors, expected, strict=True)), output
