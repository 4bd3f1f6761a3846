"""Texts without secrets: their forms, and that nothing else is changed."""

from __future__ import annotations

import logging
import os

import pytest

from palaver_server.domain.redaction import redacted, secrets_in
from palaver_server.logs import TextFormatter

SECRET = "c2VjcmV0LXZhbHVl+7/A=="

FORMS = [
    "https://acct.table.core.windows.net/?sv=2024-08-04&sig={}",
    "https://acct.table.core.windows.net/ChatState(PartitionKey='a')?sig={}&se=2027",
    "Cannot connect to 'https://h:1/p?x=1&token={}'",
    "https://user:{}@host/path",
    "GRPCS://{}@host:1",
    "redis://:{}@host",
    "http://h/#access_token={}",
    "AccountName=a;AccountKey={};EndpointSuffix=core.windows.net",
    "Endpoint=sb://a/;SharedAccessKey={}",
    "TableEndpoint=https://a.b;SharedAccessSignature={}",
    "sv=2024&sig={}",
    "api-key: {}",
    "{{'api_key': '{}'}}",
    '{{"client_secret": "{}"}}',
    "Ocp-Apim-Subscription-Key: {}",
    "password={}",
    "Authorization: Bearer {}",
    "Authorization: SharedKey acct:{}",
    "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----",
    "-----BEGIN RSA PRIVATE KEY----- {}",
    "Incorrect API key provided: sk-c2VjcmV0LXZhbHVl.",
    "the token eyJhbGciOiJub25lIn0.c2VjcmV0LXZhbHVl.x",
]


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_secret_is_left(form: str):
    assert "c2VjcmV0LXZhbHVl" not in redacted(form.format(SECRET))
    assert "c2VjcmV0LXZhbHVl" not in redacted(f"palaver-server: X: not {form.format(SECRET)!r}")


@pytest.mark.parametrize(
    "beginning", ["sk-", "xai-", "pplx-", "nvapi-", "key-", "gsk_", "hf_", "sk_", "csk_", "fw_", "r8_", "AIza", "eyJ"]
)
def test_the_keys_of_endpoints_are_known_by_their_beginnings(beginning: str):
    assert redacted(f"invalid: {beginning}0a1b2c3d4e5f6789 was sent") == "invalid: [key] was sent"
    assert redacted(f"{beginning}0a1b2c3d4e5f6789") == "[key]"


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8080/v1 can't be reached",
        "dns:///skills:50061",
        "id: must be 1 to 255 characters, none of / \\ # ? and no control characters",
        "the model's key findings: a token is a bearer of meaning",
        "AzureWebJobsStorage__tableServiceUri: must have no user name, query string or fragment",
        "page_token: not one of this listing",
        "PALAVER_TLS_KEY: Path does not point to a file, not '/etc/palaver/key.pem'",
        "me@example.org",
    ],
)
def test_other_texts_stay_as_they_are(text: str):
    assert redacted(text) == text


def test_secrets_of_the_environment_are_known_whatever_their_form():
    environment = {
        "OPENAI_API_KEY": " 0123-opaque ",
        "Sweden__Key": "abcdef0123456789",
        "PALAVER_TOKEN": "one two 3 four",
        "Other": "AccountName=a;AccountKey=MDEyMzQ1Njc4OQ==;x=y",
        "DB_PASSWORD": "none",
        "PALAVER_TLS_KEY": "/etc/palaver/key.pem",
        "PALAVER_LISTEN": "127.0.0.1:50051",
    }
    assert set(secrets_in(environment)) == {
        "0123-opaque",
        "abcdef0123456789",
        "one two 3 four",
        "MDEyMzQ1Njc4OQ==",
    }


def test_the_log_has_no_secret_of_an_error_or_its_cause(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_API_KEY", "0123-opaque")
    error = RuntimeError(f"GET https://h/?sig={SECRET}")
    error.__cause__ = ValueError("refused: 0123-opaque")
    record = logging.LogRecord("n", logging.ERROR, "p", 1, "calling %s", ("http://u:pass1@h",), None)
    record.exc_info = (type(error), error, None)
    text = TextFormatter(secrets_in(os.environ)).format(record)
    assert "RuntimeError: GET https://h/?[query]" in text
    for secret in ("0123-opaque", "pass1", SECRET):
        assert secret not in text
