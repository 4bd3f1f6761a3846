"""Runs a scenario: sets up the server, the model's endpoint and the proxy, and lets a runner make the calls."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from google.protobuf import json_format

from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1 import skill_host_service_pb2
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from tests.conformance.endpoint_script import answer
from tests.conformance.expectations import Bindings, differences
from tests.conformance.runner import DEAD_PROXIES, Call, Runner
from tests.conformance.scenarios import Scenario
from tests.conformance.stand_in import stand_in
from tests.support.azurite import Azurite
from tests.support.cutting_proxy import CuttingProxy
from tests.support.endpoint import Endpoint
from tests.support.palaver_server import Served, palaver_server
from tests.support.scripted_server import ScriptedServer
from tests.support.server_process import COMMAND, ServerProcess, server_process
from tests.support.skill_host import SkillHost

CERTIFICATES = trustme.CA()
TIME_LIMIT = 100.0
"""The time limit of a scenario in seconds: much more than it needs, because machines may be busy."""

NO_DEADLINE = 1e6
"""A timeout in seconds that counts as none: gRPC reports a distant deadline to the server if there is none."""


class NotAsExpectedError(Exception):
    """A step did not meet its expectations; the arguments are lines that say how."""


class Stage:
    """The setup of a scenario and the state of its run."""

    def __init__(self, scenario: Scenario, runner: Runner, chat: Sequence[str], folder: Path, azurite: Azurite) -> None:
        self.scenario = scenario
        self.runner = runner
        self._chat_command = chat
        self._folder = folder
        self._azurite = azurite
        self._endpoint = Endpoint()
        self._served: Served | None = None
        self._process: ServerProcess | None = None
        self._stand_in: ScriptedServer | None = None
        self._proxy: CuttingProxy | None = None
        self._hosts: list[SkillHost] = []
        self._address = ""
        self._running = AsyncExitStack()
        self._stack = AsyncExitStack()
        self._gates: dict[str, asyncio.Event] = {}
        self._calls: dict[str, Call] = {}
        self._bindings: Bindings = {}
        self._printed = ""
        self.step = ""
        """The current step."""

    async def run(self) -> None:
        """Runs the scenario; raises `NotAsExpectedError` if it fails."""
        async with self._stack:
            await self._set_up()
            for number, step in enumerate(self.scenario.steps, 1):
                verb = next(iter(step))
                self.step = f"{number} ({verb})"
                try:
                    await VERBS[verb](self, step)
                except NotAsExpectedError as error:
                    raise NotAsExpectedError(f"step {self.step}", *error.args) from None

    async def _set_up(self) -> None:
        for name, content in self.scenario.files.items():
            (self._folder / name).write_text(content)
        await self._stack.enter_async_context(self._endpoint)
        self._endpoint.script(*(answer(item, self._gate, self._cut_at) for item in self.scenario.model))
        if self.scenario.skills:
            answers = {name: self._skill(**result) for name, result in self.scenario.skills.items()}
            self._hosts.append(await self._stack.enter_async_context(SkillHost(**answers)))
        self._stack.push_async_callback(self._end_server)
        await self._start_server()
        if self.scenario.proxy:
            self._proxy = await self._stack.enter_async_context(CuttingProxy(self._address))
        if self._stand_in is None:
            async with self._stub() as stub:
                for name in self.scenario.assistants:
                    await stub.CreateAssistant(pb.CreateAssistantRequest(id=name, instructions=""))
        await self._do_client({"client": self.scenario.client})

    # The server.

    async def _start_server(self) -> None:
        scenario = self.scenario
        if scenario.stand_in is not None:
            self._stand_in = self._stack.enter_context(stand_in(scenario.stand_in, self._server_credentials()))
            self._address = self._stand_in.target
            return
        data = self._folder / "data"
        variables = {name: self._filled_in(value) for name, value in scenario.environment.items()}
        settings = {**scenario.server, "skill_hosts": tuple(host.target for host in self._hosts)}
        if scenario.process:
            listen = self._address or "127.0.0.1:0"  # the same address after a restart
            command = [str(COMMAND)] if not scenario.disk else _on_a_small_disk(data, scenario.disk)
            options = {f"PALAVER_{name.upper()}": str(value) for name, value in scenario.server.items()}
            options["PALAVER_LOG_LEVEL"] = "error"  # the faults that it would warn of are those of the scenarios
            starting = server_process(data, self._endpoint.url, listen=listen, command=command, **options, **variables)
            self._process = await self._running.enter_async_context(starting)
            self._address = self._process.address
            return
        if scenario.tls:
            settings |= self._certificate_files()
        serving = palaver_server(data, self._endpoint.url, variables, **settings)
        self._served = await self._running.enter_async_context(serving)
        self._address = self._served.target

    async def _end_server(self) -> None:
        await self._running.aclose()

    def _filled_in(self, text: str) -> str:
        """Replaces the placeholders in a value."""
        text = text.replace("{folder}", str(self._folder))
        if self.scenario.azurite:
            account = self._azurite.account()
            text = text.replace("{azurite-url}", account.url).replace("{account}", account.name)
        return text

    def _certificate_files(self) -> dict[str, Path]:
        issued = CERTIFICATES.issue_cert("localhost")
        certificate, key = self._folder / "certificate.pem", self._folder / "key.pem"
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        return {"tls_certificate": certificate, "tls_key": key}

    def _server_credentials(self) -> grpc.ServerCredentials | None:
        if not self.scenario.tls:
            return None
        issued = CERTIFICATES.issue_cert("localhost")
        pair = issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes()
        if self.scenario.tls == "mutual":
            return grpc.ssl_server_credentials([pair], CERTIFICATES.cert_pem.bytes(), require_client_auth=True)
        return grpc.ssl_server_credentials([pair])

    def _client_certificate(self, kind: bool | str) -> dict[str, str]:
        """Writes a certificate for the client and returns the runner's options for it.

        It is of the authority that the server trusts, or of another one if it is "wrong". The key is another one's if
        it is "mismatched".
        """
        issued = (trustme.CA() if kind == "wrong" else CERTIFICATES).issue_cert("client")
        key = (CERTIFICATES.issue_cert("client") if kind == "mismatched" else issued).private_key_pem
        paths = {"certificate": self._folder / "client.pem", "key": self._folder / "client.key"}
        paths["certificate"].write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        # All languages read PKCS #8.
        paths["key"].write_bytes(
            load_pem_private_key(key.bytes(), None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        return {name: str(path) for name, path in paths.items()}

    @asynccontextmanager
    async def _stub(self) -> AsyncIterator[AssistantServiceStub]:
        """Opens a stub for the calls of the suite itself, which bypass the proxy."""
        authorities = CERTIFICATES.cert_pem.bytes()
        target = self._address.replace("127.0.0.1", "localhost") if self.scenario.tls else self._address
        async with (
            grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(authorities))
            if self.scenario.tls
            else grpc.aio.insecure_channel(target)
        ) as channel:
            yield AssistantServiceStub(channel)

    # Gates and cuts of the endpoint's answers.

    def _gate(self, name: str) -> asyncio.Event:
        return self._gates.setdefault(name, asyncio.Event())

    def _skill(self, wait: str = "", **result: str) -> Callable[[Any], Awaitable[Any]]:
        """Returns a skill that always answers this, once its gate is open."""

        async def answer(_request: Any) -> skill_host_service_pb2.InvokeSkillResponse:
            if wait:
                await self._gate(wait).wait()
            return skill_host_service_pb2.InvokeSkillResponse(**result)

        return answer

    async def _cut_at(self, characters: int) -> None:
        assert self._proxy is not None, "the scenario has no proxy"
        async with self.runner.changed:
            await self.runner.changed.wait_for(lambda: self.runner.characters + len(self._printed) >= characters)
        self._proxy.cut()

    # The steps.

    async def _do_client(self, step: dict[str, Any]) -> None:
        options = dict(step["client"])
        target = self._proxy.address if self._proxy else self._address
        if self.scenario.tls:
            target = target.replace("127.0.0.1", "localhost")
        options.setdefault("target", target)
        if "tls" in options:
            path = self._folder / "authorities.pem"
            (CERTIFICATES if options["tls"] is True else trustme.CA()).cert_pem.write_to_path(path)
            options["tls"] = str(path)
        if "certificate" in options:
            options |= self._client_certificate(options["certificate"])
        self._calls = {}
        self._check(step.get("expect", "ready"), await self.runner.client(**options), "the client")

    async def _do_call(self, step: dict[str, Any]) -> None:
        name = step.get("as", str(len(self._calls) + 1))
        request = self._bound(step.get("request", {}))
        self._calls[name] = await self.runner.call(name, step["call"], request, step.get("timeout"))
        if "expect" in step:
            await self._do_finish({"finish": name, "expect": step["expect"]})

    async def _do_until(self, step: dict[str, Any]) -> None:
        call = self._calls[step["until"]]
        await (call.wait_for_progress(step["progress"]) if "progress" in step else call.wait_for_text(step["text"]))
        if call.is_over:
            raise NotAsExpectedError(f"the call ended too early: {call.error or call.events}")

    async def _do_finish(self, step: dict[str, Any]) -> None:
        call = self._calls[step["finish"]]
        await call.finish()
        expected = step.get("expect", {})
        self._check(expected.get("error"), call.error, "error")
        for key in ("request_id", "events", "progress", "text", "messages", "response"):
            if key in expected:
                self._check(expected[key], getattr(call, key), key)

    async def _do_cancel(self, step: dict[str, Any]) -> None:
        await self.runner.cancel(step["cancel"])

    async def _do_cut(self, step: dict[str, Any]) -> None:
        assert self._proxy is not None
        self._proxy.cut()

    async def _do_release(self, step: dict[str, Any]) -> None:
        self._gate(step["release"]).set()

    async def _do_signal(self, step: dict[str, Any]) -> None:
        """Sends a signal to the server process and waits for its end."""
        assert self._process is not None
        self._process.process.send_signal(signal.Signals[step["signal"]])
        await self._process.process.wait()
        await self._end_server()

    async def _do_stop(self, step: dict[str, Any]) -> None:
        assert self._served is not None
        await self._served.application.stop(grace=step["stop"])

    async def _do_start(self, step: dict[str, Any]) -> None:
        self._running = AsyncExitStack()
        await self._start_server()

    async def _do_sql(self, step: dict[str, Any]) -> None:
        with sqlite3.connect(self._folder / "data" / "palaver.db") as database:
            database.execute(step["sql"])
        database.close()

    async def _do_model_calls(self, step: dict[str, Any]) -> None:
        self._check(step["model_calls"], len(self._endpoint.calls), "calls of the model")

    async def _do_model_saw(self, step: dict[str, Any]) -> None:
        self._check(step["model_saw"], self._endpoint.calls[-1].body, "the request to the model")

    async def _do_model_closed(self, step: dict[str, Any]) -> None:
        await self._endpoint.calls[step["model_closed"] - 1].closed.wait()

    async def _do_model_waits(self, step: dict[str, Any]) -> None:
        await self._endpoint.call(step["model_waits"])

    async def _do_server_saw(self, step: dict[str, Any]) -> None:
        assert self._stand_in is not None
        calls = [
            {
                "method": call.method,
                "metadata": call.metadata,
                "deadline": call.time_remaining is not None and call.time_remaining < NO_DEADLINE,
                "request": json_format.MessageToDict(call.request, preserving_proto_field_name=True),
            }
            for call in self._stand_in.calls
        ]
        self._check(step["server_saw"], calls, "the calls to the server")

    async def _do_server_calls(self, step: dict[str, Any]) -> None:
        assert self._stand_in is not None
        await asyncio.to_thread(self._stand_in.wait_for_calls, step["server_calls"])

    async def _do_server_left(self, step: dict[str, Any]) -> None:
        assert self._stand_in is not None
        left = await asyncio.to_thread(self._stand_in.calls[step["server_left"] - 1].abandoned.wait, TIME_LIMIT)
        self._check(True, left, "the call is cancelled")

    async def _do_store(self, step: dict[str, Any]) -> None:
        async with self._stub() as stub:
            for name, expected in step["store"].items():
                try:
                    listed = await stub.ListMessages(pb.ListMessagesRequest(id=name))
                    stored = json_format.MessageToDict(listed, preserving_proto_field_name=True).get("messages", [])
                except grpc.aio.AioRpcError as error:
                    stored = error.code().name
                self._check(expected, stored, f"the stored messages of {name}")

    async def _do_chat(self, step: dict[str, Any]) -> None:
        """Runs the terminal chat of the language and compares its output."""
        target = self._proxy.address if self._proxy else self._address
        process = await asyncio.create_subprocess_exec(
            *self._chat_command,
            *(target, "a"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | DEAD_PROXIES,
        )
        try:
            stderr = await self._converse(process, step)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            status = await process.wait()
        self._check(step["prints"], self._printed, f"printed (exit {status}, stderr {stderr[-500:]!r})")
        self._check(0, status, "exit status")

    async def _converse(self, process: asyncio.subprocess.Process, step: dict[str, Any]) -> str:
        """Writes the lines, reads the output until the chat ends, and returns its standard error."""
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write("".join(f"{line}\n" for line in step["chat"]).encode())
        process.stdin.close()
        data = b""
        interrupted = False
        while piece := await process.stdout.read(65_536):
            data += piece
            async with self.runner.changed:
                self._printed = data.decode("utf-8", "ignore")
                self.runner.changed.notify_all()
            if step.get("interrupt_after", "\0") in self._printed and not interrupted:
                interrupted = True
                process.send_signal(signal.SIGINT)
        stderr = (await process.stderr.read()).decode()
        await process.wait()
        return stderr

    # Expectations.

    def _check(self, expected: Any, actual: Any, what: str) -> None:
        if found := list(differences(expected, actual, self._bindings, what)):
            raise NotAsExpectedError(*found)

    def _bound(self, value: Any) -> Any:
        """Replaces each `$name` in a request with its value."""
        if isinstance(value, dict):
            return {key: self._bound(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._bound(item) for item in value]
        return self._bindings.get(value, value) if isinstance(value, str) else value


VERBS: dict[str, Callable[[Stage, dict[str, Any]], Awaitable[None]]] = {
    name.removeprefix("_do_"): method for name, method in vars(Stage).items() if name.startswith("_do_")
}


def _on_a_small_disk(folder: Path, size: str) -> list[str]:
    """Returns the command of a server whose data is on a private file system of this size."""
    folder.mkdir()
    script = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(folder), str(COMMAND)]


def missing_tools(scenarios: Sequence[Scenario]) -> Iterator[str]:
    """Yields the tools that the scenarios need and the machine lacks."""
    if sys.platform == "linux" and any(scenario.disk for scenario in scenarios) and not shutil.which("unshare"):
        yield "unshare(1), which limits the disk space"
