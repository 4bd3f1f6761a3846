"""Azurite, the emulator of Azure Table Storage, started from npm on a free port.

    with Azurite() as azurite:
        account = azurite.account()  # an empty one
        TableServiceClient.from_connection_string(account.connection_string)

With a `certificate` and a `key`, it serves https and accepts the tokens of managed identities.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import Self

from tests.support.ports import free_port

FOLDER = Path(__file__).parent.parent / "azurite"
MAIN = FOLDER / "node_modules" / "azurite" / "dist" / "src" / "table" / "main.js"
KEY = b64encode(b"the key of all accounts of the tests").decode()
ACCOUNTS = [f"tests{number:04}" for number in range(2000)]


@dataclass(frozen=True)
class Account:
    """A storage account of the emulator."""

    name: str
    url: str
    """The address of its tables. The path is the name of the account."""
    key: str = KEY

    @property
    def connection_string(self) -> str:
        return self.connection_string_at(self.url)

    def connection_string_at(self, url: str) -> str:
        """Returns the connection string with another address, such as that of a proxy."""
        scheme = url.partition(":")[0]
        return f"DefaultEndpointsProtocol={scheme};AccountName={self.name};AccountKey={self.key};TableEndpoint={url};"


def why_missing() -> str | None:
    """Returns why Azurite can't be run, or None."""
    if _node() is None:
        return "Azurite needs Node.js, which is neither on the PATH nor in the virtual environment"
    if not MAIN.exists():
        return f"Azurite is not installed; run `make azurite`, or `npm ci` in {FOLDER}"
    return None


class Azurite:
    """The emulator. It runs for the time of the `with` block."""

    def __init__(self, certificate: Path | None = None, key: Path | None = None) -> None:
        self._https = [] if certificate is None else ["--oauth", "basic", "--cert", str(certificate), "--key", str(key)]
        self._names = iter(ACCOUNTS)
        self._process: subprocess.Popen[str] | None = None
        self.origin = ""

    def __enter__(self) -> Self:
        port = free_port()
        node = _node()
        assert node is not None, why_missing()
        self._process = subprocess.Popen(
            [node, MAIN, "--tablePort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck", "--silent",
             "--disableTelemetry", *self._https],
            env=os.environ | {"AZURITE_ACCOUNTS": ";".join(f"{name}:{KEY}" for name in ACCOUNTS)},
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        started = next((line for line in self._process.stdout if "successfully" in line), None)
        assert started, "Azurite did not start"
        self.origin = f"{'https' if self._https else 'http'}://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.communicate()

    def account(self) -> Account:
        """Returns an account that has not been used yet."""
        name = next(self._names)
        return Account(name, f"{self.origin}/{name}")


def _node() -> str | None:
    here = Path(sys.executable).parent  # where the wheel of Node.js installs it
    return shutil.which("node", path=os.pathsep.join([*os.environ.get("PATH", "").split(os.pathsep), str(here)]))
