"""Kills a server again and again, at random moments and at every failpoint, while callers post and retry.

python -m tests.faults.kills --store sqlite --turns 2000 --kills 100
"""

from __future__ import annotations

import asyncio
import itertools
import random
import tempfile
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import palaver
from palaver_server.domain.stages import Stage
from tests.faults.callers import RECONNECT_TIMEOUT, Callers
from tests.faults.checker import HISTORY_MESSAGES, INSTRUCTIONS, Storyteller, Verdict, check
from tests.faults.command import main
from tests.faults.identity import NAME, identity
from tests.faults.skills import RecordingHost
from tests.faults.storage import name
from tests.support import table_proxy as faults
from tests.support.azurite import Account
from tests.support.ports import free_port
from tests.support.server_process import ServerProcess, server_process
from tests.support.table_proxy import TableProxy

ASSISTANTS = [f"assistant {number}" for number in range(10)]
CALLERS = 20
OWN_ASSISTANTS = [f"assistant of caller {number}" for number in range(CALLERS)]
LEASE_SECONDS = "1"
"""The minimum. After most kills, some assistants are blocked for this time."""


@dataclass(frozen=True)
class Result:
    """The outcome of a run."""

    store: str
    turns: int
    kills: int
    model_calls: int
    seconds: float
    verdict: Verdict = field(default_factory=Verdict)
    unexpected: list[str] = field(default_factory=list)

    @property
    def findings(self) -> list[str]:
        """The defects of the stored conversations and the unexpected results, a line for each."""
        return [*self.verdict.findings, *self.unexpected]

    @property
    def is_met(self) -> bool:
        """True if no turn was lost, duplicated, partially stored or forked."""
        return not self.findings

    def __str__(self) -> str:
        return (
            f"kill -9, {self.store:<12} {self.turns:>6,} turns {self.kills:>4} kills"
            f" {self.model_calls:>6,} model calls   lost {len(self.verdict.lost)}"
            f" duplicated {len(self.verdict.duplicated)} partial {len(self.verdict.partial)}"
            f" forked {len(self.verdict.forked)} unexpected {len(self.unexpected)}"
            f"   {self.seconds:,.0f} s"
        )


@dataclass
class _Run:
    callers: Callers
    choices: random.Random
    turns: int
    kills: int
    killed: int = 0

    def is_wanted(self) -> bool:
        """Returns whether the callers should continue."""
        return len(self.callers.log.acknowledged) < self.turns or self.killed < self.kills

    def turns_until_next_kill(self) -> int:
        """Returns a random number of turns that spreads the kills over the run."""
        return self.choices.randrange(1, 2 * self.turns // self.kills + 2)

    async def kill(self, server: ServerProcess, stage: Stage | None) -> None:
        """Waits until the server has died at its failpoint, or kills it at a random moment."""
        if stage is None:
            goal = len(self.callers.log.acknowledged) + self.turns_until_next_kill()
            async with self.callers.acknowledged:
                await self.callers.acknowledged.wait_for(lambda: len(self.callers.log.acknowledged) >= goal)
            await asyncio.sleep(self.choices.uniform(0, 0.05))  # a random moment of the turns under way
            with suppress(ProcessLookupError):
                server.process.kill()
        await server.process.wait()
        self.killed += 1


async def run(turns: int, kills: int, seed: int, account: Account | None = None) -> Result:
    """Runs until enough turns were acknowledged and enough servers killed. Then checks the store."""
    start = time.monotonic()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stderr = stack.enter_context((folder / "stderr").open("wb"))
        endpoint = await stack.enter_async_context(Storyteller())
        host = await stack.enter_async_context(RecordingHost())
        callers_file = identity(folder)
        variables = {
            "PALAVER_CALLERS": str(callers_file.path),
            "PALAVER_LEASE_DURATION": LEASE_SECONDS,
            "PALAVER_HISTORY_MESSAGES": str(HISTORY_MESSAGES),
            "PALAVER_SKILL_HOSTS": host.target,
        }
        if account is not None:
            proxy = await stack.enter_async_context(TableProxy(account))
            proxy.fault = faults.sometimes(seed, dropped=0.01, failed=0.01)
            variables["AzureWebJobsStorage"] = proxy.connection_string
        address = f"127.0.0.1:{free_port()}"
        client = await stack.enter_async_context(
            palaver.AsyncClient(address, token=callers_file.keys[NAME], reconnect_timeout=RECONNECT_TIMEOUT)
        )
        callers = Callers(client, ASSISTANTS, seed, own_assistants=OWN_ASSISTANTS)
        progress = _Run(callers, random.Random(seed), turns, kills)

        def server(**more: str) -> AbstractAsyncContextManager[ServerProcess]:
            metadata = callers_file.as_caller(NAME)
            return server_process(
                folder, endpoint.url, listen=address, stderr=stderr, metadata=metadata, **variables, **more
            )

        async with server():
            for assistant in (*ASSISTANTS, *OWN_ASSISTANTS):
                await client.create_assistant(assistant, instructions=INSTRUCTIONS)
        posting = asyncio.ensure_future(callers.run(CALLERS, progress.is_wanted))
        for stage in itertools.cycle([None, *Stage]):
            if posting.done():
                break
            armed = {"PALAVER_FAILPOINT": f"{stage.value}:{progress.turns_until_next_kill()}"} if stage else {}
            async with server(**armed) as running:
                killing = asyncio.ensure_future(progress.kill(running, stage))
                await asyncio.wait([posting, killing], return_when=asyncio.FIRST_COMPLETED)
                killing.cancel()
        await posting
        async with server() as running:
            verdict = await check(running.stub, callers.log, endpoint, host)
        log = callers.log
        return Result(
            name(account), len(log.acknowledged), progress.killed, endpoint.stories, time.monotonic() - start, verdict,
            log.unexpected,
        )  # fmt: skip


if __name__ == "__main__":
    main(__doc__, run, turns=2000, kills=100)
