"""`make bench-curve`: what an operation of the spoke's queue costs while so many agents wait in it.

The queue must not grow slower with its length: priorities, positions and turns are sorted sets. Printed is the time
that Valkey itself spends on one operation, so neither the disk nor the network blurs the curve, and its ratio to the
same in a queue of a thousand. That one waits in a server of its own and is measured in turn with the long one, so that
a busy machine is busy for both.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis

from common.clock import SystemClock
from common.commands import Context, Spawn
from common.embedded_valkey import EmbeddedValkey
from common.valkey import connect
from spoke.agent_record import AgentRef
from spoke.policy import UNLIMITED, Policy
from spoke.queue import Queue
from spoke.queue_terms import Bounds, Claim, KillStep, Sender, SpawnStep, StatusStep

SHORT: Final = 1_000
SIZES: Final = (SHORT, 10_000, 100_000, 1_000_000)
BATCH: Final = 500
REPEATS: Final = 50
ROUNDS: Final = 8
LISTED: Final = 50
SENDER: Final = Sender(
    "hub-eu_1", "hub-eu", Policy(agents=UNLIMITED, queued=UNLIMITED, rate_per_s=UNLIMITED, store_mib=0)
)
CONTEXT: Final = Context(repository="https://git.example.org/team/app.git", branch="main", workItems=["work"])
CLOCK: Final = SystemClock()
RAW: Final = b"x" * 400
Operation = Callable[[], Awaitable[object]]


def spawn(index: int = 0) -> SpawnStep:
    """A fresh spawn."""
    members = {"id": CLOCK.new_id(), "command": "spawn", "taskId": "T-1", "agentType": "worker", "context": CONTEXT}
    return SpawnStep(Spawn.model_validate(members), index)


class Line:
    """A queue, and what is done with it; every operation leaves it as long as the one before it found it."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._queue = Queue(client, "bench", Bounds(agents=UNLIMITED, queued=UNLIMITED))
        self._claims: list[Claim] = []
        self._accepted: list[str] = []

    async def fill(self, count: int) -> None:
        """Let so many more agents wait."""
        for first in range(0, count, BATCH):
            steps = [spawn(index) for index in range(min(BATCH, count - first))]
            await self._queue.accept(SENDER, CLOCK.new_id(), RAW, steps)

    async def server_us(self, operation: Operation) -> float:
        """Return the microseconds that the server spends on one operation, on average."""
        await self._client.config_resetstat()
        for _ in range(REPEATS):
            await operation()
        stats: Any = await self._client.info("commandstats")
        # What a script calls is in its own time; of `newest` the server knows only the one call.
        used = stats.get("cmdstat_evalsha") or stats["cmdstat_zrange"]
        return float(used["usec"]) / REPEATS

    async def accept(self) -> None:
        """Take a spawn; its answer tells its position."""
        step = spawn()
        self._accepted.append(step.spawn.id)
        await self._queue.accept(SENDER, CLOCK.new_id(), RAW, [step])

    async def status(self) -> None:
        """Tell what the last one waits for, and where it stands."""
        await self._queue.accept(SENDER, CLOCK.new_id(), RAW, [StatusStep(self._accepted[-1])])

    async def names(self) -> None:
        """Name the newest agents."""
        await self._queue.newest(LISTED)

    async def describe(self) -> None:
        """Read as many as a page of the operator's list has, each with its position."""
        ids = self._accepted[-LISTED:]
        await self._queue.describe([AgentRef(SENDER.tenant, agent_id) for agent_id in ids])

    async def kill(self) -> None:
        """End one that waits."""
        step = KillStep(self._accepted.pop(), 0, "killed_by_peer")
        await self._queue.accept(SENDER, CLOCK.new_id(), RAW, [step])

    async def claim(self) -> None:
        """Take the next to start it."""
        found = await self._queue.claim("bench", {SENDER.tenant: UNLIMITED})
        if found is None:
            raise RuntimeError("there was nothing to claim")
        self._claims.append(found)

    async def finish(self) -> None:
        """End one that was claimed."""
        await self._queue.finish(self._claims.pop(), "failed", {"reason": "exit_nonzero"})

    @property
    def operations(self) -> Mapping[str, Operation]:
        """All of them, in the order in which they can be done."""
        return {
            "accept": self.accept,
            "status": self.status,
            "list": self.names,
            "describe 50": self.describe,
            "kill": self.kill,
            "claim": self.claim,
            "finish": self.finish,
        }


async def measure(lines: tuple[Line, Line]) -> dict[str, tuple[float, float]]:
    """Return the cost of each operation in both queues; they are as long afterwards as before."""
    found: dict[str, tuple[float, float]] = {}
    for _ in range(ROUNDS):
        for name in lines[0].operations:
            costs = [await line.server_us(line.operations[name]) for line in lines]
            before = found.get(name, (0.0, 0.0))
            found[name] = before[0] + costs[0] / ROUNDS, before[1] + costs[1] / ROUNDS
        for line in lines:
            await line.fill(REPEATS)  # as many as were claimed
    return found


async def run(scratch: Path, sizes: tuple[int, ...]) -> None:
    """Fill step by step and print a row for each size."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(EmbeddedValkey(scratch / name)) for name in ("short", "long")]
        clients = [await stack.enter_async_context(connect(server.directory)) for server in servers]
        short, long = (Line(client) for client in clients)
        await short.fill(SHORT)
        length = 0
        print(f"{'queued':>9}" + "".join(f"{name:>18}" for name in short.operations))
        for size in sizes:
            await long.fill(size - length)
            length = size
            costs = await measure((short, long))
            row = "".join(f"{f'{ours:.0f} us ({ours / beside:.2f})':>18}" for beside, ours in costs.values())
            print(f"{size:>9}{row}", flush=True)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="make bench-curve", description=__doc__)
    parser.add_argument("--most", type=int, default=SIZES[-1], help="the longest queue")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubspoke-curve-") as scratch:
        asyncio.run(run(Path(scratch), tuple(size for size in SIZES if size <= options.most)))


if __name__ == "__main__":
    main()
