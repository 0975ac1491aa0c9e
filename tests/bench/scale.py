"""`make bench-scale`: what the page, the API and the command line of a hub cost with few agents and with many.

Two real hubs run side by side, started as `hub serve`, one with 1,000 agents in its store and one with 100,000
(tests/bench/history.py). Each request goes to the one and to the other in turn, so that a busy machine is busy for
both; printed are the medians and their ratio, which is to be about 1. Times are to the last byte of the answer; of a
live part, to its first message. Then each lives through the same stream of changes, and is started anew.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import structlog

from common.clock import SystemClock
from common.embedded_valkey import EmbeddedValkey
from common.scripts import ScriptSet
from common.valkey import connect
from hub.keyspace import Keyspace
from hub.retention import Bounds, Retention
from tests.bench.history import DEAD, SPOKES, History, task_of
from tests.envelopes import key_of
from tests.integration.hub.hub_node import HUB, HubNode, spawn_request
from tests.integration.hub.standin_spoke import StandinSpoke
from tests.integration.hub.visitor import Visitor

_MIB: Final = 1024 * 1024
_KEYS: Final = 100
"""Where the numbers of the spokes' keys begin."""
_REPEATS: Final = 30
_COMMANDS: Final = 5
_CHANGES_S: Final = 10.0
_CHANGES_PER_S: Final = 50


@dataclass
class Subject:
    """One of the hubs that are compared, with `count` agents."""

    node: HubNode
    count: int
    session: aiohttp.ClientSession
    visitor: Visitor
    agent_id: str = ""
    deep: str = ""
    """A cursor near the oldest agents."""

    async def get(self, path: str) -> Any:
        """Ask the API and return what it answers."""
        headers = {"Authorization": f"Bearer {self.node.token}"}
        async with self.session.get(self.node.url + path, headers=headers) as response:
            assert response.status == 200, await response.text()
            return await response.read() if "json" not in response.content_type else await response.json()

    @property
    def rss(self) -> int:
        """The resident memory of `hub serve`, its Valkey not counted."""
        return int(psutil.Process(self.node.pid).memory_info().rss)

    @property
    def cpu_s(self) -> float:
        """The processor time that it has used."""
        times = psutil.Process(self.node.pid).cpu_times()
        return float(times.user + times.system)


Act = Callable[[Subject], Awaitable[object]]


def page(path: str) -> Act:
    """Look at a page, as a browser that is logged in."""

    async def act(subject: Subject) -> None:
        answer = await subject.visitor.look(_at(path, subject))
        assert answer.status == 200, answer.text

    return act


def live(path: str) -> Act:
    """Open a live part of a page and wait for what it shows first."""

    async def act(subject: Subject) -> None:
        async with subject.visitor.watch(_at(path, subject)) as messages:
            await anext(messages)

    return act


def api(path: str) -> Act:
    """Ask the API."""
    return lambda subject: subject.get(_at(path, subject))


def place(count: int) -> Act:
    """Spawn where there is least to do."""

    async def act(subject: Subject) -> None:
        request = {**spawn_request("any", taskId="T-place"), "count": count}
        del request["spoke"]
        status, answer = await subject.node.call("POST", "/api/v1/agents/place", request)
        assert status == 202, answer

    return act


def command(*arguments: str) -> Act:
    """Run the command line in a process of its own."""

    async def act(subject: Subject) -> None:
        process = await asyncio.create_subprocess_exec(
            *(str(HUB), "--dir", str(subject.node.directory), *arguments),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert await process.wait() == 0

    return act


def _at(path: str, subject: Subject) -> str:
    task = task_of(subject.count // 2)
    return path.format(agent=subject.agent_id, deep=subject.deep, task=task, dead=DEAD)


_LIST: Final = "/api/v1/agents?limit=10"
"""As many as even the rarest filter finds among a thousand, so that both hubs answer with as much."""
REQUESTS: Final[Mapping[str, Act]] = {
    "page /": page("/"),
    "page /agents": page("/agents"),
    "page /agents?status=completed": page("/agents?status=completed"),
    "page /agents, the oldest": page("/agents?cursor={deep}"),
    "page /agents/ID": page("/agents/{agent}"),
    "page /spokes/spoke-0": page("/spokes/spoke-0"),
    "live overview": live("/live/overview"),
    "live agents": live("/live/agents?"),
    "live agent": live("/live/agents/{agent}"),
    "list": api(_LIST),
    "list, 1000": api("/api/v1/agents?limit=1000"),
    "list, the oldest": api(_LIST + "&cursor={deep}"),
    "list, by status": api(_LIST + "&status=failed"),
    "list, by spoke": api(_LIST + "&spoke=spoke-0"),
    "list, by task": api(_LIST + "&taskId={task}"),
    "list, by reason": api(_LIST + "&reason={dead}"),
    "list, by spoke and status": api(_LIST + "&spoke=spoke-1&status=completed"),
    "list, by spoke and status, none": api(_LIST + "&spoke=spoke-0&status=failed"),
    "one agent": api("/api/v1/agents/{agent}"),
    "metrics": api("/metrics"),
    "spawn --count 1": place(1),
}
COMMANDS: Final[Mapping[str, Act]] = {
    "hub list": command("list"),
    "hub list --status failed": command("list", "--status", "failed"),
    "hub top --once": command("top", "--once"),
}


def tell(name: str, unit: str, values: Sequence[float]) -> None:
    """Print a row: what was measured at the small hub and at the large one."""
    small, large = values
    print(f"{name:<34}{small:>12.2f}{large:>12.2f} {unit:<4}{large / small:>8.2f}", flush=True)


async def compare(name: str, act: Act, subjects: list[Subject], repeats: int) -> None:
    """Do it to each in turn, and print the medians; the first time does not count."""
    took: list[list[float]] = [[] for _ in subjects]
    for subject in subjects:
        await act(subject)
    for _ in range(repeats):
        for subject, times in zip(subjects, took, strict=True):
            started = time.perf_counter()
            await act(subject)
            times.append((time.perf_counter() - started) * 1000)
    tell(name, "ms", [statistics.median(times) for times in took])


async def filled(scratch: Path, count: int) -> HubNode:
    """Return a hub with so many agents, not started."""
    node = HubNode(scratch, id=f"hub-{count}", toml="[retention]\nended_agents = 0\n")
    peers = [node.add_peer(f"spoke-{at}", key_of(_KEYS + at).public, None) for at in range(SPOKES)]
    async with EmbeddedValkey(node.place.valkey) as server, connect(server.directory) as client:
        await History(client, node.id, peers).grow(0, count)
    return node


async def sweep(subjects: list[Subject]) -> None:
    """Have the retention forget 20 agents, several times."""

    async def act(subject: Subject) -> None:
        async with connect(subject.node.place.valkey) as client:
            ended = int(await client.zcard(f"{Keyspace(subject.node.id).prefix}ended"))
            bounds = Bounds(ended_days=0, ended_agents=ended - 20)
            retention = Retention(client, Keyspace(subject.node.id), ScriptSet("hub"), bounds, SystemClock())
            assert await retention.prune() == 20

    await compare("retention, 20 agents", act, subjects, _COMMANDS * 2)


async def change(subject: Subject, spoke: StandinSpoke) -> None:
    """Spawn at a pace; each spawn changes twice, when it is asked for and when its spoke has it."""
    end, due = time.monotonic() + _CHANGES_S, time.monotonic()
    while due < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await subject.node.spawn(spoke.id)
        due += 1 / _CHANGES_PER_S


async def watch(subject: Subject, path: str, seen: list[float]) -> None:
    """Note when a live part said something new."""
    async with subject.visitor.watch(path) as messages:
        async for _ in messages:
            seen.append(time.monotonic())


async def stream(subject: Subject) -> tuple[float, float]:
    """Watch under a stream of changes; returns the ms of processor for each change, and messages a second."""
    seen: dict[str, list[float]] = {path: [] for path in ("/live/overview", "/live/agents?")}
    async with StandinSpoke(subject.node) as spoke:
        watchers = [asyncio.create_task(watch(subject, path, times)) for path, times in seen.items()]
        before = subject.cpu_s
        await change(subject, spoke)
        cpu_s = subject.cpu_s - before
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
    messages = sum(map(len, seen.values())) / len(seen)
    return cpu_s / (_CHANGES_S * _CHANGES_PER_S) * 1000, messages / _CHANGES_S


async def restart(subject: Subject) -> float:
    """Return the seconds from the start to `ready`."""
    await subject.node.terminate()
    started = time.monotonic()
    await subject.node.restart()
    return time.monotonic() - started


async def run(scratch: Path, counts: tuple[int, int], repeats: int) -> None:
    """Fill, measure and print."""
    async with AsyncExitStack() as stack:
        subjects = []
        for count in counts:
            node = stack.enter_context(await filled(scratch, count))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            subjects.append(Subject(node, count, session, await stack.enter_async_context(Visitor(node.url))))
        print(f"{'agents':<34}{counts[0]:>12}{counts[1]:>12}{'ratio':>13}")
        tell("memory of the hub, just started", "MiB", [subject.rss / _MIB for subject in subjects])
        for subject in subjects:
            await subject.visitor.log_in(subject.node.token)
            await find_places(subject)
        for name, act in REQUESTS.items():
            await compare(name, act, subjects, repeats)
        for name, act in COMMANDS.items():
            await compare(name, act, subjects, _COMMANDS)
        changed = [await stream(subject) for subject in subjects]
        tell("processor for a change, watched", "ms", [cpu_ms for cpu_ms, _ in changed])
        tell("messages of a live part", "/s", [rate for _, rate in changed])
        tell("memory of the hub, after all that", "MiB", [subject.rss / _MIB for subject in subjects])
        await sweep(subjects)
        tell("start to ready", "s", [await restart(subject) for subject in subjects])


async def find_places(subject: Subject) -> None:
    """Choose the agent that is looked at, and the cursor of the last page but one."""
    async with connect(subject.node.place.valkey) as client:
        index = f"{Keyspace(subject.node.id).prefix}agents"
        found: Any = [await client.zrange(index, rank, rank) for rank in (100, subject.count // 2)]
    subject.deep, subject.agent_id = (ids[0].decode() for ids in found)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(prog="make bench-scale", description=__doc__)
    parser.add_argument("--few", type=int, default=1_000)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=_REPEATS, help="requests of each kind to each hub")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory(prefix="hubspoke-scale-") as scratch:
        asyncio.run(run(Path(scratch), (options.few, options.many), options.repeats))


if __name__ == "__main__":
    main()
