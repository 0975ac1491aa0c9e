"""Several worker processes on one spoke's queue and directory: whichever dies or stands still, another goes on."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from common.valkey import connect
from tests.faults.agents import TAKEN_OVER_S, agents_in, ended, send
from tests.faults.conftest import kill_valkey
from tests.integration.spoke.repositories import make_repository
from tests.integration.spoke.test_node_wire import metrics_of
from tests.peer import HubPeer
from tests.spoke_node import Go, SpokeNode, eventually, tables
from tests.worker_process import WorkerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[SpokeNode]:
    """A spoke that starts no agents itself."""
    options = ["--no-worker"]
    async with SpokeNode(tmp_path, toml=tables(limits={"agents": 8}), options=options) as running:
        yield running


async def test_they_share_what_waits_and_each_agent_is_started_once(
    node: SpokeNode, hub: HubPeer, repository: Path
) -> None:
    agents = await send(node, hub, repository, "commit made.txt", count=24)
    assert {(await node.agent(agent))["status"] for agent in agents} == {"queued"}, "the node itself starts none"
    async with WorkerProcess(node, "a") as first, WorkerProcess(node, "b") as second:
        found = [await ended(node, agent) for agent in agents]
        assert [each["status"] for each in found] == ["completed"] * len(agents)
        assert all(len(each["result"]["commits"]) == 1 for each in found)
        by_first, by_second = agents_in(first.log_lines("agent.started")), agents_in(second.log_lines("agent.started"))
        assert by_first
        assert by_second
        assert not by_first & by_second
    assert sorted(start["agentId"] for start in node.executions()) == sorted(agents)


async def test_that_of_a_full_spoke_does_not_ask_for_more_each_time_something_comes(
    node: SpokeNode, hub: HubPeer, repository: Path, tmp_path: Path
) -> None:
    go = Go(tmp_path / "go")
    async with WorkerProcess(node, "a"), connect(node.directory / "valkey") as client:
        running = await send(node, hub, repository, f"wait {go}", count=8)
        for agent in running:
            await node.started(agent)
        await client.config_resetstat()
        waiting = [agent for _ in range(40) for agent in await send(node, hub, repository)]
        told: Any = await client.info("commandstats")
        assert told["cmdstat_evalsha"]["calls"] < 60, "one script for each that came, beside some of the clock's"
        go.now()
        for agent in (*running, *waiting):
            assert (await ended(node, agent))["status"] == "completed"


async def test_the_next_agent_does_not_wait_until_the_former_ones_workspace_is_gone(tmp_path: Path) -> None:
    """Its slot is free when its end is in the store; a workspace of gigabytes takes its time."""
    programs, go = tmp_path / "bin", Go(tmp_path / "go")
    programs.mkdir()
    slow = programs / "rm"
    slow.write_text(f'#!/bin/sh\nwhile [ ! -e "{go}" ]; do sleep 0.1; done\nexec {shutil.which("rm")} "$@"\n')
    slow.chmod(0o755)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}"}
    async with SpokeNode(tmp_path, toml=tables(limits={"agents": 1}), env=environment) as node:
        hub, origin = HubPeer(), make_repository(tmp_path / "repository")
        hub.register(node)
        agents = await send(node, hub, origin, "exit 0", count=2)
        for _ in range(60):  # the worker hears of something new more often than once a second
            agents += await send(node, hub, origin, "exit 0")
            if (second := await node.agent(agents[1]))["status"] == "completed":
                break
            await asyncio.sleep(0.1)
        left = list(node.directory.glob("workspaces/agents/*/*/tree"))
        go.now()
        assert second["status"] == "completed"
        assert {tree.parent.name for tree in left} >= set(agents[:2]), "none was removed meanwhile"
        for agent in agents:
            assert (await ended(node, agent))["status"] == "completed"


@pytest.mark.fault(8)
async def test_one_that_is_killed_leaves_its_agents_running_and_another_sees_them_to_their_end(
    node: SpokeNode, hub: HubPeer, repository: Path, tmp_path: Path
) -> None:
    go = Go(tmp_path / "go")
    async with WorkerProcess(node, "a") as first, WorkerProcess(node, "b") as second:
        agents = await send(node, hub, repository, f"wait {go}", "commit made.txt", count=6)
        for agent in agents:
            await node.started(agent)
        mine = agents_in(first.log_lines("agent.started"))
        assert mine
        await first.end(signal.SIGKILL)
        go.now()
        found = [await ended(node, agent) for agent in agents]
        assert mine <= agents_in(second.log_lines("agent.adopted"))
        assert f'hubspoke_spoke_leases_lost_total{{cause="stood_still"}} {float(len(mine))}' in await metrics_of(node)
    assert {(each["status"], each["attempt"], len(each["result"]["commits"])) for each in found} == {
        ("completed", 1, 1)
    }
    assert len(node.executions()) == len(agents)


@pytest.mark.fault(8)
async def test_one_that_is_started_again_under_its_name_takes_its_agents_back_at_once(
    node: SpokeNode, hub: HubPeer, repository: Path, tmp_path: Path
) -> None:
    go = Go(tmp_path / "go")
    async with WorkerProcess(node, "a") as worker:
        (agent,) = await send(node, hub, repository, f"wait {go}", "exit 0")
        await node.started(agent)
        await worker.end(signal.SIGKILL)
        await asyncio.to_thread(worker.start)
        await eventually(lambda: agent in agents_in(worker.log_lines("agent.adopted")), "it has its agent back", 10)
        go.now()
        assert (await ended(node, agent))["status"] == "completed"


@pytest.mark.fault(8)
async def test_the_node_and_its_store_may_come_and_go_meanwhile(
    node: SpokeNode, hub: HubPeer, repository: Path, tmp_path: Path
) -> None:
    go = Go(tmp_path / "go")
    async with WorkerProcess(node, "a"):
        (agent,) = await send(node, hub, repository, f"wait {go}", "exit 0")
        await node.started(agent)
        await node.kill9()
        await node.restart()
        await kill_valkey(node)
        go.now()
        found = await ended(node, agent)
        assert (found["status"], found["attempt"]) == ("completed", 1)
        (another,) = await send(node, hub, repository, "exit 0")
        assert (await ended(node, another))["status"] == "completed"


@pytest.mark.fault(22)
async def test_one_that_stands_still_amid_a_start_is_not_worked_beside(
    node: SpokeNode, hub: HubPeer, repository: Path
) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(WorkerProcess(node, "a"))
        (warm,) = await send(node, hub, repository, "exit 0")
        await ended(node, warm)
        (lock,) = (node.directory / "workspaces" / "mirrors").rglob("*.lock")
        with lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # so the next start waits for the mirror
            (agent,) = await send(node, hub, repository, "commit made.txt", attempts=2)
            await node.until(agent, "spawning")
            first.send(signal.SIGSTOP)
            second = await stack.enter_async_context(WorkerProcess(node, "b"))
            await eventually(
                lambda: agent in agents_in(second.log_lines("agent.awaits_its_former_worker")),
                "the other one has its lease and waits",
                TAKEN_OVER_S,
            )
        assert node.executions(agent) == []
        first.send(signal.SIGCONT)
        found = await ended(node, agent)
        assert agent in agents_in(first.log_lines("agent.lease_lost"))
    assert (found["status"], found["attempt"]) == ("completed", 2), found
    assert len(node.executions(agent)) == 1


async def test_a_stop_gives_back_what_was_not_started(node: SpokeNode, hub: HubPeer, repository: Path) -> None:
    async with WorkerProcess(node, "a") as worker:
        (warm,) = await send(node, hub, repository, "exit 0")
        await ended(node, warm)
        (lock,) = (node.directory / "workspaces" / "mirrors").rglob("*.lock")
        with lock.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            (agent,) = await send(node, hub, repository, "exit 0")
            await node.until(agent, "spawning")
            assert await worker.end() == 0
        assert (await node.agent(agent))["status"] == "queued"
    async with WorkerProcess(node, "a"):
        found = await ended(node, agent)
    assert (found["status"], found["attempt"]) == ("completed", 1)


async def test_a_name_is_taken_once_and_must_be_one(node: SpokeNode) -> None:
    async with WorkerProcess(node, "a"):
        refused = await node.spoke("worker", "a")
        assert refused.returncode != 0
        assert "already_running" in refused.stderr
        assert "a worker-a is running" in refused.stderr
    for name in ("../x", "", "A"):
        refused = await node.spoke("worker", name)
        assert refused.returncode != 0
        assert "Traceback" not in refused.stderr
        assert not list(node.directory.glob("worker-[!a]*"))
