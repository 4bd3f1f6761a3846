"""Secrets of the settings: no error of a library takes them to the log or to a caller."""

from __future__ import annotations

from pathlib import Path

import pytest

from palaver.v1 import assistant_service_pb2 as pb
from tests.support.endpoint import Endpoint, HangUp, Refusal
from tests.support.ports import free_port
from tests.support.server_process import server_process
from tests.support.statuses import failure_of

SAS = "sv=2024-08-04&ss=t&sig=U0VDUkVU0123456789"
KEY = "U0VDUkVU9876543210"

ANSWERS = {
    "a broken connection": HangUp(),
    "a page in place of JSON": Refusal(200, body=b"<html>"),
    "an error that quotes the request": Refusal(400, body=f"<html>GET /?{SAS} {KEY}</html>".encode()),
    "an error of the server": Refusal(500, message=f"?{SAS}"),
    "a redirect": Refusal(302, headers={"Location": f"http://127.0.0.1:{free_port()}/?{SAS}"}),
}


@pytest.mark.parametrize("answer", [*ANSWERS, "nobody there"])
async def test_a_store_that_fails_reveals_nothing(tmp_path: Path, endpoint: Endpoint, answer: str):
    url = endpoint.url
    if answer in ANSWERS:
        endpoint.default = ANSWERS[answer]
    else:
        url = f"http://127.0.0.1:{free_port()}"
    variables = {
        "AzureWebJobsStorage": f"TableEndpoint={url};SharedAccessSignature={SAS}",
        "OPENAI_API_KEY": KEY,
        "PALAVER_STORE_TIMEOUT": "1",
    }
    log = tmp_path / "stderr"
    with log.open("wb") as stderr:
        async with server_process(tmp_path, endpoint.url, stderr=stderr, **variables) as server:
            texts = [
                (await failure_of(call)).text
                for call in (
                    server.stub.CreateAssistant(pb.CreateAssistantRequest(id="a")),
                    server.stub.GetAssistant(pb.GetAssistantRequest(id="a")),
                    server.stub.PostUserQueryUnary(pb.PostUserQueryRequest(id="a", user_message="Hi", request_id="r")),
                )
            ]
    for text in (*texts, log.read_text()):
        assert "U0VDUkVU" not in text
