"""The command: its arguments, its output and its exit status."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import NoReturn

from palaver_server.checks.items import check_all
from palaver_server.checks.outcomes import all_work, as_json, as_text
from palaver_server.settings import load

JSON = "--json"


def check(arguments: Sequence[str]) -> NoReturn:
    """Prints what works and what does not, and ends the program: with status 0 if nothing failed, else 1.

    Raises `SettingsError` if the settings are invalid.
    """
    settings = load([argument for argument in arguments if argument != JSON])
    logging.disable()  # the results say it all
    results = asyncio.run(check_all(settings, os.environ))
    print((as_json if JSON in arguments else as_text)(results), flush=True)  # noqa: T201 - the output of this command
    # A thread that waits for a dead file server can't be ended, and must not keep the program.
    os._exit(0 if all_work(results) else 1)
