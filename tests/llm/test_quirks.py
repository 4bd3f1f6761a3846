"""Endpoints that refuse a parameter: the request is sent again in the form that they accept, and the form is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from palaver_server.domain.conversation import Role
from palaver_server.domain.errors import ModelError, ModelRejectedRequest
from palaver_server.domain.generation import GenerationParameters
from palaver_server.domain.ports import Prompt
from palaver_server.llm import quirks
from palaver_server.llm.openai import OpenAIModel
from palaver_server.llm.quirks import QUIRKS
from tests.support.conversations import draft
from tests.support.endpoint import Endpoint, Refusal, Stream

REFUSALS = {
    "max_tokens": [
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "max_tokens has been replaced by max_completion_tokens",
    ],
    "stream_options": [
        "Unrecognized request argument supplied: stream_options",
        "[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs are not permitted'}]",
    ],
}
"""By parameter: the words with which endpoints refuse it."""

ACCEPTED: dict[str, dict[str, Any]] = {
    "max_tokens": {"max_tokens": None, "max_completion_tokens": 9},
    "stream_options": {"stream_options": None},
}
"""By parameter: what the body has after the refusal. None: it does not have this member."""

CASES = [(parameter, words) for parameter, refusals in REFUSALS.items() for words in refusals]


@pytest.fixture
async def model(endpoint: Endpoint) -> AsyncIterator[OpenAIModel]:
    running = OpenAIModel(api_key="sk-test", base_url=endpoint.url)
    yield running
    await running.close()


async def ask(model: OpenAIModel, chat_model: str = "gpt-x", **parameters: Any) -> str:
    """Makes a model call and returns the text of the reply."""
    in_effect = GenerationParameters(chat_model=chat_model, **({"temperature": 0.3, "max_tokens": 9} | parameters))
    return "".join([delta.text async for delta in model.stream(Prompt((draft(Role.USER, "Hello"),), in_effect))])


def test_every_row_of_the_table_is_tested():
    assert [quirk.parameter for quirk in QUIRKS] == list(REFUSALS) == list(ACCEPTED)


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(("parameter", "words"), CASES)
async def test_a_refused_parameter_is_sent_in_the_form_that_the_endpoint_accepts(
    model: OpenAIModel, endpoint: Endpoint, parameter: str, words: str, status: int
):
    endpoint.script(Refusal(status, words))
    assert await ask(model) == "Hello, world"
    first, second = (call.body for call in endpoint.calls)
    assert parameter in first
    expected = {name: value for name, value in (first | ACCEPTED[parameter]).items() if value is not None}
    assert second == expected


@pytest.mark.parametrize(("parameter", "words"), CASES)
async def test_the_form_is_remembered_for_the_model_and_for_no_other(
    model: OpenAIModel, endpoint: Endpoint, parameter: str, words: str
):
    endpoint.script(Refusal(400, words))
    for chat_model in ("gpt-x", "gpt-x", "gpt-y"):
        await ask(model, chat_model)
    assert [parameter in call.body for call in endpoint.calls] == [True, False, False, True]


async def test_an_endpoint_may_refuse_one_parameter_after_the_other(model: OpenAIModel, endpoint: Endpoint):
    endpoint.script(*(Refusal(400, refusals[0]) for refusals in REFUSALS.values()))
    for _ in range(2):
        await ask(model)
    assert len(endpoint.calls) == len(REFUSALS) + 2
    for call in endpoint.calls[-2:]:
        assert not call.body.keys() & REFUSALS.keys()
        assert call.body["max_completion_tokens"] == 9


@pytest.mark.parametrize(("parameter", "words"), CASES)
async def test_an_endpoint_that_refuses_both_forms_is_not_asked_a_third_time(
    model: OpenAIModel, endpoint: Endpoint, parameter: str, words: str
):
    endpoint.script(Refusal(400, words), Refusal(400, words))
    with pytest.raises(ModelRejectedRequest, match=parameter):
        await ask(model)
    assert len(endpoint.calls) == 2
    # The form did not help, so the next call begins with the usual one.
    await ask(model)
    assert parameter in endpoint.calls[2].body


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_another_error_status_with_the_same_words_is_not_a_refusal_of_a_parameter(
    model: OpenAIModel, endpoint: Endpoint, status: int
):
    endpoint.script(Refusal(status, "stream_options max_completion_tokens"))
    with pytest.raises(ModelError):
        await ask(model)
    assert len(endpoint.calls) == 1


async def test_a_refusal_that_names_another_parameter_is_the_callers_error(model: OpenAIModel, endpoint: Endpoint):
    endpoint.script(Refusal(400, "max_completion_tokens is too large"))
    with pytest.raises(ModelRejectedRequest, match="too large"):
        await ask(model, is_reasoning_model=True)
    endpoint.script(Refusal(400, "max_completion_tokens is too large"), Stream("Hi"))
    with pytest.raises(ModelRejectedRequest, match="too large"):
        await ask(model, max_tokens=None)
    assert len(endpoint.calls) == 2


def test_a_known_quirk_changes_only_bodies_that_have_its_parameter():
    body = {"model": "gpt-x", "max_completion_tokens": 7}
    quirks.apply(frozenset(QUIRKS), body)
    assert body == {"model": "gpt-x", "max_completion_tokens": 7}
