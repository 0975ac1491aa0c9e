"""`python -m tests.bench.curve`: what an operation of the spoke's queue costs while so many agents wait in it.

The queue must not grow slower with its length: priorities, positions and turns are sorted sets. Printed is the time
that Valkey itself spends in our scripts for one operation, so neither the disk nor the network nor a busy machine
blurs the curve; the ratio is to the shortest queue.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from common.clock import SystemClock
from common.commands import Context, Spawn
from common.embedded_valkey import EmbeddedValkey
from common.valkey import connect
from spoke.policy import UNLIMITED, Policy
from spoke.queue import Queue
from spoke.queue_terms import Bounds, Claim, KillStep, Sender, SpawnStep, StatusStep

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
BATCH: Final = 500
REPEATS: Final = 200
SENDER: Final = Sender(
    "hub-eu_1", "hub-eu", Policy(agents=UNLIMITED, queued=UNLIMITED, rate_per_s=UNLIMITED, store_mib=0)
)
CONTEXT: Final = Context(repository="https://git.example.org/team/app.git", branch="main", workItems=["work"])
CLOCK: Final = SystemClock()
RAW: Final = b"x" * 400


def spawn(index: int = 0) -> SpawnStep:
    """A fresh spawn."""
    members = {"id": CLOCK.new_id(), "command": "spawn", "taskId": "T-1", "agentType": "worker", "context": CONTEXT}
    return SpawnStep(Spawn.model_validate(members), index)


async def fill(queue: Queue, count: int) -> None:
    """Let so many more agents wait."""
    for first in range(0, count, BATCH):
        steps = [spawn(index) for index in range(min(BATCH, count - first))]
        await queue.accept(SENDER, CLOCK.new_id(), RAW, steps)


async def server_us(client: Redis, operation: Callable[[], Awaitable[Any]]) -> float:
    """Return the microseconds that the server spends in scripts for one operation, on average."""
    await client.config_resetstat()
    for _ in range(REPEATS):
        await operation()
    stats: Any = await client.info("commandstats")
    return float(stats["cmdstat_evalsha"]["usec"]) / REPEATS


async def measure(client: Redis, queue: Queue) -> dict[str, float]:
    """Return the cost of each operation now; the queue is as long afterwards as before."""
    claims: list[Claim] = []
    accepted: list[str] = []

    async def accept() -> None:
        step = spawn()
        accepted.append(step.spawn.id)
        await queue.accept(SENDER, CLOCK.new_id(), RAW, [step])

    async def claim() -> None:
        found = await queue.claim("bench", {SENDER.tenant: UNLIMITED})
        if found is None:
            raise RuntimeError("there was nothing to claim")
        claims.append(found)

    async def finish() -> None:
        await queue.finish(claims.pop(), "failed", {"reason": "exit_nonzero"})

    async def status() -> None:
        await queue.accept(SENDER, CLOCK.new_id(), RAW, [StatusStep(accepted[-1])])

    async def kill() -> None:
        step = KillStep(accepted.pop(), 0, "killed_by_peer")
        await queue.accept(SENDER, CLOCK.new_id(), RAW, [step])

    operations = {"accept": accept, "status": status, "kill queued": kill, "claim": claim, "finish": finish}
    found = {name: await server_us(client, operation) for name, operation in operations.items()}
    await fill(queue, REPEATS)  # as many as were killed and finished, less those that were accepted
    return found


async def run(scratch: Path, sizes: tuple[int, ...]) -> None:
    """Fill step by step and print a row for each size."""
    bounds = Bounds(agents=UNLIMITED, queued=UNLIMITED)
    first: dict[str, float] = {}
    length = 0
    async with EmbeddedValkey(scratch) as server, connect(server.directory) as client:
        queue = Queue(client, "bench", bounds)
        for size in sizes:
            await fill(queue, size - length)
            length = size
            costs = await measure(client, queue)
            first = first or costs
            row = "  ".join(f"{name} {cost:5.0f} us ({cost / first[name]:4.2f})" for name, cost in costs.items())
            print(f"{size:>9} queued   {row}", flush=True)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.curve", description=__doc__)
    parser.add_argument("--most", type=int, default=SIZES[-1], help="the longest queue")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubspoke-curve-") as scratch:
        asyncio.run(run(Path(scratch), tuple(size for size in SIZES if size <= options.most)))


if __name__ == "__main__":
    main()
