"""The outcomes of calls: results, errors for the model, and failures."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
from dataclasses import dataclass
from datetime import date

import grpc
import pytest
from pydantic import BaseModel, Field, field_validator

from palaver.skills import MAX_RESULT_BYTES, Invocation, SkillError, skill
from palaver.v1.skill_host_service_pb2 import InvokeSkillRequest, InvokeSkillResponse
from tests.support.skill_caller import content, error
from tests.support.statuses import failure_of

SECRET = "s3cret"


@dataclass
class Day:
    date: date


class Price(BaseModel):
    euros: float = Field(serialization_alias="EUR")

    @field_validator("euros")
    @classmethod
    def check(cls, value: float) -> float:
        if value < 0:
            raise ValueError("prices are not negative")
        return value


@pytest.fixture(params=["sync", "async"])
def make(request):
    """Makes a sync or async skill "do", which returns the given value, or the result of the given function."""

    def make(result):
        def value():
            return result() if callable(result) else result

        if request.param == "sync":

            def do():
                """Does it."""
                return value()
        else:

            async def do():
                """Does it."""
                return value()

        return skill(do)

    return make


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("Grüße 😀 \x00", "Grüße 😀 \x00"),
        ("", ""),
        (None, ""),
        (3, "3"),
        (True, "true"),
        ([1, None, "x"], '[1,null,"x"]'),
        ({"a": math.nan}, '{"a":null}'),
        (Day(date(2026, 1, 2)), '{"date":"2026-01-02"}'),
        ([Price(euros=1.5)], '[{"EUR":1.5}]'),
        (b"bytes", '"bytes"'),
        ("x" * MAX_RESULT_BYTES, "x" * MAX_RESULT_BYTES),
    ],
)
async def test_results_are_converted_to_text(serve, make, result, text):
    outcome = await (await serve(make(result))).invoke("do")
    assert outcome == content(text)
    assert outcome.WhichOneof("outcome") == "content"


@pytest.mark.parametrize("result", ["x" * (MAX_RESULT_BYTES + 1), "ü" * (MAX_RESULT_BYTES // 2 + 1), ["x"] * 100_000])
async def test_a_result_over_the_limit_is_an_error(serve, make, result):
    outcome = await (await serve(make(result))).invoke("do")
    assert "too long" in outcome.error
    assert "the limit is 262,144" in outcome.error
    assert len(outcome.error) < 200


def raising(exception):
    def raise_it():
        raise exception

    return raise_it


async def test_the_model_reads_the_message_of_a_skill_error(serve, make):
    caller = await serve(make(raising(SkillError("there is no to-do 7"))))
    assert await caller.invoke("do") == error("there is no to-do 7")


def validate_another_value():
    Price(euros=SECRET)


@pytest.mark.parametrize(
    "result",
    [
        raising(RuntimeError(SECRET)),
        raising(StopIteration(SECRET)),
        raising(SystemExit(SECRET)),
        validate_another_value,
        "\ud800",
        [object()],
        b"\xff",
    ],
)
async def test_other_exceptions_are_logged_and_hidden_from_the_model(serve, make, failed, caplog, result):
    outcome = await (await serve(make(result))).invoke("do", call_id="c\n1")
    assert outcome == failed
    (record,) = caplog.records
    assert record.name == "palaver.skills"
    assert record.levelno == logging.ERROR
    assert record.getMessage() == r"the skill do failed in the call 'c\n1'"
    assert record.exc_info is not None
    assert not callable(result) or SECRET in caplog.text


async def test_a_skill_error_without_valid_text_is_hidden_from_the_model(serve, make, failed, monkeypatch):
    logger, records = logging.getLogger("palaver.skills"), []
    monkeypatch.setattr(logger, "propagate", False)  # pytest-xdist can't transfer this text
    monkeypatch.setattr(logger, "handle", records.append)
    assert await (await serve(make(raising(SkillError("\ud800"))))).invoke("do") == failed
    assert [record.exc_info[0] for record in records] == [UnicodeEncodeError]


async def test_a_skill_that_raises_cancelled_error_fails(serve, failed, caplog):
    @skill
    async def do() -> None:
        """Does it."""
        raise asyncio.CancelledError

    assert await (await serve(do)).invoke("do") == failed
    assert "the skill do was canceled in the call" in caplog.text


@skill
def order(amount: int, price: Price, day: date = date(2026, 1, 1)) -> str:
    """Orders things."""
    return f"{amount} for {price.euros} on {day}"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"amount": 1, "price": {"euros": 2}}', "1 for 2.0 on 2026-01-01"),
        (' {"day": "2026-02-03", "price": {"euros": 2.5}, "amount": 7} ', "7 for 2.5 on 2026-02-03"),
    ],
)
async def test_arguments_are_converted_to_the_hinted_types(serve, arguments, text):
    assert await (await serve(order)).invoke("order", arguments) == content(text)


@pytest.mark.parametrize(
    ("arguments", "violations"),
    [
        ("{}", ["amount: Field required", "price: Field required"]),
        ("", ["amount: Field required", "price: Field required"]),
        (
            f'{{"amount": "{SECRET}", "price": {{"euros": "2"}}, "day": "never", "more": "{SECRET}"}}',
            [
                "amount: Input should be a valid integer",
                "price.euros: Input should be a valid number",
                "day: Input should be a valid date",
                "more: Extra inputs are not permitted",
            ],
        ),
        ('{"amount": "1", "price": {"euros": 2}}', ["amount: Input should be a valid integer"]),
        ('{"amount": 1, "price": {"euros": -2}}', ["price.euros: Value error, prices are not negative"]),
        ("[]", ["the arguments: Input should be an object"]),
        ("null", ["the arguments: Input should be an object"]),
        (f'{{"amount": {SECRET}', ["the arguments: Invalid JSON"]),
        (r'{"amount": "\ud800"}', ["the arguments: Invalid JSON"]),
        ("[" * 100_000, ["the arguments: Invalid JSON: recursion limit exceeded"]),
    ],
)
async def test_the_model_reads_which_arguments_are_invalid(serve, caplog, arguments, violations):
    outcome = await (await serve(order)).invoke("order", arguments)
    first, *lines = outcome.error.splitlines()
    assert first == "the arguments do not match the schema of the skill:"
    assert len(lines) == len(violations)
    assert all(line.startswith(violation) for line, violation in zip(lines, violations, strict=True)), lines
    assert SECRET not in outcome.error
    assert caplog.records == []


async def test_many_long_violations_are_truncated(serve):
    arguments = json.dumps({f"{number}{'x' * 10_000}": 1 for number in range(100)})
    outcome = await (await serve(order)).invoke("order", arguments)
    assert outcome.error.endswith("and 82 more")  # two required arguments are missing
    assert len(outcome.error) < 10_000


async def test_arguments_over_the_limit_are_refused(serve):
    @skill
    def measure(text: str) -> int:
        """Measures a text."""
        return len(text)

    caller = await serve(measure)
    assert await caller.invoke("measure", json.dumps({"text": "x" * 3_000_000})) == content("3000000")
    failure = await failure_of(caller.invoke("measure", json.dumps({"text": "x" * 5_000_000})))
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await caller.invoke("measure", '{"text": "x"}') == content("1")


async def test_a_request_that_is_not_utf8_is_rejected(serve, caplog):
    caller = await serve(order)
    send = caller.channel.unary_unary("/palaver.v1.SkillHostService/InvokeSkill")
    request = InvokeSkillRequest(name="order", arguments_json="{}").SerializeToString()
    assert InvokeSkillResponse.FromString(await send(request)).error
    for broken in (request.replace(b"{}", b"\xff\xfe"), b"\xff"):
        failure = await failure_of(send(broken))
        assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
        assert failure.text == "the request is not a valid message of its type; text must be valid UTF-8"
    assert caplog.records == []


@pytest.mark.parametrize("name", ["", "Order", "x" * 100_000])
async def test_an_unknown_skill_is_not_found(serve, name):
    failure = await failure_of((await serve(order)).invoke(name))
    assert failure.code is grpc.StatusCode.NOT_FOUND
    assert failure.text == "the host has no skill with this name"


async def test_an_invocation_parameter_gets_the_context_of_the_call(serve):
    @skill
    def show(word: str, invocation: Invocation) -> list[str]:
        """Shows it."""
        return [word, invocation.call_id, invocation.assistant_id, invocation.request_id]

    caller = await serve(show)
    fields = {"call_id": "c1", "assistant_id": "a1", "request_id": "r1"}
    assert await caller.invoke("show", '{"word": "x"}', **fields) == content('["x","c1","a1","r1"]')
    assert "Extra inputs" in (await caller.invoke("show", '{"word": "x", "invocation": {"call_id": "c2"}}')).error


async def test_async_functions_run_concurrently(serve):
    arrived = 0
    all_arrived = asyncio.Event()

    @skill
    async def meet(number: int) -> int:
        """Waits for the others."""
        nonlocal arrived
        arrived += 1
        if arrived == 20:
            all_arrived.set()
        await all_arrived.wait()
        return number

    caller = await serve(meet)
    outcomes = await asyncio.gather(*(caller.invoke("meet", f'{{"number": {number}}}') for number in range(20)))
    assert [outcome.content for outcome in outcomes] == [str(number) for number in range(20)]


async def test_sync_functions_run_concurrently_in_threads(serve):
    barrier = threading.Barrier(20)

    @skill
    def meet(number: int) -> int:
        """Waits for the others."""
        barrier.wait(timeout=60)
        return number

    caller = await serve(meet)
    outcomes = await asyncio.gather(*(caller.invoke("meet", f'{{"number": {number}}}') for number in range(20)))
    assert [outcome.content for outcome in outcomes] == [str(number) for number in range(20)]


async def test_threads_limit_how_many_sync_functions_run(serve):
    order = []
    entered, gate = threading.Event(), threading.Event()

    @skill
    def hold() -> None:
        """Keeps the only thread."""
        entered.set()
        gate.wait(timeout=60)
        order.append("hold")

    @skill
    def come_later() -> None:
        """Needs a thread, too."""
        order.append("come_later")

    @skill
    async def need_no_thread() -> None:
        """Needs no thread."""

    caller = await serve(hold, come_later, need_no_thread, threads=1)
    first = asyncio.ensure_future(caller.invoke("hold"))
    await asyncio.to_thread(entered.wait, 60)
    second = asyncio.ensure_future(caller.invoke("come_later"))
    for _ in range(20):  # enough time for the second one, if it had a thread
        await caller.invoke("need_no_thread")
    gate.set()
    await asyncio.gather(first, second)
    assert order == ["hold", "come_later"]
