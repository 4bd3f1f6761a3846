"""The `palaver` command: assistants in the terminal and in scripts. It requires the extra `palaver[cli]`.

`printable`, for other programs that print the text of models in a terminal, does not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from palaver.cli._terminal import printable

__all__ = ["main", "printable"]

_EXTRA = ("click", "grpc_health", "prompt_toolkit", "rich")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits the program with its status.

    Args:
        arguments: The command-line arguments. The default is those of the program.
    """
    if "GRPC_VERBOSITY" not in os.environ and sys.stderr is not None:
        _mute_grpc()
    try:
        from palaver.cli._app import run  # noqa: PLC0415 - its dependencies may not be installed
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.exit(f"palaver: the command is not installed ({error.name} is missing); run: pip install 'palaver[cli]'")
    sys.exit(run(arguments))


def _mute_grpc() -> None:
    """Discards the log messages of gRPC's core, which only repeat the errors of the calls.

    The core reads its log level when it is loaded, before this code runs. But it always writes to file descriptor 2, so
    `sys.stderr` moves to another descriptor, and 2 leads to the null device.
    """
    sys.stderr.flush()
    sys.stderr = open(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors)  # noqa: SIM115
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
