"""A spoke that stands still past its leases: another worker takes over, and what the first writes late is refused."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from common.valkey import connect
from spoke.queue import Queue
from spoke.queue_terms import Bounds
from tests.peer import HubPeer
from tests.spoke_node import Go, SpokeNode, eventually


@pytest.mark.fault(22)
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_what_it_writes_late_is_refused_and_the_agent_runs_on(
    node: SpokeNode, hub: HubPeer, repository: Path, tmp_path: Path
) -> None:
    go = Go(tmp_path / "go")
    spawn = hub.spawn(repository, f"wait {go}", "commit made.txt")
    await hub.send(node, spawn)
    await node.until(spawn["id"], "running")
    await eventually(lambda: node.executions(spawn["id"]), "it runs")

    async def completed() -> bool:
        return bool((await node.agent(spawn["id"]))["status"] == "completed")

    async with connect(node.directory / "valkey") as client:
        other = Queue(client, node.id, Bounds())
        os.kill(node.pid, signal.SIGSTOP)
        try:
            # A second worker that has seen the lease stand still for as long as it lasts.
            taken = await other.reclaim("other:life", "", await other.leases())
            assert taken is not None
            assert taken.record.ref.agent_id == spawn["id"]
            go.now()
            (start,) = node.executions(spawn["id"])
            await eventually(lambda: start["pid"] not in node.processes(), "the agent ends meanwhile")
        finally:
            os.kill(node.pid, signal.SIGCONT)
        await eventually(lambda: node.log_lines("agent.lease_lost"), "the first one's write is refused")
        assert (await node.agent(spawn["id"]))["status"] == "running"
        # The other one dies as well: the lease stands still, and whoever looks takes it over and finishes.
        await eventually(completed, "the agent is completed", 60)
        ended = await node.agent(spawn["id"])
    assert (ended["attempt"], len(ended["result"]["commits"])) == (1, 1)
    assert len(node.executions(spawn["id"])) == 1
