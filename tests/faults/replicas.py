"""Two servers over one store, and many callers of a single assistant: one line of turns, and nobody starves.

python -m tests.faults.replicas --store azure_tables --turns 1000
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import palaver
from tests.faults.callers import RECONNECT_TIMEOUT, Callers
from tests.faults.checker import HISTORY_MESSAGES, INSTRUCTIONS, Storyteller, Verdict, check
from tests.faults.storage import STORES, name, storage, variables
from tests.support.azurite import Account
from tests.support.server_process import server_process

ASSISTANT = "everybody's"
SERVERS = 2
CALLERS = 50

MAX_WAIT = 8 * CALLERS
"""Turns of others that a turn may wait for at most.

In a single queue it would be one of each caller, but the servers have the assistant by turns for some seconds each.
"""


@dataclass(frozen=True)
class Result:
    """What a run has shown."""

    store: str
    turns: int
    asked_twice: int
    """Turns with more than one completed model call."""
    longest_wait: int
    """In turns of others that were stored meanwhile."""
    longest_seconds: float
    shares: tuple[int, ...]
    """Turns of each server's callers."""
    seconds: float
    verdict: Verdict = field(default_factory=Verdict)
    surprises: list[str] = field(default_factory=list)

    @property
    def findings(self) -> list[str]:
        """What is wrong, a line each."""
        return [*self.verdict.findings, *self.surprises]

    @property
    def is_met(self) -> bool:
        """Whether the history is one line, each turn was paid for once, and nobody starved."""
        return self.longest_wait <= MAX_WAIT and not self.findings and not self.asked_twice

    def __str__(self) -> str:
        return (
            f"replicas, {self.store:<12} {self.turns:>6,} turns of {CALLERS} callers"
            f"   asked twice {self.asked_twice} findings {len(self.verdict.findings)} surprises {len(self.surprises)}"
            f"   shares {'/'.join(map(str, self.shares))}"
            f" longest wait {self.longest_wait} turns, {self.longest_seconds:.1f} s   {self.seconds:,.0f} s"
        )


async def run(turns: int, seed: int, account: Account | None = None) -> Result:
    """Runs until so many turns are acknowledged; then it checks."""
    start = time.monotonic()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stderr = stack.enter_context((folder / "stderr").open("wb"))
        endpoint = await stack.enter_async_context(Storyteller())
        settings = {"PALAVER_HISTORY_MESSAGES": str(HISTORY_MESSAGES), **variables(account)}
        groups: list[Callers] = []
        for number in range(SERVERS):
            server = await stack.enter_async_context(server_process(folder, endpoint.url, stderr=stderr, **settings))
            client = await stack.enter_async_context(
                palaver.AsyncClient(server.address, reconnect_timeout=RECONNECT_TIMEOUT)
            )
            await client.create_assistant(ASSISTANT, instructions=INSTRUCTIONS, if_exists="keep")
            log = groups[0].log if groups else None
            groups.append(Callers(client, [ASSISTANT], seed + number, may_leave=False, log=log))
        log = groups[0].log
        await asyncio.gather(*(callers.run(CALLERS // SERVERS, lambda: len(log.posted) < turns) for callers in groups))
        verdict = await check(server.stub, log, endpoint.prompts)
        asked = Counter(prompt[-1] for prompt in endpoint.prompts.values())
        waits = [wait for callers in groups for wait in callers.waits]
        return Result(
            name(account),
            len(log.acknowledged),
            sum(count > 1 for count in asked.values()),
            max(wait.turns for wait in waits),
            max(wait.seconds for wait in waits),
            tuple(len(callers.waits) for callers in groups),
            time.monotonic() - start,
            verdict,
            log.surprises,
        )


def main() -> None:
    """Reads the arguments, runs, and judges."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", choices=STORES, default="azure_tables")
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with storage(arguments.store) as account:
        result = asyncio.run(run(arguments.turns, arguments.seed, account))
    print(*result.findings[:20], result, sep="\n")
    sys.exit(not result.is_met)


if __name__ == "__main__":
    main()
