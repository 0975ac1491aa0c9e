"""The limits of an agent type, from spoke.toml to what a hub is told."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.spoke.repositories import make_repository
from tests.integration.spoke.supervision.test_limits import BOMB, HUNGRY
from tests.peer import HubPeer
from tests.spoke_node import SpokeNode, eventually, tables

SPAM = "import signal, sys; signal.alarm(20); sys.stdout.write('x' * (3 << 20))"
QUIET = "import time; time.sleep(20)"
BURN = "import signal; signal.alarm(20)\nwhile True: pass"
HOARD = """import signal
signal.alarm(40)
with open("hoard", "wb") as file:
    for _ in range(16):
        file.write(bytes(1 << 20))
signal.pause()"""


def settings(script: str, **limits: int) -> str:
    agent = {"profile": "command", "command": [sys.executable, "-I", "-S", "-c", script], "env": []}
    return tables(**{"agents.worker": agent, "agents.worker.limits": limits})


@pytest.mark.parametrize(
    ("script", "limits", "status", "reason"),
    [
        pytest.param(HUNGRY, {"memory_mib": 100}, "failed", "oom", id="memory"),
        pytest.param(BURN, {"cpu_s": 1}, "failed", "timeout", id="processor time"),
        pytest.param(QUIET, {"silence_s": 1}, "failed", "timeout", id="silence"),
        pytest.param(HOARD, {"workspace_mib": 8}, "failed", "workspace_failed", id="workspace"),
        pytest.param(SPAM, {"log_mib": 2}, "completed", None, id="log"),
    ],
)
async def test_what_a_limit_makes_of_an_agent(
    tmp_path: Path,
    origin: Path,
    new_hub: Callable[[SpokeNode], HubPeer],
    script: str,
    limits: dict[str, int],
    status: str,
    reason: str | None,
) -> None:
    async with SpokeNode(tmp_path, toml=settings(script, **limits)) as node:
        hub = new_hub(node)
        spawn = hub.spawn(origin)
        await hub.ask(node, spawn)
        agent = await node.until_ended(spawn["id"])
        assert (agent["status"], agent["reason"]) == (status, reason)
        assert agent["result"]["logBytes"] == (2 << 20 if "log_mib" in limits else 0)


async def test_an_agent_is_told_how_large_its_workspace_became(
    tmp_path: Path, origin: Path, new_hub: Callable[[SpokeNode], HubPeer]
) -> None:
    async with SpokeNode(tmp_path, toml=settings(HOARD, workspace_mib=8)) as node:
        hub = new_hub(node)
        await hub.ask(node, spawn := hub.spawn(origin))
        agent = await node.until_ended(spawn["id"])
        assert agent["receipt"]["survivors"] == 0
        assert agent["result"]["preservedRef"], "what it hoarded is kept"
        shown = json.loads((await node.spoke("agent", "show", spawn["id"], "--json")).stdout)
        assert shown["detail"].startswith("workspace_mib: the workspace takes 1")
        assert shown["detail"].endswith(" MiB of 8")


async def test_a_checkout_that_is_too_large_is_not_begun(
    tmp_path: Path, new_hub: Callable[[SpokeNode], HubPeer]
) -> None:
    origin = make_repository(tmp_path / "large", {"large": "x" * (3 << 20)})
    async with SpokeNode(tmp_path, toml=settings(QUIET, workspace_mib=2)) as node:
        hub = new_hub(node)
        await hub.ask(node, spawn := hub.spawn(origin))
        agent = await node.until_ended(spawn["id"])
        assert (agent["status"], agent["reason"], agent["startedAt"]) == ("failed", "workspace_failed", None)
        assert not node.log_lines("agent.started")
        await eventually(lambda: not list(node.directory.glob("workspaces/agents/*/*")), "nothing is left of it")


@pytest.mark.fault(25)
async def test_a_fork_bomb_is_contained_and_the_spoke_answers_meanwhile(
    tmp_path: Path, origin: Path, new_hub: Callable[[SpokeNode], HubPeer]
) -> None:
    async with SpokeNode(tmp_path, toml=settings(BOMB, processes=30)) as node:
        hub = new_hub(node)
        spawn = hub.spawn(origin)
        await hub.ask(node, spawn)
        slowest_s = 0.0
        while True:
            asked = time.perf_counter()
            answer = await hub.ask(node, hub.about("status", spawn["id"]))
            slowest_s = max(slowest_s, time.perf_counter() - asked)
            if answer["agent"]["status"] in ("failed", "completed", "killed"):
                break
            await asyncio.sleep(0.02)
        assert (answer["agent"]["status"], answer["agent"]["reason"]) == ("failed", "agent_error")
        assert answer["agent"]["receipt"]["survivors"] == 0
        assert slowest_s < 3


@pytest.mark.parametrize("name", ["memory_gib", "nproc"])
async def test_a_limit_that_does_not_exist_is_refused(tmp_path: Path, name: str) -> None:
    node = SpokeNode(tmp_path, toml=settings(QUIET, **{name: 1}))
    refused = await node.spoke("serve")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: config: ")
    assert name in refused.stderr


async def test_without_bubblewrap_an_agent_that_asked_for_it_is_not_started(
    tmp_path: Path, origin: Path, new_hub: Callable[[SpokeNode], HubPeer]
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("git", "rm", "chmod"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    toml = tables(**{"agents.worker": {"sandbox": "bwrap"}})
    async with SpokeNode(tmp_path, toml=toml, env={"PATH": str(programs)}) as node:
        hub = new_hub(node)
        spawn = hub.spawn(origin)
        await hub.ask(node, spawn)
        agent = await node.until_ended(spawn["id"])
        assert (agent["status"], agent["reason"]) == ("failed", "spawn_failed")
        assert "install bubblewrap" in agent["detail"]
        assert node.executions() == []
