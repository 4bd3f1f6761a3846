"""The TLS of the listener: certificates that can change while it serves."""

from __future__ import annotations

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization


class CertificateError(ValueError):
    """The certificate, its key or the authorities can't be used. The text says why."""


def certificate_configuration(
    certificate: bytes, key: bytes, client_authorities: bytes | None = None
) -> grpc.ServerCertificateConfiguration:
    """Returns the configuration for PEM texts; raises `CertificateError`.

    With bad texts, gRPC would only report that it can't listen, or refuse every connection.
    """
    chain = _certificates(certificate, "the certificate")
    try:
        private_key = serialization.load_pem_private_key(key, None)
    except TypeError:
        raise CertificateError("the key is encrypted, and must not be") from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError("the key is not a private key in PEM") from None
    try:
        is_pair = _public(private_key.public_key()) == _public(chain[0].public_key())
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError("the certificate has a key of an unknown kind") from None
    if not is_pair:
        raise CertificateError("the key is not that of the certificate")
    if client_authorities is not None:
        _certificates(client_authorities, "the file of client authorities")
    return grpc.ssl_server_certificate_configuration([(key, certificate)], client_authorities)


class ServerTls:
    """The credentials of a listener. New certificates are used from the next connection on."""

    def __init__(self, initial: grpc.ServerCertificateConfiguration, *, requires_client_certificate: bool) -> None:
        self._new: grpc.ServerCertificateConfiguration | None = None
        self.credentials = grpc.dynamic_ssl_server_credentials(
            initial,
            self._fetch,  # type: ignore[arg-type]  # None, which gRPC documents, is missing in its types
            requires_client_certificate,
        )

    def use(self, configuration: grpc.ServerCertificateConfiguration) -> None:
        """Replaces the certificates."""
        self._new = configuration

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns the certificates if they have changed. gRPC calls this in its own threads, one at a time."""
        changed, self._new = self._new, None
        return changed


def _certificates(data: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise CertificateError(f"{what} is not in PEM") from None


def _public(key: object) -> bytes:
    return key.public_bytes(  # type: ignore[attr-defined, no-any-return]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
