"""Tests of the attack harness: it must find each kind of defect, and generate the same input for the same number."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from palaver.v1 import assistant_pb2
from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from tests.attack.attack import MAX_GROWTH, MAX_WAIT, Outcome
from tests.attack.attempt import MAX_LOG_LINE, check_log
from tests.attack.fuzz_requests import generated_request
from tests.attack.fuzz_streams import generated_response
from tests.attack.target import KEY, METHODS, PRIVATE_TEXT, Size, Target
from tests.attack.witness import witness
from tests.support.endpoint import Endpoint
from tests.support.scripted_server import HANG, Failure, ScriptedServer
from tests.support.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
ASSISTANT = pb.GetAssistantResponse(assistant=assistant_pb2.Assistant(id="a"))


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        yield running


@pytest.fixture
async def target(scripted: ScriptedServer, endpoint: Endpoint, tmp_path: Path) -> AsyncIterator[Target]:
    # The witness samples the memory of a process, here that of the test.
    this_process = cast("asyncio.subprocess.Process", type("Process", (), {"pid": os.getpid()}))
    async with grpc.aio.insecure_channel(scripted.target) as channel:
        server = ServerProcess(this_process, scripted.target, channel, AssistantServiceStub(channel))
        yield Target(server, endpoint, "", tmp_path)


class TestTarget:
    @pytest.mark.parametrize("status", [grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL])
    async def test_a_forbidden_status_is_found(self, scripted: ScriptedServer, target: Target, status: grpc.StatusCode):
        scripted.script("GetAssistant", Failure(status, "oops"))
        await target.call("GetAssistant", b"")
        assert target.findings == [f"GetAssistant: {status.name} oops"]

    async def test_an_expected_status_is_no_finding(self, scripted: ScriptedServer, target: Target):
        scripted.script("GetAssistant", Failure(grpc.StatusCode.NOT_FOUND, "there is no assistant"))
        await target.call("GetAssistant", b"")
        assert target.findings == []

    async def test_a_call_without_an_answer_is_found(self, scripted: ScriptedServer, target: Target):
        scripted.script("GetAssistant", HANG)
        await target.call("GetAssistant", b"", timeout=0.1)
        assert target.findings == ["GetAssistant: no answer within 0.1 s"]

    async def test_a_secret_in_an_error_is_found(self, scripted: ScriptedServer, target: Target):
        scripted.script("GetAssistant", Failure(grpc.StatusCode.UNAVAILABLE, f"the key {KEY} was refused"))
        await target.call("GetAssistant", b"")
        assert any(KEY in finding for finding in target.findings)

    async def test_a_secret_in_a_stream_is_found(self, scripted: ScriptedServer, target: Target):
        delta = pb.PostUserQueryResponse(text_delta=pb.TextDelta(text=PRIVATE_TEXT))
        scripted.script("PostUserQuery", [delta, Failure(grpc.StatusCode.UNAVAILABLE, "broken")])
        await target.call("PostUserQuery", b"")
        assert any(PRIVATE_TEXT in finding for finding in target.findings)


class TestLog:
    @pytest.mark.parametrize(
        ("line", "finding"),
        [
            (f"the key {KEY} was refused", KEY),
            ("x" * (MAX_LOG_LINE + 1), "line of"),
            ("Traceback (most recent call last):\n  in f\nValueError: oops", "ValueError: oops"),
        ],
    )
    def test_a_defect_is_found(self, target: Target, tmp_path: Path, line: str, finding: str):
        log = tmp_path / "log"
        log.write_text(f"WARNING fine\n{line}\nWARNING fine\n")
        check_log(target, log)
        assert [finding in found for found in target.findings] == [True]

    def test_an_ordinary_log_has_no_findings(self, target: Target, tmp_path: Path):
        log = tmp_path / "log"
        log.write_text("WARNING fine\n" * 10)
        check_log(target, log)
        assert target.findings == []


class TestWitness:
    async def test_a_wait_is_seen(self, scripted: ScriptedServer, target: Target):
        release = threading.Event()
        scripted.script("GetAssistant", ASSISTANT, [release, ASSISTANT], ASSISTANT)
        async with witness(target.server, "a") as second:
            await asyncio.to_thread(scripted.wait_for_calls, 2)
            start = time.monotonic()
            await asyncio.sleep(0.2)  # the wait under test
            held = time.monotonic() - start
            release.set()
            await asyncio.to_thread(scripted.wait_for_calls, 3)
            seen = await second.report()
        assert seen.wait >= held
        assert seen.memory > 0
        assert seen.failures == []

    async def test_a_refusal_is_seen(self, scripted: ScriptedServer, target: Target):
        scripted.script("GetAssistant", Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "later"))
        async with witness(target.server, "a") as second:
            await asyncio.to_thread(scripted.wait_for_calls, 2)
            seen = await second.report()
        assert "RESOURCE_EXHAUSTED: later" in seen.failures[0]


class TestOutcome:
    SOUND = Outcome("a", MAX_GROWTH, wait=0, idle_wait=0, noise=0, growth=0, seconds=1, findings=())
    SLOW = replace(SOUND, wait=MAX_WAIT / 1000 + 0.001)

    def test_a_sound_server_withstands(self):
        assert (self.SOUND.is_met, self.SOUND.is_only_slow) == (True, False)

    def test_a_wait_is_tried_again(self):
        assert (self.SLOW.is_met, self.SLOW.is_only_slow) == (False, True)

    @pytest.mark.parametrize("fault", [{"growth": MAX_GROWTH + 1}, {"findings": ("UNKNOWN",)}])
    def test_other_faults_count_at_once(self, fault: Any):
        outcome = replace(self.SLOW, **fault)
        assert (outcome.is_met, outcome.is_only_slow) == (False, False)


class TestGenerators:
    def test_a_number_makes_the_same_input_again(self, target: Target):
        for number in range(200):
            assert generated_request(target.choices(number)) == generated_request(target.choices(number))
            assert generated_response(target.choices(number)) == generated_response(target.choices(number))

    def test_requests_reach_all_methods(self, target: Target):
        assert {generated_request(target.choices(number))[0] for number in range(200)} == set(METHODS)

    def test_a_replay_is_one_input(self, target: Target):
        replayed = Target(target.server, target.endpoint, "", target.folder, Size(replay=7))
        assert list(replayed.numbers(100_000)) == [7]


def test_an_attack_runs_against_a_real_server():
    command = [sys.executable, "-m", "tests.attack", "--only", "random bytes", "--times", "0.02", "--attempts", "1"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert "findings 0" in ended.stdout, ended.stdout + ended.stderr
