"""Posts many turns to a real server and cancels a third of them: memory, tasks and sockets must stay flat.

    python -m tests.soak --turns 10000

The server, its callers and the endpoint share this process, so that a leak of any of them is visible. The last line and
the exit status say whether the second half of the run grew.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil

from palaver.v1 import assistant_service_pb2 as pb
from tests.support.calls import create_assistant
from tests.support.endpoint import Endpoint, Stream
from tests.support.palaver_server import Served, palaver_server

CALLERS = 20
MAX_GROWTH = 8 * 1024 * 1024
"""The most bytes by which the second half of a run may grow. The noise of the allocator was less than half of it."""


@dataclass(frozen=True)
class Sample:
    """The resources of the process at one moment."""

    turns: int
    memory: int
    tasks: int
    sockets: int

    def __str__(self) -> str:
        return f"{self.turns:>8,} {self.memory / 2**20:>9.1f} {self.tasks:>6} {self.sockets:>8}"


async def post(served: Served, assistant: str, choices: random.Random) -> str:
    """Posts a query and returns how it ended."""
    call = served.stub.PostUserQuery(pb.PostUserQueryRequest(id=assistant, user_message="Hello", max_tokens=50))
    leave_after = choices.choice([None, None, choices.randrange(3)])
    events = 0
    try:
        while leave_after is None or events < leave_after:
            if await call.read() is grpc.aio.EOF:
                return "completed"
            events += 1
    except grpc.aio.AioRpcError as error:
        return error.code().name
    call.cancel()
    return "left"


async def run(turns: int, seed: int) -> list[Sample]:
    """Posts the turns and returns ten samples."""
    choices, process = random.Random(seed), psutil.Process()
    samples: list[Sample] = []
    outcomes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        async with Endpoint() as endpoint, palaver_server(Path(folder), endpoint.url) as served:
            Endpoint.default = Stream(*["word "] * 20)
            for number in range(CALLERS):
                await create_assistant(served, f"a{number}")
            numbers: Iterator[int] = iter(range(turns))

            async def caller(number: int) -> None:
                for turn in numbers:
                    outcome = await post(served, f"a{number}", choices)
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1
                    endpoint.calls.clear()
                    if turn % (turns // 10) == turns // 10 - 1:
                        gc.collect()
                        samples.append(Sample(turn + 1, process.memory_info().rss, len(asyncio.all_tasks()),
                                              endpoint.connections))  # fmt: skip
                        print(samples[-1], flush=True)

            await asyncio.gather(*map(caller, range(CALLERS)))
            await served.application.stop(grace=10)
            print("outcomes:", ", ".join(f"{number:,} {name}" for name, number in sorted(outcomes.items())))
    return samples


def main() -> None:
    """Parses the arguments, runs, and exits with 1 if the second half grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=10_000, help="the number of turns (default: 10,000)")
    parser.add_argument("--seed", type=int, default=1, help="the seed of the random choices (default: 1)")
    arguments = parser.parse_args()
    print("   turns       MiB  tasks  sockets")
    samples = asyncio.run(run(arguments.turns, arguments.seed))
    half = samples[len(samples) // 2 - 1]
    growth = samples[-1].memory - half.memory
    flat = growth < MAX_GROWTH and samples[-1].tasks <= half.tasks + CALLERS
    print(f"{'flat' if flat else 'NOT FLAT'}: the second half grew by {growth / 2**20:+.1f} MiB")
    sys.exit(not flat)


if __name__ == "__main__":
    main()
