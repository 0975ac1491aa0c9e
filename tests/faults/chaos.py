"""A hub and a spoke under load while everything that can be killed is killed, and the network between them cut.

    python -m tests.faults.chaos --seconds 60 --seed 7

Bounded in everything: at most `_MAX_AGENTS` agents, each with a lifetime of its own, and an alarm behind it all. When
the faults have stopped, what was promised is checked (`tests/faults/chaos_check.py`). Exit status 1: it was not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from common.keyfiles import load_signing_key
from spoke.queue import LEASE_MS
from tests.faults.chaos_check import endings, find_violations, is_over
from tests.faults.proxy import Proxy, Target
from tests.integration.hub.hub_node import HubNode
from tests.integration.spoke.repositories import make_repository
from tests.peer import new_id
from tests.spoke_node import SpokeNode, processes_of, run_in_process, tables
from tests.worker_process import WorkerProcess

_MAX_AGENTS: Final = 400
_SETTLE_S: Final = 120.0
_STARTS: Final = 5
_AWAY = (aiohttp.ClientError, OSError, AssertionError, TimeoutError, ValueError)
"""What asking a node raises while it is killed, cut off or starting."""
KINDS: Final[dict[str, tuple[list[str], int]]] = {
    "quick": (["print hello"], 10),
    "commits": (["commit made.txt"], 3),
    "goes on": (["write made.txt"], 4),
    "fails": (["exit 3"], 3),
    "crashes": (["signal SIGSEGV"], 1),
    "takes a while": (["sleep 3", "print done"], 5),
    "long": (["sleep 50"], 5),
    "stubborn": (["ignore SIGTERM", "sleep 50"], 1),
}
"""Work items of each kind of agent, and how many of a kind there are among 32."""
KILLED: Final = frozenset({"long", "stubborn"})
RESUMED: Final = frozenset({"goes on"})
_COMMANDS: Final = ["spawn", "status", "kill", "logs", "resume"]


@dataclass
class Asked:
    """An agent that was asked for; `acknowledged` once the hub has answered."""

    agent_id: str
    kind: str
    acknowledged: bool = False
    kill_acknowledged: bool = False
    resumed_after: int | None = None
    """The attempt in which it had ended when its resume was acknowledged."""


@dataclass
class Run:
    """One run of chaos."""

    seed: int
    hub: HubNode
    spoke: SpokeNode
    workers: list[WorkerProcess]
    """They work beside the one of the spoke itself."""
    to_spoke: Proxy
    to_hub: Proxy
    repository: Path
    random: random.Random
    asked: list[Asked] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    twins: set[str] = field(default_factory=set)
    """Agents of which two attempts were seen alive at once."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    hub_busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    spoke_busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    workers_busy: asyncio.Lock = field(default_factory=asyncio.Lock)


# --- load


async def spawn_agents(run: Run, per_s: float) -> None:
    """Ask for agents of all kinds, again and again for one whose answer did not come, until it is over."""
    kinds, weights = list(KINDS), [weight for _, weight in KINDS.values()]
    async with asyncio.TaskGroup() as group:
        while not run.over.is_set() and len(run.asked) < _MAX_AGENTS:
            asked = Asked(new_id(), run.random.choices(kinds, weights)[0])
            run.asked.append(asked)
            group.create_task(_ask_until_answered(run, asked))
            await _pause(run, run.random.expovariate(per_s))


async def _ask_until_answered(run: Run, asked: Asked) -> None:
    body = {
        "spoke": run.spoke.id, "agentId": asked.agent_id, "taskId": f"T-{asked.kind.replace(' ', '-')}",
        "agentType": "worker",
        "context": {"repository": f"file://{run.repository}", "branch": "main", "workItems": KINDS[asked.kind][0]},
        "maxAttempts": 3, "priority": run.random.randint(1, 10),
    }  # fmt: skip
    while not asked.acknowledged and not run.over.is_set():
        with contextlib.suppress(*_AWAY):
            status, answer = await _call(run, "POST", "/api/v1/agents", body)
            assert status == 202, answer
            asked.acknowledged = True
        await _pause(run, 0.1)
    if asked.acknowledged and asked.kind in KILLED:
        await _pause(run, run.random.uniform(0, 8))
        await _kill_until_answered(run, asked)
    if asked.acknowledged and asked.kind in RESUMED:
        await _resume_until_answered(run, asked)


async def _resume_until_answered(run: Run, asked: Asked) -> None:
    """Resume it once it has ended, again and again under the same id."""
    command_id, ended_in = new_id(), None
    while not run.over.is_set():
        with contextlib.suppress(*_AWAY):
            if ended_in is None:
                agent = await run.hub.agent(asked.agent_id)
                ended_in = agent["attempt"] if agent.get("status") in {"completed", "failed"} else None
            else:
                body = {"text": "go on", "commandId": command_id}
                status, answer = await _call(run, "POST", f"/api/v1/agents/{asked.agent_id}/resume", body)
                assert status == 200, answer
                asked.resumed_after = ended_in
                return
        await _pause(run, 0.2)


async def _kill_until_answered(run: Run, asked: Asked) -> None:
    give_up_at = time.monotonic() + _SETTLE_S
    while time.monotonic() < give_up_at:
        with contextlib.suppress(*_AWAY):
            status, answer = await _call(run, "POST", f"/api/v1/agents/{asked.agent_id}/kill", {"graceS": 1})
            assert status == 202, answer
            asked.kill_acknowledged = True
            return
        await asyncio.sleep(0.1)


async def _call(run: Run, method: str, path: str, body: Any) -> tuple[int, Any]:
    async with asyncio.timeout(5):
        return await run.hub.call(method, path, body)


async def _pause(run: Run, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await run.over.wait()


# --- faults


async def _bring_up(run: Run, node: HubNode | SpokeNode) -> None:
    """Start a node; one whose Valkey is killed while it starts ends, and whoever runs it starts it again."""
    for _ in range(_STARTS):
        try:
            return await node.restart()
        except AssertionError:
            run.faults["start again"] += 1
    raise AssertionError(f"{node.id} does not start:\n{node.log()[-2000:]}")


async def kill_hub(run: Run) -> bool:
    async with run.hub_busy:
        await run.hub.kill9()
        await asyncio.sleep(run.random.uniform(0, 0.5))
        await _bring_up(run, run.hub)
    return True


async def kill_spoke(run: Run) -> bool:
    async with run.spoke_busy:
        await run.spoke.kill9()
        await asyncio.sleep(run.random.uniform(0, 0.5))
        await _bring_up(run, run.spoke)
    return True


async def stop_spoke(run: Run) -> bool:
    """Stand still, and go on as if nothing had been."""
    async with run.spoke_busy:
        os.kill(run.spoke.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(run.random.uniform(0.2, 2))
        finally:
            os.kill(run.spoke.pid, signal.SIGCONT)
    return True


async def kill_worker(run: Run) -> bool:
    worker = run.random.choice(run.workers)
    async with run.workers_busy:
        await worker.end(signal.SIGKILL)
        await asyncio.sleep(run.random.uniform(0, 2))
        await asyncio.to_thread(worker.start)
    return True


async def stop_worker(run: Run) -> bool:
    """Stand still, sometimes for longer than a lease lasts, so that another one takes over."""
    worker = run.random.choice(run.workers)
    async with run.workers_busy:
        worker.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(run.random.choice([0.5, 2, 2, LEASE_MS / 1000 + 4]))
        finally:
            worker.send(signal.SIGCONT)
    return True


async def kill_hubs_valkey(run: Run) -> bool:
    return _kill_one(run, _with(run.hub.directory, "valkey-server"))


async def kill_spokes_valkey(run: Run) -> bool:
    return _kill_one(run, _with(run.spoke.directory, "valkey-server"))


async def kill_keeper(run: Run) -> bool:
    return _kill_one(run, [pid for pid in _keepers(run) if pid in processes_of(run.spoke.directory)])


async def kill_nursery(run: Run) -> bool:
    keepers = _keepers(run)
    return _kill_one(run, [pid for pid in _with(run.spoke.directory, "supervision.nursery") if pid not in keepers])


async def kill_agent(run: Run) -> bool:
    living = processes_of(run.spoke.directory)
    return _kill_one(run, [start["pid"] for start in run.spoke.executions() if start["pid"] in living])


async def cut_network(run: Run) -> bool:
    proxies = run.random.choice([[run.to_spoke], [run.to_hub], [run.to_spoke, run.to_hub]])
    for proxy in proxies:
        proxy.cut()
    await asyncio.sleep(run.random.choice([0, 0.3, 1.5]))
    for proxy in proxies:
        proxy.mend()
    return True


async def lose_answers(run: Run) -> bool:
    run.random.choice([run.to_spoke, run.to_hub]).swallow_answers(run.random.randint(1, 3))
    return True


FAULTS: Final[dict[Callable[[Run], Awaitable[bool]], int]] = {
    kill_hub: 2, kill_spoke: 3, stop_spoke: 1, kill_worker: 3, stop_worker: 1,
    kill_hubs_valkey: 2, kill_spokes_valkey: 3, kill_keeper: 4,
    kill_nursery: 2, kill_agent: 4, cut_network: 5, lose_answers: 5,
}  # fmt: skip


def _with(directory: Path, what: str) -> list[int]:
    return [pid for pid, line in processes_of(directory).items() if what in line]


def _keepers(run: Run) -> set[int]:
    pids = set()
    for file in run.spoke.directory.glob("runs/*/*/*/keeper.json"):
        with contextlib.suppress(OSError, ValueError):
            if not file.with_name("exit.json").exists():
                pids.add(int(json.loads(file.read_text())["pid"]))
    return pids


def _kill_one(run: Run, pids: list[int]) -> bool:
    if not pids:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(run.random.choice(pids), signal.SIGKILL)
    return True


async def do_faults(run: Run, every_s: float) -> None:
    """Do one fault after the other until it is over, sometimes several at once."""
    while not run.over.is_set():
        fault = run.random.choices(list(FAULTS), list(FAULTS.values()))[0]
        if await fault(run):
            run.faults[getattr(fault, "__name__", "fault")] += 1
        await _pause(run, run.random.expovariate(1 / every_s))


async def watch_for_twins(run: Run) -> None:
    """Look, for as long as there are faults, for an agent that was started while its former attempt was alive."""
    while not run.over.is_set():
        living = processes_of(run.spoke.directory)
        alive = Counter(start["agentId"] for start in run.spoke.executions() if start["pid"] in living)
        run.twins |= {agent_id for agent_id, number in alive.items() if number > 1}
        await _pause(run, 0.2)


# --- the whole of it


def target_of(node: HubNode | SpokeNode) -> Callable[[], Target]:
    """Return where the node listens at present, for a proxy."""

    def target() -> Target:
        parts = urlsplit(node.url)
        return parts.hostname or "127.0.0.1", parts.port or 9

    return target


def _introduce(run: Run) -> None:
    """Make the two peers of each other, each by the URL of the proxy before it."""
    key_file = run.spoke.directory / "hub.jwk"
    key_file.write_text(json.dumps(run.hub.key.public.to_jwk()))
    run_in_process(run.spoke.directory, "peer", "add", run.hub.id, "--key", str(key_file), "--url", run.to_hub.url)
    key = load_signing_key(run.spoke.directory / "keys" / f"{run.spoke.id}.key").public
    run.hub.add_peer(run.spoke.id, key, run.to_spoke.url)


async def _until_over(run: Run) -> list[str]:
    """Wait until everything has ended as promised; returns what still stands against that at the deadline."""
    give_up_at = time.monotonic() + _SETTLE_S
    while True:
        pending = await is_over(run)
        if not pending or time.monotonic() > give_up_at:
            return pending
        await asyncio.sleep(0.3)


async def chaos(scratch: Path, seconds: float, seed: int, link: str) -> tuple[Run, list[str]]:
    """Run it and return what was done, and what was not kept."""
    rng = random.Random(seed)
    hub = HubNode(scratch)
    spoke = SpokeNode(
        scratch, toml=tables(limits={"agents": 12}, policy={"commands": _COMMANDS}), env={"SPOKE_NODE__LINK": link}
    )
    async with Proxy(target_of(spoke)) as to_spoke, Proxy(target_of(hub)) as to_hub:
        workers = [WorkerProcess(spoke, name) for name in ("a", "b")]
        run = Run(seed, hub, spoke, workers, to_spoke, to_hub, make_repository(scratch / "repository"), rng)
        _introduce(run)
        with hub:
            async with spoke, workers[0], workers[1]:
                loading = [asyncio.create_task(spawn_agents(run, 4)), asyncio.create_task(do_faults(run, 0.6))]
                loading += [asyncio.create_task(do_faults(run, 1.5)), asyncio.create_task(watch_for_twins(run))]
                await asyncio.wait(loading, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
                run.over.set()
                await asyncio.gather(*loading)
                violations = await _until_over(run) or await find_violations(run)
                run.endings.update(await endings(run))
    return run, violations


def say(text: str) -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.most_common())


def main() -> int:
    """Run chaos and say what came of it."""
    parser = argparse.ArgumentParser(description="Kill everything at random and see whether the promises are kept.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--link", choices=["auto", "always", "never"], default=None)
    parser.add_argument("--keep", action="store_true", help="Leave the directory for a look at the logs.")
    given = parser.parse_args()
    seed = random.randrange(10**6) if given.seed is None else given.seed
    link = given.link or ("auto", "always", "never")[seed % 3]
    say(f"chaos: {given.seconds:g} s, seed {seed}, link {link}")
    signal.alarm(int(given.seconds + 2 * _SETTLE_S + 60))
    scratch = Path(tempfile.mkdtemp(prefix="chaos-"))
    run, violations = asyncio.run(chaos(scratch, given.seconds, seed, link))
    say(f"agents asked for: {_told(Counter(asked.kind for asked in run.asked))}")
    say(f"they ended: {_told(run.endings)}")
    say(f"faults: {_told(run.faults)}")
    resumed = sum(asked.resumed_after is not None for asked in run.asked)
    lost = run.to_spoke.swallowed + run.to_hub.swallowed
    say(f"starts: {len(run.spoke.executions())}, resumed: {resumed}, answers lost: {lost}")
    for violation in violations:
        say(f"VIOLATION: {violation}")
    say(f"{'broken' if violations else 'kept'}; seed {seed}")
    if given.keep or violations:
        say(f"left in {scratch}")
    else:
        shutil.rmtree(scratch, ignore_errors=True)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
