"""Tokens of an issuer: which ones identify a caller, and what happens while the issuer is down, slow or changing."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from palaver.v1 import assistant_service_pb2 as pb
from palaver_server.callers import issuers
from palaver_server.domain.limits import MAX_ISSUER_RESPONSE_BYTES
from tests.support.callers import CallersFile, bearer
from tests.support.calls import query
from tests.support.endpoint import Endpoint
from tests.support.issuer import AUDIENCE, Issuer, Key, forged
from tests.support.palaver_server import Served, palaver_server
from tests.support.statuses import Failure, failure_of

UNAUTHENTICATED, PERMISSION_DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with Issuer() as running:
        yield running


@pytest.fixture
def callers(tmp_path: Path) -> CallersFile:
    return CallersFile(tmp_path / "callers.toml")


def serving(callers: CallersFile, endpoint: Endpoint | None = None) -> Any:
    url = endpoint.url if endpoint else None
    return palaver_server(callers.path.parent / "data", url, callers=callers.path)


def people(issuer: Issuer, **rules: Any) -> dict[str, Any]:
    return {"issuer": issuer.url, "audience": AUDIENCE, "algorithms": ["ES256"], "ids": ["{sub}.*"], **rules}


async def create(served: Served, token: str, name: str = "ann.1") -> Any:
    request = pb.CreateAssistantRequest(id=name, if_exists=pb.IF_EXISTS_KEEP)
    return await served.stub.CreateAssistant(request, metadata=bearer(token), timeout=30)


async def refused(served: Served, token: str) -> Failure:
    failure = await failure_of(create(served, token))
    assert failure.code is UNAUTHENTICATED
    assert failure.reason == "UNAUTHENTICATED"
    assert token not in failure.text
    return failure


class TestWhatATokenMustBe:
    async def test_each_user_reaches_only_assistants_of_its_own(self, callers: CallersFile, issuer: Issuer):
        callers.write(people=people(issuer))
        async with serving(callers) as served:
            await create(served, issuer.token(sub="ann"), "ann.1")
            await create(served, issuer.token(sub="bob"), "bob.1")
            for name in ("bob.1", "ann", "ann1", "*.1"):
                failure = await failure_of(create(served, issuer.token(sub="ann"), name))
                assert failure.code is PERMISSION_DENIED
                assert failure.violations == {
                    "id": f'must be among the ids of the caller "people" ({{sub}}.*), not {name!r}'
                }
            for sub in (None, "", "*", "ann.1"):
                assert (await failure_of(create(served, issuer.token(sub=sub), "ann.1.2"))).code is PERMISSION_DENIED

    @pytest.mark.parametrize(
        ("claims", "words"),
        [
            ({"exp": -61}, "the token has expired"),
            ({"exp": None}, "the token has no exp claim"),
            ({"nbf": 90}, "the token is not valid yet"),
            ({"aud": "api://other"}, "the token is for another audience"),
            ({"aud": ["api://other", "x"]}, "the token is for another audience"),
            ({"aud": None}, "the token is for another audience"),
            ({"aud": {"api://palaver": 1}}, "the token is for another audience"),
            ({"iss": "https://other.example"}, "the token is of an issuer that this server does not accept"),
            ({"iss": None}, "the token is of an issuer that this server does not accept"),
            ({"exp": "soon"}, "the token is not valid"),
        ],
    )
    async def test_a_token_with_other_claims_is_refused(
        self, callers: CallersFile, issuer: Issuer, claims: dict[str, Any], words: str
    ):
        callers.write(people=people(issuer))
        claims = {name: time.time() + value if isinstance(value, int) else value for name, value in claims.items()}
        async with serving(callers) as served:
            assert (await refused(served, issuer.token(**claims))).text == words

    @pytest.mark.parametrize("claims", [{"exp": -30}, {"nbf": 30}, {"iat": 30}, {"aud": ["x", AUDIENCE]}])
    async def test_clocks_may_differ_a_little_and_audiences_be_several(
        self, callers: CallersFile, issuer: Issuer, claims: dict[str, Any]
    ):
        callers.write(people=people(issuer))
        claims = {name: time.time() + value if isinstance(value, int) else value for name, value in claims.items()}
        async with serving(callers) as served:
            await create(served, issuer.token(**claims))

    async def test_forged_signatures_are_refused(self, callers: CallersFile, issuer: Issuer):
        callers.write(people=people(issuer, algorithms=["RS256", "ES256", "EdDSA"]), shop={})
        claims, kid = issuer.claims(), issuer.key.id
        public = issuer.key.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

        def hs256(secret: bytes, **header: Any) -> str:
            unsigned = forged(claims, {"alg": "HS256", "typ": "JWT", "kid": kid, **header}).rstrip(".")
            return f"{unsigned}.{forged({}, {}, hmac.digest(secret, unsigned.encode(), hashlib.sha256)).split('.')[2]}"

        good = issuer.token()
        other = Key("ES256", kid)
        foreign = Key("RS256", kid)
        tokens = {
            "unsigned": forged(claims, {"alg": "none"}),
            "unsigned in capitals": forged(claims, {"alg": "NoNe", "kid": kid}),
            "no algorithm": forged(claims, {"kid": kid}, b"x"),
            "algorithm that is no text": forged(claims, {"alg": ["ES256"], "kid": kid}, b"x"),
            "HS256 with the public key": hs256(public),
            "HS256 with an empty secret": hs256(b""),
            "another key with the same id": other.sign(claims),
            "a key of another type": foreign.sign(claims),
            "a key in the token": other.sign(claims, jwk=other.public),
            "a key set in the token": other.sign(claims, jku="http://127.0.0.1:1/keys"),
            "a changed claim": ".".join(
                (good.split(".")[0], issuer.token(sub="bob").split(".")[1], good.split(".")[2])
            ),
            "no signature": good.rpartition(".")[0] + ".",
            "an unknown extension": issuer.key.sign(claims, crit=["exp2"], exp2=1),
            "an empty signature of an algorithm": forged(claims, {"alg": "ES256", "kid": kid}, b"\0" * 64),
            "parts that are no JSON": "a.b.c",
            "claims that are a list": forged([1], {"alg": "ES256", "kid": kid}, b"x"),  # type: ignore[arg-type]
            "an issuer that is a list": forged({**claims, "iss": [issuer.url]}, {"alg": "ES256", "kid": kid}, b"x"),
            "a key id that is a list": forged(claims, {"alg": "ES256", "kid": [kid]}, b"x"),
            "text that is no Unicode": forged({**claims, "iss": "\ud800"}, {"alg": "ES256", "kid": "\ud800"}, b"x"),
            "deeply nested claims": ".".join(("e30", "W1tb" * 2000, "x")),
            "too few parts": good.rpartition(".")[0],
            "too many parts": good + ".x",
            "nothing": "..",
        }
        async with serving(callers) as served:
            await create(served, good)
            for name, token in tokens.items():
                failure = await failure_of(create(served, token))
                assert (failure.code, failure.reason) == (UNAUTHENTICATED, "UNAUTHENTICATED"), name
            await create(served, good)

    @pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
    async def test_each_algorithm_if_it_is_configured(self, callers: CallersFile, algorithm: str):
        others = [each for each in ("RS256", "ES256", "EdDSA") if each != algorithm]
        async with Issuer(algorithm=algorithm) as issuer:
            callers.write(people=people(issuer, algorithms=[algorithm]))
            async with serving(callers) as served:
                await create(served, issuer.token())
                callers.write(people=people(issuer, algorithms=others))
                await served.application.reload()
                failure = await refused(served, issuer.token())
                assert failure.text == "the token is signed with an algorithm that this server does not accept"

    async def test_rs256_is_the_default(self, callers: CallersFile):
        async with Issuer(algorithm="RS256") as issuer:
            callers.write(people={"issuer": issuer.url, "audience": AUDIENCE})
            async with serving(callers) as served:
                await create(served, issuer.token())

    async def test_keys_that_may_not_sign_tokens_are_ignored(self, callers: CallersFile, issuer: Issuer):
        callers.write(people=people(issuer, algorithms=["RS256", "ES256"]))
        encrypting, other_algorithm, good = Key("ES256", "enc"), Key("RS256", "512"), Key("ES256", "good")
        encrypting.public["use"] = "enc"
        other_algorithm.public["alg"] = "RS512"
        secret = {"kty": "oct", "kid": "oct", "k": "AAAA", "alg": "HS256"}
        junk: list[Any] = [None, 7, [], {}, {"kty": 1}, {"kty": "EC", "crv": ["P-256"]}, {"kty": "RSA", "n": 1}, secret]
        issuer.keys = [encrypting, other_algorithm, good]
        for entry in junk:
            issuer.keys.insert(0, Key("ES256", "junk"))
            issuer.keys[0].public = entry
        async with serving(callers) as served:
            await create(served, good.sign(issuer.claims()))
            for key in (encrypting, other_algorithm):
                await refused(served, key.sign(issuer.claims()))
            await refused(served, good.sign(issuer.claims(), kid=""))

    async def test_a_token_without_a_key_id_needs_an_issuer_with_one_key(self, callers: CallersFile, issuer: Issuer):
        callers.write(people=people(issuer))
        async with serving(callers) as served:
            await create(served, issuer.key.sign(issuer.claims(), kid=None))
        issuer.rotate(keeps_old=True)
        async with serving(callers) as served:
            await refused(served, issuer.key.sign(issuer.claims(), kid=None))


class TestRequiredClaims:
    @pytest.mark.parametrize(
        ("require", "claims"),
        [
            ({"scp": "chat"}, {"scp": "chat"}),
            ({"scp": "chat"}, {"scp": "openid chat email"}),
            ({"scope": ["chat", "email"]}, {"scope": "openid chat email"}),
            ({"roles": "Chat.Run"}, {"roles": ["Other", "Chat.Run"]}),
            ({"email_verified": True}, {"email_verified": True}),
            ({"department": "Human Resources"}, {"department": "Human Resources"}),
        ],
    )
    async def test_a_token_with_the_required_claims(
        self, callers: CallersFile, issuer: Issuer, require: Any, claims: Any
    ):
        callers.write(people=people(issuer, require=require))
        async with serving(callers) as served:
            await create(served, issuer.token(**claims))

    @pytest.mark.parametrize(
        ("require", "claims"),
        [
            ({"scp": "chat"}, {}),
            ({"scp": "chat"}, {"scp": "chatter chat2"}),
            ({"scp": "chat"}, {"scp": "Chat"}),
            ({"scp": "chat"}, {"roles": ["chat"]}),
            ({"scope": ["chat", "email"]}, {"scope": "chat"}),
            ({"roles": "Chat.Run"}, {"roles": "Other Chat.Run"}),
            ({"roles": "Chat.Run"}, {"roles": [["Chat.Run"]]}),
            ({"email_verified": True}, {"email_verified": "true"}),
            ({"level": 1}, {"level": True}),
            ({"department": "Human"}, {"department": "Human Resources"}),
        ],
    )
    async def test_a_valid_token_without_them_has_no_permission(
        self, callers: CallersFile, issuer: Issuer, require: Any, claims: Any
    ):
        callers.write(people=people(issuer, require=require))
        async with serving(callers) as served:
            failure = await failure_of(create(served, issuer.token(**claims)))
            assert (failure.code, failure.reason) == (PERMISSION_DENIED, "PERMISSION_DENIED")
            assert failure.text == f'the token lacks the claim {next(iter(require))} that the caller "people" requires'

    async def test_blocks_of_one_issuer_are_told_apart(self, callers: CallersFile, issuer: Issuer):
        callers.write(
            people=people(issuer, require={"scp": "chat"}),
            jobs=people(issuer, require={"roles": "Jobs"}, ids=["jobs.*"], access="read"),
            others=people(issuer, audience="api://others", ids=["others.*"]),
        )
        async with serving(callers) as served:
            await create(served, issuer.token(scp="chat"))
            assert '"jobs"' in (await failure_of(create(served, issuer.token(roles=["Jobs"])))).text
            await create(served, issuer.token(aud="api://others"), "others.1")

    @pytest.mark.parametrize("version", ["v1.0", "v2.0"])
    async def test_tokens_of_entra_id(self, callers: CallersFile, version: str):
        tenant, client = "6babcaad-604b-40ac-a9d7-9fd97c0b779f", "b0bcb8b1-2b25-4a55-8b6b-a7c0d6f2dbf2"
        oid, app = "690222be-ff1a-4d56-abd1-7e4f7d38e474", "0f7ab1ff-0d1f-4c54-9a60-6bb3f4f0ac10"
        # The issuer of v1 tokens ends in a slash, and their audience is the App ID URI.
        path = f"/{tenant}/v2.0" if version == "v2.0" else f"/{tenant}/"
        audience = client if version == "v2.0" else f"api://{client}"
        async with Issuer(path=path, algorithm="RS256") as issuer:
            rule = {"issuer": issuer.url, "audience": audience}
            callers.write(
                people={**rule, "require": {"scp": "chat"}, "ids": ["{oid}.*"]},
                apps={**rule, "require": {"roles": "Chat.Run"}, "ids": ["app.{oid}.*"]},
            )
            common = {"ver": version[:3], "tid": tenant, "aud": audience, "sub": "pairwise"}
            user = issuer.token(**common, oid=oid, scp="openid chat", preferred_username="ann@example.com")
            service = issuer.token(**common, oid=app, roles=["Chat.Run"], idtyp="app")
            async with serving(callers) as served:
                await create(served, user, f"{oid}.1")
                await create(served, service, f"app.{app}.1")
                for token, name in ((user, f"app.{oid}.1"), (service, f"{app}.1"), (user, f"{app}.1")):
                    assert (await failure_of(create(served, token, name))).code is PERMISSION_DENIED
                other = issuer.token(**{**common, "aud": "00000003-0000-0000-c000-000000000000"}, oid=oid, scp="chat")
                assert (await refused(served, other)).text == "the token is for another audience"


class TestLimitsOfUsers:
    async def test_each_user_has_limits_of_its_own(self, callers: CallersFile, issuer: Issuer, endpoint: Endpoint):
        callers.write(people=people(issuer, turns_per_minute=1))
        async with serving(callers, endpoint) as served:

            async def post(sub: str, **claims: Any) -> Any:
                token = issuer.token(sub=sub, **claims)
                request = query(id=f"{sub}.1")
                return await served.stub.PostUserQueryUnary(request, metadata=bearer(token), timeout=30)

            for name in ("ann", "bob"):
                await create(served, issuer.token(sub=name), f"{name}.1")
                await post(name)
                assert (await failure_of(post(name))).reason == "QUOTA_EXCEEDED"
            # In Entra ID, the same person has another `sub` in each app.
            await create(served, issuer.token(sub="eve", tid="t", oid="1"), "eve.1")
            await create(served, issuer.token(sub="eve2", tid="t", oid="1"), "eve2.1")
            await post("eve", tid="t", oid="1")
            assert (await failure_of(post("eve2", tid="t", oid="1"))).reason == "QUOTA_EXCEEDED"


class TestIssuers:
    async def test_new_keys_are_fetched_when_a_token_has_one(
        self, callers: CallersFile, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(issuers, "REFETCH_INTERVAL", 0.0)
        callers.write(people=people(issuer))
        async with serving(callers) as served:
            for _ in range(3):
                token = issuer.token()
                for _ in range(5):
                    await create(served, token)
                issuer.rotate()
            assert issuer.key_requests == 3
            await create(served, issuer.token())
            await refused(served, token)  # withdrawn

    async def test_unknown_keys_cause_at_most_one_fetch_a_minute(self, callers: CallersFile, issuer: Issuer):
        callers.write(people=people(issuer))
        stranger = Key("ES256", "x")
        async with serving(callers) as served:
            await create(served, issuer.token())
            tokens = [stranger.sign(issuer.claims(), kid=f"made-up-{number}") for number in range(50)]
            failures = await asyncio.gather(*(refused(served, token) for token in tokens))
            assert {failure.text for failure in failures} == {
                "the token is not signed with a key of its issuer that the server knows"
            }
            await create(served, issuer.token())
            assert issuer.key_requests == 1

    async def test_callers_with_one_unknown_key_share_a_fetch(
        self, callers: CallersFile, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(issuers, "REFETCH_INTERVAL", 0.0)
        callers.write(people=people(issuer))
        async with serving(callers) as served:
            old = issuer.token()
            await create(served, old)
            issuer.rotate(keeps_old=True)
            issuer.asked.clear()
            issuer.gate.clear()
            waiting = [asyncio.ensure_future(create(served, issuer.token())) for _ in range(20)]
            await issuer.asked.wait()
            await create(served, old)  # a known key does not wait for the issuer
            waiting[0].cancel()
            issuer.gate.set()
            await asyncio.gather(*waiting[1:])
            assert issuer.key_requests == 2

    async def test_known_keys_outlive_their_issuer(
        self, callers: CallersFile, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ):
        monkeypatch.setattr(issuers, "REFETCH_INTERVAL", 0.0)
        monkeypatch.setattr(issuers, "MAX_AGE", 0.0)  # every use asks for the keys again
        callers.write(people=people(issuer), shop={})
        async with serving(callers) as served:
            token = issuer.token()
            await create(served, token)
            await issuer.stop()
            for _ in range(5):
                await create(served, token)
            while "the known keys stay in use" not in caplog.text:
                await create(served, token)
            callers.write(people=people(issuer, access="admin"), shop={})
            await served.application.reload()
            await create(served, token)  # a new version of the file does not lose them
            await refused(served, Key("ES256", "new").sign(issuer.claims()))
            await issuer.start()
            issuer.rotate()
            await create(served, issuer.token())

    async def test_a_server_starts_without_its_issuer_and_finds_it_later(
        self, callers: CallersFile, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(issuers, "RETRY_INTERVAL", 0.0)
        callers.write(people=people(issuer), shop={"ids": ["ann.*"]})
        token = issuer.token()
        await issuer.stop()
        async with serving(callers) as served:
            failure = await refused(served, token)
            assert failure.text == "the keys of the token's issuer can't be fetched at the moment"
            assert failure.retry_delay is not None
            await create(served, callers.keys["shop"])
            await issuer.start()
            await create(served, token)

    async def test_a_slow_issuer_delays_only_its_unknown_keys(
        self, callers: CallersFile, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(issuers, "FETCH_TIMEOUT", 0.3)
        callers.write(people=people(issuer), shop={"ids": ["ann.*"]})
        issuer.gate.clear()
        async with serving(callers) as served:
            waiting = asyncio.ensure_future(refused(served, issuer.token()))
            await issuer.asked.wait()
            await create(served, callers.keys["shop"])
            assert "can't be fetched" in (await waiting).text

    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            ("redirect", "status 302"),
            ("status", "status 500"),
            ("large", "more than 262,144 bytes"),
            ("endless", "more than 262,144 bytes"),
            ("inflated", "UnicodeDecodeError"),
            ("text", "JSONDecodeError"),
            ("list", "not a JSON object"),
            ("deep", "RecursionError"),
        ],
    )
    async def test_an_answer_that_is_no_discovery_document_is_not_used(
        self, callers: CallersFile, issuer: Issuer, caplog: pytest.LogCaptureFixture, fault: str, words: str
    ):
        async with Issuer() as other:
            other.named = issuer.url
            document = json.dumps({"issuer": issuer.url, "jwks_uri": other.origin + "/keys"}).encode()
            location = other.url + "/.well-known/openid-configuration"
            answers: dict[str, Any] = {
                "redirect": lambda: web.Response(status=302, headers={"Location": location}, body=document),
                "status": lambda: web.Response(status=500, body=document),
                "large": lambda: web.Response(body=document + b" " * MAX_ISSUER_RESPONSE_BYTES),
                "endless": lambda: web.Response(body=_endless()),
                "inflated": lambda: web.Response(body=gzip.compress(document), headers={"Content-Encoding": "gzip"}),
                "text": lambda: web.Response(text="<html>"),
                "list": lambda: web.json_response([document.decode()]),
                "deep": lambda: web.Response(body=b"[" * 100_000),
            }
            issuer.answer = answers[fault]
            callers.write(people=people(issuer))
            async with serving(callers) as served:
                await refused(served, issuer.token())
                assert f"can't be fetched ({words})" in caplog.text
                assert other.requests == other.key_requests == issuer.key_requests == 0

    @pytest.mark.parametrize(
        ("jwks_uri", "named"),
        [
            ("http://127.0.0.2:9/keys", ""),
            ("http://127.0.0.1@127.0.0.2:9/keys", ""),
            ("file:///etc/passwd", ""),
            ("http://localhost@127.0.0.2:9/", ""),
            ("", "https://other.example"),
        ],
    )
    async def test_a_discovery_document_that_leads_elsewhere_is_not_used(
        self, callers: CallersFile, issuer: Issuer, caplog: pytest.LogCaptureFixture, jwks_uri: str, named: str
    ):
        issuer.jwks_uri, issuer.named = jwks_uri, named
        callers.write(people=people(issuer))
        async with serving(callers) as served:
            await refused(served, issuer.token())
            assert "its discovery document" in caplog.text
            assert issuer.key_requests == 0

    async def test_no_token_is_logged(self, callers: CallersFile, issuer: Issuer, caplog: pytest.LogCaptureFixture):
        caplog.set_level(logging.DEBUG)
        callers.write(people=people(issuer))
        tokens = [issuer.token(), issuer.token(exp=1), Key("ES256", "x").sign(issuer.claims())]
        async with serving(callers) as served:
            for token in tokens:
                await failure_of(create(served, token, "bob.1"))
        for token in tokens:
            assert not any(part in caplog.text for part in token.split("."))


async def _endless() -> AsyncIterator[bytes]:
    while True:
        yield b" " * 65_536
        await asyncio.sleep(0)
