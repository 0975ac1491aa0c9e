"""`make bench-crowd`: what a hub does with a thousand spokes that have nothing but their links.

One real hub, started as `hub serve`; all spokes in this process, on the same processors, so times are what two programs
on one machine take together. Printed are: the memory of a link that is idle (the hub's resident memory, its Valkey not
counted), the processor time of all idle links, the time for one spawn to each spoke from one request to the last
recorded answer, and the storm after the hub was restarted or killed: how long until all are back, and how long a
request of the API took meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psutil

from tests.crowd import Crowd
from tests.integration.hub.hub_node import HubNode, spawn_request
from tests.spoke_node import eventually

_IDLE_S: Final = 10.0
_GAP_S: Final = 0.02
_DEADLINE_S: Final = 300.0


def _tell(name: str, value: str) -> None:
    print(f"{name:<52}{value:>20}", flush=True)


def _rss(node: HubNode) -> int:
    return int(psutil.Process(node.pid).memory_info().rss)


def _cpu_s(node: HubNode) -> float:
    times = psutil.Process(node.pid).cpu_times()
    return float(times.user + times.system)


async def _idle(node: HubNode, crowd: Crowd, before: int) -> None:
    count, started = len(crowd.members), time.monotonic()
    await crowd.until_up(count, _DEADLINE_S)
    _tell("all links open after", f"{time.monotonic() - started:.2f} s")
    _tell("memory of an idle link", f"{(_rss(node) - before) / count / 1024:.1f} KiB")
    cpu = _cpu_s(node)
    await asyncio.sleep(_IDLE_S)
    _tell("processor time of the hub, all links idle", f"{(_cpu_s(node) - cpu) / _IDLE_S * 100:.1f} %")


async def _spawn_to_each(node: HubNode, crowd: Crowd) -> None:
    request = spawn_request("nobody", taskId="T-crowd")
    del request["spoke"]
    cpu, started = _cpu_s(node), time.monotonic()
    status, answer = await node.call("POST", "/api/v1/agents/place", request)
    assert (status, answer["accepted"]) == (202, len(crowd.members)), answer
    _tell("one request for a spawn to each, answered after", f"{time.monotonic() - started:.2f} s")

    async def delivered() -> bool:
        _, page = await node.call("GET", "/api/v1/agents?taskId=T-crowd&status=pending&limit=1")
        return not page["agents"]

    await eventually(delivered, "all are delivered", _DEADLINE_S)
    _tell("and all of them recorded as accepted after", f"{time.monotonic() - started:.2f} s")
    _tell("processor time of the hub for each", f"{(_cpu_s(node) - cpu) / len(crowd.members) * 1000:.2f} ms")
    assert all(len(member.agents) == 1 for member in crowd.members)


@asynccontextmanager
async def _asking(node: HubNode) -> AsyncIterator[list[float]]:
    """Ask the API all the while; yields the ms that each answer took."""
    took: list[float] = []

    async def ask() -> None:
        while True:
            started = time.monotonic()
            await node.call("GET", "/api/v1/agents?limit=10")
            took.append((time.monotonic() - started) * 1000)
            await asyncio.sleep(_GAP_S)

    task = asyncio.create_task(ask())
    try:
        yield took
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _storm(node: HubNode, crowd: Crowd, how: str) -> None:
    failed = crowd.failed
    await (node.terminate() if how == "restarted" else node.kill9())
    await eventually(lambda: not crowd.up, "all have noticed", _DEADLINE_S)
    await node.restart()
    started = time.monotonic()
    async with _asking(node) as took:
        await crowd.until_up(len(crowd.members), _DEADLINE_S)
        back_s = time.monotonic() - started
    cuts: list[Any] = statistics.quantiles(took, n=100) if len(took) > 1 else [0.0] * 99
    _tell(f"hub {how}: all are back after", f"{back_s:.2f} s")
    _tell("  dials that failed", str(crowd.failed - failed))
    _tell("  a request meanwhile, p50 and p99", f"{cuts[49]:.1f} and {cuts[98]:.1f} ms")


async def run(count: int, scratch: Path) -> None:
    """Measure and print."""
    with HubNode(scratch) as node:
        before = _rss(node)
        async with Crowd(node, count) as crowd:
            _tell("spokes", str(count))
            await _idle(node, crowd, before)
            await _spawn_to_each(node, crowd)
            for how in ("restarted", "killed"):
                await _storm(node, crowd, how)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="make bench-crowd", description=__doc__)
    parser.add_argument("--spokes", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubspoke-crowd-") as scratch:
        asyncio.run(run(options.spokes, Path(scratch)))


if __name__ == "__main__":
    main()
