"""Certificates with their private keys, from PEM files."""

from __future__ import annotations

import os
import ssl
from pathlib import Path


def read_key_pair(certificate: str | os.PathLike[str], key: str | os.PathLike[str]) -> tuple[bytes, bytes]:
    """Returns the contents of the files of a private key and its certificate chain, in the order that gRPC takes.

    Raises:
        OSError: A file can't be read.
        ValueError: The files do not contain a certificate and its key.
    """
    pair = Path(key).read_bytes(), Path(certificate).read_bytes()
    try:
        # gRPC does not report invalid files, so Python's ssl module checks them first.
        # With an empty password, it does not ask for the password of an encrypted key on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:  # a subclass of OSError
        raise ValueError(f"{certificate} and {key} are not a certificate and its key in PEM: {error.reason}") from error
    return pair
