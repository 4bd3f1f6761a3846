"""The command `palaver`: assistants in the terminal and in scripts. It needs the extra `palaver[cli]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

_EXTRA = ("click", "prompt_toolkit", "rich")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and ends the program with its exit status.

    Args:
        arguments: The arguments; those of the program by default.
    """
    if "GRPC_VERBOSITY" not in os.environ and sys.stderr is not None:
        _mute_grpc()
    try:
        from palaver.cli._app import run  # noqa: PLC0415 - what it imports may not be installed
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.exit(f"palaver: the terminal is not installed ({error.name} is missing); run: pip install 'palaver[cli]'")
    sys.exit(run(arguments))


def _mute_grpc() -> None:
    """Keeps gRPC's core from writing between our lines what the errors of calls tell anyway.

    It reads its setting when it is loaded, which is before any code of ours. But it knows standard error only by its
    number, so that moving ours to another one is enough.
    """
    sys.stderr.flush()
    sys.stderr = open(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors)  # noqa: SIM115
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
