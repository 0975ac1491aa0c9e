"""The sandbox with a real bubblewrap: what an agent in it can see, write and reach, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from spoke.supervision import linux
from tests.integration.spoke.supervision.agents import ESCAPE
from tests.integration.spoke.supervision.test_limits import BOMB
from tests.peer import HubPeer
from tests.spoke_node import SpokeNode, eventually, processes_of, tables

pytestmark = pytest.mark.sandbox
NewHub = Callable[[SpokeNode], HubPeer]
INTRUDER: Final = str(Path(__file__).parent / "intruder.py")

INTERPRETER_IN_HOME: Final = [
    part
    for part in Path(sys.base_prefix).parts[len(Path.home().parts) : len(Path.home().parts) + 1]
    if Path(sys.base_prefix).is_relative_to(Path.home())
]
"""What can be seen of a home in which the Python of these tests lies: the way there."""

POLITE: Final = """
import signal, sys, time
def end(*_):
    print("asked to end", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
signal.alarm(30)
print("up", flush=True)
while True:
    time.sleep(1)
"""
RUDE: Final = ESCAPE + "signal.alarm(30)\nprint('up', flush=True)\ntime.sleep(30)\n"


def settings(*program: str, limits: dict[str, int] | None = None, **members: Any) -> str:
    agent = {"profile": "command", "command": [sys.executable, "-I", "-S", *program], "env": [], "sandbox": "bwrap"}
    return tables(**{"agents.worker": agent | members, "agents.worker.limits": limits or {}})


async def look(node: SpokeNode, hub: HubPeer, origin: Path, *items: str) -> dict[str, Any]:
    """Run the intruder to its end and return what it says."""
    spawn = hub.spawn(origin, *items)
    await hub.ask(node, spawn)
    agent = await node.until_ended(spawn["id"])
    assert agent["status"] == "completed", (agent, node.log()[-2000:])
    seen: dict[str, Any] = agent["result"]["data"]
    return seen


def below(directory: Path, pattern: str) -> Path:
    (found,) = directory.glob(pattern)
    return found


@pytest.mark.attack(53)
async def test_an_agent_sees_nothing_of_the_spoke_nor_of_other_agents(
    tmp_path: Path, origin: Path, new_hub: NewHub
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("of somebody else")
    async with SpokeNode(tmp_path, toml=settings(INTRUDER)) as node:
        hub = new_hub(node)
        await look(node, hub, origin, "processes")
        former = below(node.directory, "runs/*/*/1")
        secrets = [
            node.directory / "keys" / f"{node.id}.key",
            node.directory / "trust.db",
            node.directory / "local.token",
        ]
        others = [former / "task.json", former / "log", canary, Path("/srv/anything")]
        assert all(path.exists() for path in (*secrets, former / "task.json", former / "log", canary))
        seen = await look(
            node,
            hub,
            origin,
            *(f"read {path}" for path in (*secrets, *others)),
            f"list {node.directory}",
            f"list {node.directory / 'runs'}",
            f"read {node.directory / 'valkey' / 'valkey.sock'}",
            "read /etc/shadow",
            "read /etc/ssl/private",
            f"list {Path.home()}",
            "processes",
        )
    assert {what: found for what, found in seen.items() if what.startswith("read ")} == {
        what: "FileNotFoundError" for what in seen if what.startswith("read ")
    }
    assert seen[f"list {node.directory}"] == ["runs", "workspaces"]
    assert len(seen[f"list {node.directory / 'runs'}"]) == 1
    assert seen[f"list {Path.home()}"] in ("FileNotFoundError", INTERPRETER_IN_HOME)
    assert seen["processes"] == 2  # bubblewrap's init and itself


async def test_an_agent_is_told_the_trace_of_its_envelope(tmp_path: Path, origin: Path, new_hub: NewHub) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with SpokeNode(tmp_path, toml=settings(INTRUDER)) as node:
        hub = new_hub(node)
        for sent, told in ((trace, trace), (trace.replace("4736-00f067aa0ba902b7", f"4736-{'0' * 16}"), None)):
            spawn = hub.spawn(origin, "variable TRACEPARENT")
            await hub.send(node, spawn, traceparent=sent)
            agent = await node.until_ended(spawn["id"])
            assert agent["result"]["data"] == {"variable TRACEPARENT": told}


async def test_an_agent_writes_to_its_own_and_to_nothing_else(tmp_path: Path, origin: Path, new_hub: NewHub) -> None:
    async with SpokeNode(tmp_path, toml=settings(INTRUDER)) as node:
        hub = new_hub(node)
        await look(node, hub, origin, "commit first.txt")
        objects = below(node.directory, "workspaces/mirrors/*/*.git/objects")
        forbidden = [
            "/written",
            "/usr/bin/written",
            f"{objects}/written",
            f"{sys.prefix}/written",
            "/proc/sys/kernel/pid_max",
        ]
        items = [f"write {path}" for path in (*forbidden, "/tmp/written", "new.txt")]
        seen = await look(node, hub, origin, *items, "commit other.txt")
        assert "written" not in os.listdir("/tmp")  # noqa: PTH208 - a look, and no path to keep
        agent = (await node.agents())[0]
    assert all(seen[f"write {path}"] in ("OSError", "PermissionError") for path in forbidden), seen
    assert (seen["write /tmp/written"], seen["write new.txt"], seen["commit other.txt"]) == (
        "written",
        "written",
        "committed",
    )
    assert [commit["subject"] for commit in agent["result"]["commits"]] == ["add other.txt"]
    assert agent["result"]["preservedRef"] is not None


@pytest.mark.parametrize("network", [False, True])
async def test_the_network_is_there_only_when_asked_for(
    tmp_path: Path, origin: Path, new_hub: NewHub, network: bool
) -> None:
    async with SpokeNode(tmp_path, toml=settings(INTRUDER, network=network)) as node:
        item = f"connect 127.0.0.1 {node.url.rpartition(':')[2]}"
        seen = await look(node, new_hub(node), origin, item)
    assert (seen[item] == "connected") == network


async def test_listed_paths_are_shown(tmp_path: Path, origin: Path, new_hub: NewHub) -> None:
    for name in ("read", "written"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("1234")
    shown: dict[str, Any] = {"read_only": [str(tmp_path / "read")], "writable": [str(tmp_path / "written")]}
    items = [f"{step} {tmp_path / name / 'file'}" for name in ("read", "written") for step in ("read", "write")]
    async with SpokeNode(tmp_path, toml=settings(INTRUDER, **shown)) as node:
        seen = await look(node, new_hub(node), origin, *items)
    assert list(seen.values()) == [4, "OSError", 4, "written"]


async def test_a_shown_directory_above_the_spoke_s_does_not_show_the_spoke_s(
    tmp_path: Path, origin: Path, new_hub: NewHub
) -> None:
    async with SpokeNode(tmp_path, toml=settings(INTRUDER, read_only=[str(tmp_path)])) as node:
        seen = await look(node, new_hub(node), origin, f"read {node.directory / 'local.token'}", f"list {tmp_path}")
    assert next(iter(seen.values())) == "FileNotFoundError"
    assert node.id in seen[f"list {tmp_path}"]


async def test_the_exit_code_comes_through(tmp_path: Path, origin: Path, new_hub: NewHub) -> None:
    async with SpokeNode(tmp_path, toml=settings("-c", "raise SystemExit(3)")) as node:
        hub = new_hub(node)
        spawn = hub.spawn(origin)
        await hub.ask(node, spawn)
        agent = await node.until_ended(spawn["id"])
    assert (agent["status"], agent["reason"], agent["exitCode"]) == ("failed", "exit_nonzero", 3)


async def started(node: SpokeNode, hub: HubPeer, origin: Path) -> str:
    spawn = hub.spawn(origin)
    await hub.ask(node, spawn)

    async def up() -> bool:
        log = await hub.ask(node, hub.about("logs", spawn["id"]))
        return "up" in log["log"]["data"]

    await eventually(up, "the agent is up")
    return str(spawn["id"])


async def test_an_agent_in_a_sandbox_is_asked_before_it_is_ended(tmp_path: Path, origin: Path, new_hub: NewHub) -> None:
    async with SpokeNode(tmp_path, toml=settings("-c", POLITE)) as node:
        hub = new_hub(node)
        agent_id = await started(node, hub, origin)
        await hub.ask(node, hub.about("kill", agent_id, graceS=20))
        agent = await node.until_ended(agent_id)
        log = await hub.ask(node, hub.about("logs", agent_id))
    assert log["log"]["data"] == "up\nasked to end\n"
    assert agent["status"] == "killed"
    assert [sent["signal"] for sent in agent["receipt"]["signals"]] == ["SIGTERM"]
    assert agent["receipt"]["survivors"] == 0


@pytest.mark.fault(24)
async def test_what_escapes_within_the_sandbox_dies_with_it(tmp_path: Path, origin: Path, new_hub: NewHub) -> None:
    async with SpokeNode(tmp_path, toml=settings("-c", RUDE)) as node:
        hub = new_hub(node)
        agent_id = await started(node, hub, origin)
        await hub.ask(node, hub.about("kill", agent_id, graceS=0))
        agent = await node.until_ended(agent_id)
        assert agent["receipt"]["survivors"] == 0
        # The spoke may just be deleting its workspace.
        left = [line for line in processes_of(node.directory).values() if agent_id in line]
        assert not [line for line in left if not line.startswith("rm ")]


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


async def test_the_sandbox_ends_with_its_keeper(tmp_path: Path, origin: Path, new_hub: NewHub) -> None:
    async with SpokeNode(tmp_path, toml=settings("-c", RUDE)) as node:
        hub = new_hub(node)
        agent_id = await started(node, hub, origin)
        keepers = [pid for pid in processes_of(node.directory) if name_of(pid) == "hubspoke-keeper"]
        (keeper,) = keepers
        inside = linux.descendants_of(keeper)
        assert len(inside) >= 3
        os.kill(keeper, signal.SIGKILL)
        await eventually(lambda: not any(linux.is_same(process) for process in inside), "all of it is gone")
        agent = await node.until_ended(agent_id)
    assert (agent["status"], agent["reason"]) == ("failed", "lost")


async def test_limits_count_what_runs_in_the_sandbox(tmp_path: Path, origin: Path, new_hub: NewHub) -> None:
    async with SpokeNode(tmp_path, toml=settings("-c", BOMB, limits={"processes": 30})) as node:
        hub = new_hub(node)
        spawn = hub.spawn(origin)
        await hub.ask(node, spawn)
        agent = await node.until_ended(spawn["id"])
        await asyncio.sleep(0)
    assert (agent["status"], agent["reason"], agent["receipt"]["survivors"]) == ("failed", "agent_error", 0)


async def test_the_built_in_agent_works_in_the_sandbox(tmp_path: Path, origin: Path, new_hub: NewHub) -> None:
    toml = tables(**{"agents.reviewer": {"profile": "report", "sandbox": "bwrap"}})
    async with SpokeNode(tmp_path, toml=toml) as node:
        hub = new_hub(node)
        spawn = hub.spawn(origin, "look at it", agentType="reviewer")
        await hub.ask(node, spawn)
        agent = await node.until_ended(spawn["id"])
    assert agent["status"] == "completed"
    assert agent["result"]["summary"]


async def test_a_resumed_agent_finds_its_home_and_its_work_in_the_sandbox(
    tmp_path: Path, origin: Path, new_hub: NewHub
) -> None:
    agent = {"profile": "fake", "sandbox": "bwrap"}
    toml = tables(**{"agents.worker": agent, "policy": {"commands": ["spawn", "status", "logs", "resume"]}})
    async with SpokeNode(tmp_path, toml=toml) as node:
        hub = new_hub(node)
        await hub.ask(node, spawn := hub.spawn(origin, "commit a.txt", "write b.txt"))
        await node.until_ended(spawn["id"])
        await hub.ask(node, hub.about("resume", spawn["id"], text="commit c.txt"))
        ended = await node.until_ended(spawn["id"])
        assert (ended["status"], ended["attempt"], ended["result"]["diffStat"]["files"]) == ("completed", 2, 3)
        log = (await hub.ask(node, hub.about("logs", spawn["id"])))["log"]["data"]
        assert "resumed after 1" in log
