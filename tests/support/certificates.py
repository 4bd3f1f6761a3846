"""Certificates of a temporary authority, as PEM files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme


@dataclass(frozen=True)
class Certificates:
    """The PEM files of an authority, and of a certificate that it has issued, for servers and for clients."""

    authority: Path
    certificate: Path
    key: Path

    @property
    def server_credentials(self) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials([(self.key.read_bytes(), self.certificate.read_bytes())])

    @property
    def mutual_server_credentials(self) -> grpc.ServerCredentials:
        """Credentials that require a certificate of the authority from every client."""
        pair = self.key.read_bytes(), self.certificate.read_bytes()
        return grpc.ssl_server_credentials([pair], self.authority.read_bytes(), require_client_auth=True)

    @property
    def channel_credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.authority.read_bytes())


def issue_certificates(folder: Path, authority: trustme.CA | None = None) -> Certificates:
    """Creates a certificate for this machine in a folder, and its authority unless it is given."""
    certificates = Certificates(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
    authority = authority or trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(certificates.authority))
    issued.cert_chain_pems[0].write_to_path(str(certificates.certificate))
    issued.private_key_pem.write_to_path(str(certificates.key))
    return certificates
