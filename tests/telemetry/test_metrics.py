"""Metrics: their names, units and labels, and that no label grows with users."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from palaver_server.domain.conversation import AssistantKey, SkillCall, SkillResult
from palaver_server.domain.errors import ModelNotFound
from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.ports import Prompt
from palaver_server.domain.stages import Stage
from palaver_server.domain.turns import Caller, FinishReason, TurnKey, Usage
from palaver_server.engine.reply import Reply
from palaver_server.telemetry.endpoints import OTHER
from palaver_server.telemetry.otel_metrics import Metrics
from palaver_server.telemetry.turn_records import TurnRecorder
from tests.support.calls import create_assistant, query
from tests.support.collector import collector
from tests.support.endpoint import Endpoint, Refusal, Stream, skill_calls
from tests.support.metrics_page import scrape
from tests.support.ports import free_port
from tests.support.server_process import COMMAND, ServerProcess, server_process
from tests.support.skill_host import SkillHost, content

METRICS = {
    "rpc.server.call.duration": "s",
    "gen_ai.client.token.usage": "{token}",
    "gen_ai.client.operation.duration": "s",
    "gen_ai.client.operation.time_to_first_chunk": "s",
    "gen_ai.execute_tool.duration": "s",
    "palaver.turns": "{turn}",
    "palaver.turns.active": "{turn}",
    "palaver.turns.queued": "{turn}",
    "palaver.queue.wait": "s",
    "palaver.store.call.duration": "s",
    "palaver.retries": "{retry}",
    "palaver.ready": "",
}


@asynccontextmanager
async def measured(folder: Path, endpoint: Endpoint, **variables: str) -> AsyncIterator[tuple[ServerProcess, str]]:
    address = f"127.0.0.1:{free_port()}"
    async with server_process(folder, endpoint.url, PALAVER_METRICS_LISTEN=address, **variables) as server:
        await create_assistant(server)
        yield server, address


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a server that is expected not to start."""
    return subprocess.run(
        [COMMAND, "--offline-model", "--listen=127.0.0.1:0", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_they_are_exported_with_the_names_and_units_of_the_conventions(tmp_path: Path, endpoint: Endpoint):
    endpoint.script(skill_calls(("lookup", '{"task": "x"}')), Refusal(503), Stream("Fine"))
    async with (
        SkillHost(lookup=lambda _request: content("found")) as host,
        collector() as collected,
        server_process(tmp_path, endpoint.url, PALAVER_SKILL_HOSTS=host.target, **collected.variables()) as server,
    ):
        await create_assistant(server)
        await server.stub.PostUserQueryUnary(query())
        found = {name: (await collected.metric(name)).unit for name in METRICS}
    assert found == METRICS


class TestPage:
    async def test_it_has_the_same_for_prometheus(self, tmp_path: Path, endpoint: Endpoint):
        async with measured(tmp_path, endpoint) as (server, address):
            await server.stub.PostUserQueryUnary(query())
            page = await scrape(address)
        assert page.value("palaver_turns_total", palaver_turn_outcome="stored") == 1
        assert page.value("palaver_turns_active") == page.value("palaver_turns_queued") == 0
        assert page.value("gen_ai_client_token_usage_sum", gen_ai_token_type="output") == 7
        assert page.value("palaver_store_call_duration_seconds_count", palaver_store_operation="commit_turn") == 1
        assert page.value("rpc_server_call_duration_seconds_count", rpc_response_status_code="OK") == 2

    async def test_running_turns_are_counted_while_they_run_and_while_they_wait(
        self, tmp_path: Path, endpoint: Endpoint
    ):
        go_on = asyncio.Event()
        endpoint.script(Stream("One", go_on))
        async with measured(tmp_path, endpoint) as (server, address):
            first = server.stub.PostUserQueryUnary(query("first"))
            await endpoint.call()
            second = server.stub.PostUserQueryUnary(query("second"))
            while (page := await scrape(address)).value("palaver_turns_queued") != 1:
                pass
            assert page.value("palaver_turns_active") == 1
            go_on.set()
            await asyncio.gather(first, second)
            page = await scrape(address)
        assert page.value("palaver_turns_active") == page.value("palaver_turns_queued") == 0
        assert page.value("palaver_queue_wait_seconds_count") == 2

    async def test_several_workers_have_one_page(self, tmp_path: Path, endpoint: Endpoint):
        async with measured(tmp_path, endpoint, PALAVER_WORKERS="2") as (server, address):
            options = [("grpc.use_local_subchannel_pool", 1)]  # each channel has a connection of its own
            for number in range(12):
                async with grpc.aio.insecure_channel(server.address, options) as channel:
                    await AssistantServiceStub(channel).PostUserQueryUnary(query(f"{number}"))
            page = await scrape(address)
            assert (await scrape(address)).value("palaver_turns_total") == 12
        assert page.value("palaver_turns_total", palaver_turn_outcome="stored") == 12
        assert page.value("palaver_ready") == 1  # of two workers
        assert page.value("gen_ai_client_token_usage_bucket", gen_ai_token_type="input", le="+Inf") == 12
        assert page.value("palaver_turns_active") == 0

    async def test_a_page_that_can_not_be_served_stops_the_start(self, tmp_path: Path, endpoint: Endpoint):
        async with measured(tmp_path, endpoint) as (_, address):
            for workers in ("1", "2"):
                done = await asyncio.to_thread(start, tmp_path, "--metrics-listen", address, "--workers", workers)
                assert done.returncode == 1
                assert done.stderr.splitlines()[-1].startswith(
                    f"palaver-server: PALAVER_METRICS_LISTEN: can't listen on {address}: "
                )


def test_labels_do_not_grow_with_users():
    reader = InMemoryMetricReader()
    recorder = TurnRecorder([Metrics(MeterProvider([reader]).get_meter("test"), {}, "gpt-5")])

    def turn(number: int) -> None:
        key = TurnKey(
            AssistantKey("AzureWebJobsStorage", f"Collection{number}", f"assistant-{number}"), f"request-{number}"
        )
        parameters = GenerationParameters(
            ai_connection="OPENAI", chat_model=f"model-{number}" if number % 2 else "gpt-5"
        )
        recorder.reached(Stage.ACCEPTED, key, Caller("app", f"user-{number}"))
        recorder.reached(Stage.LOCKED, key)
        recorder.reached(Stage.STARTED, key, parameters)
        recorder.reached(Stage.MODEL_CALLED, key, Prompt((), parameters))
        recorder.reached(Stage.OUTPUT_RECEIVED, key)
        is_known = number % 3
        reply = Reply("", (), FinishReason.STOP, Usage(1, 1, 2), parameters.chat_model)
        recorder.reached(Stage.MODEL_ANSWERED, key, reply if is_known else ModelNotFound(f"no model-{number}"))
        call = SkillCall(f"call-{number}", f"skill-{number}", "{}")
        recorder.reached(Stage.SKILL_CALLED, key, call)
        recorder.reached(Stage.SKILL_ANSWERED, key, SkillResult(call.id, f"{number}", source="host"))
        recorder.reached(Stage.ENDED, key, None if is_known else ModelNotFound(f"no model-{number}"))

    def series() -> set[str]:
        data = reader.get_metrics_data()
        return {
            f"{metric.name} {sorted((point.attributes or {}).items())}"
            for of_resource in data.resource_metrics
            for of_scope in of_resource.scope_metrics
            for metric in of_scope.metrics
            for point in metric.data.data_points
        }

    for number in range(1_000):
        turn(number)
    known = series()
    assert any(OTHER in name for name in known)
    for number in range(1_000, 101_000):
        turn(number)
    assert series() == known
    assert len(known) < 1_500
    assert not any("assistant-" in name or "user-" in name or "request-" in name for name in known)


class TestOff:
    def test_without_the_variables_nothing_of_opentelemetry_is_loaded(self):
        code = (
            "import palaver_server.__main__, palaver_server.app, palaver_server.metrics_page, sys\n"
            "print([name for name in sys.modules if name.startswith(('opentelemetry', 'prometheus_client'))])"
        )
        assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"

    @pytest.mark.parametrize(
        ("variables", "line"),
        [
            ({"OTEL_TRACES_EXPORTER": "zipkins"}, "OTEL_TRACES_EXPORTER: no exporter named 'zipkins' is installed"),
            (
                {"OTEL_METRICS_EXPORTER": "prometheus"},
                "OTEL_METRICS_EXPORTER: set PALAVER_METRICS_LISTEN to serve metrics for Prometheus",
            ),
            (
                {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
                "OTEL_EXPORTER_OTLP_PROTOCOL: must be grpc or http/protobuf, not 'http/json'",
            ),
            (
                {"OTEL_SDK_DISABLED": "true", "PALAVER_METRICS_LISTEN": "127.0.0.1:0"},
                "PALAVER_METRICS_LISTEN: there are no metrics, because OTEL_SDK_DISABLED is true",
            ),
        ],
    )
    def test_variables_that_can_not_be_followed_stop_the_start(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], line: str
    ):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        done = start(tmp_path)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"palaver-server: {line}")
