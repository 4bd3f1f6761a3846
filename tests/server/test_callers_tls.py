"""Client certificates as callers, and certificates that change while the server serves."""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from palaver.v1 import assistant_service_pb2 as pb
from palaver.v1.assistant_service_pb2_grpc import AssistantServiceStub
from palaver_server.app import Application, application
from palaver_server.settings import Settings, SettingsError
from tests.support.callers import CallersFile, Metadata
from tests.support.issuer import AUDIENCE, Issuer
from tests.support.statuses import failure_of

UNAUTHENTICATED, PERMISSION_DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED

Pair = tuple[bytes, bytes]
"""A private key and its certificate chain, in PEM."""


class Authority:
    """An authority that issues certificates with any names."""

    def __init__(self) -> None:
        self._ca = trustme.CA()
        self.pem = self._ca.cert_pem.bytes()

    def server(self) -> Pair:
        return self._pair(self._ca.issue_cert("localhost", "127.0.0.1"))

    def client(self, *names: str, common_name: str | None = None) -> Pair:
        return self._pair(self._ca.issue_cert(*names, common_name=common_name))

    def client_with_uri(self, uri: str, *more: x509.GeneralName) -> Pair:
        """Issues a certificate with a URI, which trustme has no names for."""
        key, chain = self.client("unused.example")
        certificate = x509.load_pem_x509_certificate(chain)
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), *more])
        builder = (
            x509.CertificateBuilder()
            .subject_name(certificate.subject)
            .issuer_name(certificate.issuer)
            .public_key(certificate.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(certificate.not_valid_before_utc)
            .not_valid_after(certificate.not_valid_after_utc)
            .add_extension(names, critical=False)
        )
        return key, builder.sign(self._ca._private_key, hashes.SHA256()).public_bytes(Encoding.PEM)

    @staticmethod
    def _pair(issued: trustme.LeafCert) -> Pair:
        return issued.private_key_pem.bytes(), b"".join(pem.bytes() for pem in issued.cert_chain_pems)


class Files:
    """The PEM files of a server."""

    def __init__(self, folder: Path) -> None:
        self.key, self.certificate = folder / "key.pem", folder / "certificate.pem"
        self.client_ca = folder / "clients.pem"

    def write(self, pair: Pair, clients: Authority | None = None) -> None:
        self.key.write_bytes(pair[0])
        self.certificate.write_bytes(pair[1])
        if clients is not None:
            self.client_ca.write_bytes(clients.pem)


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> Files:
    files = Files(tmp_path)
    files.write(authority.server(), authority)
    return files


@pytest.fixture
def callers(tmp_path: Path) -> CallersFile:
    return CallersFile(tmp_path / "callers.toml")


@asynccontextmanager
async def serving(files: Files, callers: CallersFile | None = None, **settings: Any):
    chosen = Settings(
        **{
            "listen": "127.0.0.1:0",
            "data_dir": files.key.parent / "data",
            "tls_certificate": files.certificate,
            "tls_key": files.key,
            "callers": callers.path if callers else None,
            **settings,
        }
    )
    async with application(chosen, {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://127.0.0.1:1"}) as running:
        yield running


async def create(
    running: Application, authority: Authority, pair: Pair | None = None, metadata: Metadata | None = None
) -> Any:
    """Creates an assistant over a new connection, with a client certificate if there is one."""
    credentials = grpc.ssl_channel_credentials(authority.pem, *(pair or ()))
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.secure_channel(f"localhost:{running.port}", credentials, options) as channel:
        request = pb.CreateAssistantRequest(id="a", if_exists=pb.IF_EXISTS_KEEP)
        return await AssistantServiceStub(channel).CreateAssistant(request, metadata=metadata, timeout=30)


async def is_served(*arguments: Any) -> bool:
    try:
        await create(*arguments)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


class TestClientCertificates:
    PATTERN = "spiffe://prod/ns/pay/sa/*"

    async def test_a_name_in_the_certificate_identifies_the_caller(
        self, files: Files, authority: Authority, callers: CallersFile
    ):
        callers.write(
            payments={"client_certificate": self.PATTERN},
            till={"client_certificate": ["till.example", "*.tills.example"]},
            legacy={"client_certificate": "legacy-app", "access": "read"},
        )
        async with serving(files, callers, tls_client_ca=files.client_ca) as running:
            await create(running, authority, authority.client_with_uri("spiffe://prod/ns/pay/sa/api"))
            for names in (["till.example"], ["other.example", "1.tills.example"]):
                await create(running, authority, authority.client(*names))
            failure = await failure_of(create(running, authority, authority.client(common_name="legacy-app")))
            assert failure.code is PERMISSION_DENIED
            assert '"legacy"' in failure.text

    async def test_a_certificate_of_nobody_is_refused(self, files: Files, authority: Authority, callers: CallersFile):
        callers.write(payments={"client_certificate": self.PATTERN}, till={"client_certificate": "till.example"})
        strangers = {
            "another service": authority.client_with_uri("spiffe://prod/ns/ship/sa/api"),
            "another trust domain": authority.client_with_uri("spiffe://test/ns/pay/sa/api"),
            "a longer DNS name": authority.client("till.example.evil.example"),
            "a mail address": authority.client("till.example@evil.example"),
            "the common name beside a DNS name": authority.client("evil.example", common_name="till.example"),
            "the common name beside a URI": authority.client_with_uri("spiffe://evil/x"),
            "the URI as a DNS name": authority.client("xspiffe.example", common_name="spiffe://prod/ns/pay/sa/api"),
        }
        async with serving(files, callers, tls_client_ca=files.client_ca) as running:
            for name, pair in strangers.items():
                failure = await failure_of(create(running, authority, pair))
                assert (failure.code, failure.reason) == (UNAUTHENTICATED, "UNAUTHENTICATED"), name
                words = "credentials are missing" if name == "a mail address" else "the client certificate is not one"
                assert failure.text.startswith(words)

    async def test_a_connection_without_a_trusted_certificate_is_not_served(
        self, files: Files, authority: Authority, callers: CallersFile
    ):
        callers.write(till={"client_certificate": "till.example"})
        async with serving(files, callers, tls_client_ca=files.client_ca) as running:
            assert not await is_served(running, authority)
            assert not await is_served(running, authority, Authority().client("till.example"))
            assert await is_served(running, authority, authority.client("till.example"))

    async def test_a_key_or_a_token_counts_before_the_certificate(
        self, files: Files, authority: Authority, callers: CallersFile
    ):
        callers.write(gateway={"client_certificate": "gateway.example"}, audit={"access": "read"})
        pair = authority.client("gateway.example")
        async with serving(files, callers, tls_client_ca=files.client_ca) as running:
            await create(running, authority, pair)
            failure = await failure_of(create(running, authority, pair, callers.as_caller("audit")))
            assert failure.code is PERMISSION_DENIED
            wrong = (("authorization", "Bearer wrong"),)
            assert (await failure_of(create(running, authority, pair, wrong))).code is UNAUTHENTICATED

    async def test_without_client_authorities_certificates_identify_nobody(
        self, files: Files, authority: Authority, callers: CallersFile
    ):
        callers.write(till={"client_certificate": "till.example"})
        with pytest.raises(SettingsError, match=r"\[callers.till\] client_certificate: needs PALAVER_TLS_CLIENT_CA"):
            async with serving(files, callers):
                pass
        callers.write(till={})
        async with serving(files, callers) as running:
            failure = await failure_of(create(running, authority, authority.client("till.example")))
            assert failure.code is UNAUTHENTICATED


class TestNewCertificates:
    async def test_a_certificate_is_replaced_under_load_without_a_failed_call(self, files: Files, authority: Authority):
        new = Authority()
        calls = 0

        async def load(trusted: Authority) -> None:
            nonlocal calls
            while True:
                await create(running, trusted)
                calls += 1

        async with serving(files) as running:
            # A client trusts the old and the new authority during a change, as a client's bundle would.
            both = Authority()
            both.pem = authority.pem + new.pem
            loads = [asyncio.create_task(load(both)) for _ in range(3)]
            async with grpc.aio.secure_channel(
                f"localhost:{running.port}", grpc.ssl_channel_credentials(authority.pem)
            ) as open_before:
                stub = AssistantServiceStub(open_before)
                await stub.CreateAssistant(pb.CreateAssistantRequest(id="a", if_exists=pb.IF_EXISTS_KEEP))
                files.write(new.server())
                while not await is_served(running, new):
                    pass
                assert not await is_served(running, authority)
                await stub.GetAssistant(pb.GetAssistantRequest(id="a"))  # connections that are open stay open
            before = calls
            while calls < before + 10:
                await create(running, new)
            assert not any(task.done() for task in loads), [task for task in loads if task.done()]
            for task in loads:
                task.cancel()
            await asyncio.gather(*loads, return_exceptions=True)

    async def test_client_authorities_are_replaced(self, files: Files, authority: Authority, callers: CallersFile):
        callers.write(till={"client_certificate": "till.example"})
        new = Authority()
        async with serving(files, callers, tls_client_ca=files.client_ca) as running:
            assert not await is_served(running, authority, new.client("till.example"))
            files.client_ca.write_bytes(new.pem)
            while not await is_served(running, authority, new.client("till.example")):
                pass
            assert not await is_served(running, authority, authority.client("till.example"))

    @pytest.mark.parametrize("broken", ["certificate", "key", "client_ca", "other key"])
    async def test_broken_files_keep_the_certificates_and_are_logged(
        self, files: Files, authority: Authority, caplog: pytest.LogCaptureFixture, broken: str
    ):
        pair = authority.client("till.example")
        async with serving(files, tls_client_ca=files.client_ca) as running:
            if broken == "other key":
                files.key.write_bytes(authority.server()[0])
            else:
                getattr(files, broken).write_text("nonsense")
            await running.reload()
            [line] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
            assert line.startswith("PALAVER_TLS_CERTIFICATE, PALAVER_TLS_KEY, PALAVER_TLS_CLIENT_CA: the ")
            assert line.endswith("; the previous version stays in use")
            assert await is_served(running, authority, pair)
            files.write(authority.server(), authority)
            await running.reload()
            assert await is_served(running, authority, pair)


async def test_an_issuer_is_reached_with_tls(
    tmp_path: Path, files: Files, authority: Authority, callers: CallersFile, monkeypatch: pytest.MonkeyPatch
):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    (tmp_path / "trusted.pem").write_bytes(authority.pem)
    async with Issuer(ssl_context=context) as issuer:
        callers.write(people={"issuer": issuer.url, "audience": AUDIENCE, "algorithms": ["ES256"]})
        token = (("authorization", f"Bearer {issuer.token()}"),)
        async with serving(files, callers) as running:
            failure = await failure_of(create(running, authority, metadata=token))
            assert "can't be fetched" in failure.text  # nobody trusts the authority of its certificate
            assert issuer.requests == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
        async with serving(files, callers) as running:
            await create(running, authority, metadata=token)
