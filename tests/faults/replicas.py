"""Runs two servers on one store under many callers of one assistant: one sequence of turns, and nobody starves.

python -m tests.faults.replicas --store azure_tables --turns 1000
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import palaver
from tests.faults.callers import RECONNECT_TIMEOUT, Callers
from tests.faults.checker import HISTORY_MESSAGES, INSTRUCTIONS, Storyteller, Verdict, check
from tests.faults.command import main
from tests.faults.identity import NAME, identity
from tests.faults.skills import RecordingHost
from tests.faults.storage import name, variables
from tests.support.azurite import Account
from tests.support.server_process import server_process

ASSISTANT = "everybody's"
SERVERS = 2
CALLERS = 50

MAX_WAIT = 8 * CALLERS
"""The most turns of other callers that a turn may wait for.

In a single queue, it would wait for one of each caller. But the servers alternate, and each keeps the assistant for
some seconds.
"""


@dataclass(frozen=True)
class Result:
    """The outcome of a run."""

    store: str
    turns: int
    paid_twice: int
    """Turns for which more than one model call was completed."""
    longest_wait: int
    """The most turns of other callers that were stored while a turn waited."""
    longest_seconds: float
    shares: tuple[int, ...]
    """The number of turns of each server's callers."""
    seconds: float
    verdict: Verdict = field(default_factory=Verdict)
    unexpected: list[str] = field(default_factory=list)

    @property
    def findings(self) -> list[str]:
        """The defects of the stored conversations and the unexpected results, a line for each."""
        return [*self.verdict.findings, *self.unexpected]

    @property
    def is_met(self) -> bool:
        """True if the turns are one sequence, each was paid for once, and nobody starved."""
        return self.longest_wait <= MAX_WAIT and not self.findings and not self.paid_twice

    def __str__(self) -> str:
        return (
            f"replicas, {self.store:<12} {self.turns:>6,} turns of {CALLERS} callers"
            f"   paid twice {self.paid_twice} findings {len(self.verdict.findings)} unexpected {len(self.unexpected)}"
            f"   shares {'/'.join(map(str, self.shares))}"
            f" longest wait {self.longest_wait} turns, {self.longest_seconds:.1f} s   {self.seconds:,.0f} s"
        )


async def run(turns: int, seed: int, account: Account | None = None) -> Result:
    """Runs until enough turns were posted. Then checks the store."""
    start = time.monotonic()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stderr = stack.enter_context((folder / "stderr").open("wb"))
        endpoint = await stack.enter_async_context(Storyteller())
        host = await stack.enter_async_context(RecordingHost())
        callers_file = identity(folder)
        settings = {
            "PALAVER_CALLERS": str(callers_file.path),
            "PALAVER_HISTORY_MESSAGES": str(HISTORY_MESSAGES),
            "PALAVER_SKILL_HOSTS": host.target,
            **variables(account),
        }
        groups: list[Callers] = []
        for number in range(SERVERS):
            server = await stack.enter_async_context(
                server_process(folder, endpoint.url, stderr=stderr, metadata=callers_file.as_caller(NAME), **settings)
            )
            client = await stack.enter_async_context(
                palaver.AsyncClient(server.address, token=callers_file.keys[NAME], reconnect_timeout=RECONNECT_TIMEOUT)
            )
            await client.create_assistant(ASSISTANT, instructions=INSTRUCTIONS, if_exists="keep")
            log = groups[0].log if groups else None
            groups.append(Callers(client, [ASSISTANT], seed + number, may_leave=False, log=log))
        log = groups[0].log
        await asyncio.gather(*(callers.run(CALLERS // SERVERS, lambda: len(log.posted) < turns) for callers in groups))
        verdict = await check(server.stub, log, endpoint, host)
        model_calls = Counter(prompt[-1] for prompt in endpoint.prompts.values())
        waits = [wait for callers in groups for wait in callers.waits]
        return Result(
            name(account),
            len(log.acknowledged),
            sum(count > 1 for count in model_calls.values()),
            max(wait.turns for wait in waits),
            max(wait.seconds for wait in waits),
            tuple(len(callers.waits) for callers in groups),
            time.monotonic() - start,
            verdict,
            log.unexpected,
        )


if __name__ == "__main__":
    main(__doc__, run, store="azure_tables", turns=1000)
