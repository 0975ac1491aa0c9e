"""`make bench-history`: what a spawn costs a hub as its history grows, and what that history takes to keep.

Two lines as in `make bench` (tests/bench/spawns.py), each a hub with a spoke behind a link: in front of the one lies a
history of a thousand agents, in front of the other one that grows to a million (tests/bench/history.py); nothing is
forgotten. They are measured in turn, so that a busy machine is busy for both. Printed are the processor time of all
processes for one spawn, the time the hub's Valkey spends in our scripts for it, both with their ratio, and for each
agent of the history memory and disk.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from common import logs
from common.trust_store import NewPeer
from tests.bench.history import SPOKES, History
from tests.bench.measure import processor_times
from tests.bench.spawns import Line, opened
from tests.envelopes import key_of
from tests.spoke_node import eventually

SHORT: Final = 1_000
SIZES: Final = (SHORT, 10_000, 100_000, 1_000_000)
_IN_FLIGHT: Final = 16
_SPAWNS: Final = 480
_ROUNDS: Final = 6
_INSTANCE: Final = "hub-eu"
_KEYS: Final = 100
"""Where the numbers of the spokes' keys begin."""
_KIB: Final = 1024
_REWRITE_S: Final = 300.0


def history_of(line: Line) -> History:
    """Return what fills a hub with agents of spokes that are not there."""
    peers = [
        line.stores.trust.add(NewPeer(f"past-{at}", "spoke", key_of(_KEYS + at).public, None, {}), "active", 0)
        for at in range(SPOKES)
    ]
    return History(line.client, _INSTANCE, peers)


async def spawn_all(line: Line) -> None:
    """Spawn so many, some at a time."""
    left = iter(range(_SPAWNS))

    async def caller() -> None:
        for _ in left:
            await line.spawn()

    await asyncio.gather(*(caller() for _ in range(_IN_FLIGHT)))


async def cost(line: Line) -> tuple[float, float]:
    """Return for one spawn the ms of processor of all processes, and the us of the hub's Valkey in scripts."""
    await line.client.config_resetstat()
    before = sum(processor_times().values())
    await spawn_all(line)
    used_s = sum(processor_times().values()) - before
    stats: Any = await line.client.info("commandstats")
    return used_s * 1000 / _SPAWNS, stats["cmdstat_evalsha"]["usec"] / _SPAWNS


async def kept(line: Line, empty: dict[str, Any], size: int) -> tuple[float, float]:
    """Return the KiB of memory and of disk that the store takes for each agent; the file is written anew for that."""

    async def is_written() -> bool:
        about: Any = await line.client.info("persistence")
        return not about["aof_rewrite_in_progress"] and not about["aof_rewrite_scheduled"]

    await line.client.bgrewriteaof()
    await eventually(is_written, "the append-only file is written anew", _REWRITE_S)
    about: Any = await line.client.info()
    memory, disk = ((about[name] - empty[name]) / size / _KIB for name in ("used_memory", "aof_current_size"))
    return memory, disk


async def compare(lines: Sequence[Line]) -> list[list[float]]:
    """Return processor time and script time of a spawn, each for all lines."""
    rounds = [[await cost(line) for line in lines] for _ in range(_ROUNDS)]
    return [[sum(each[at][what] for each in rounds) / _ROUNDS for at in range(len(lines))] for what in range(2)]


async def run(scratch: Path, sizes: tuple[int, ...]) -> None:
    """Fill step by step and print a row for each size."""
    async with AsyncExitStack() as stack:
        logs.configure(stack.enter_context((scratch / "hub.log").open("w")))
        short, long = [await stack.enter_async_context(opened(scratch, link=True)) for _ in range(2)]
        empty: Any = await long.client.info()
        await history_of(short).grow(0, SHORT)
        history, length = history_of(long), 0
        print(f"{'agents':>9}{'CPU ms a spawn':>18}{'scripts us':>18}{'KiB memory':>12}{'KiB disk':>10}")
        for size in sizes:
            await history.grow(length, size)
            length = size
            memory, disk = await kept(long, empty, size)
            await asyncio.gather(*map(spawn_all, (short, long)))
            row = "".join(f"{f'{ours:.2f} ({ours / beside:.2f})':>18}" for beside, ours in await compare((short, long)))
            print(f"{size:>9}{row}{memory:>12.2f}{disk:>10.2f}", flush=True)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="make bench-history", description=__doc__)
    parser.add_argument("--most", type=int, default=SIZES[-1], help="the longest history")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubspoke-history-") as scratch:
        asyncio.run(run(Path(scratch), tuple(size for size in SIZES if size <= options.most)))


if __name__ == "__main__":
    main()
