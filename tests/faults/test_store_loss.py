"""A spoke whose Valkey was emptied, or restored from an old copy: noticed, told, and nothing taken or started twice."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.faults.conftest import valkey_of
from tests.peer import HubPeer
from tests.spoke_node import SpokeNode, eventually, processes_of


def store_of(node: SpokeNode) -> Path:
    return node.directory / "valkey" / "appendonlydir"


async def code_of(hub: HubPeer, node: SpokeNode, raw: bytes) -> str:
    return (await hub.post(node, raw)).code


async def taken_again(hub: HubPeer, node: SpokeNode) -> None:
    """Wait until the node takes fresh envelopes."""

    async def taken() -> bool:
        return (
            await code_of(hub, node, hub.seal(node, hub.about("status", "0199aaaa-0000-7000-8000-000000000000")))
            == "accepted"
        )

    await eventually(taken, "fresh envelopes are taken again")


@pytest.mark.fault(14)
@pytest.mark.attack(25)
async def test_an_envelope_from_before_the_loss_is_never_taken_again(node: SpokeNode, repository: Path) -> None:
    hub = HubPeer()
    hub.register(node)
    raw = hub.seal(node, hub.spawn(repository, "exit 0", agentType="tester"))
    assert await code_of(hub, node, raw) == "accepted"
    await node.terminate()
    shutil.rmtree(store_of(node))
    await node.restart()
    answer = await hub.post(node, raw)
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "unavailable", "2")
    assert (await node.call("GET", "/readyz"))[0] == 503
    assert await node.agents() == []
    (line,) = node.log_lines("store.lost")
    assert (line["level"], line["cause"]) == ("error", "emptied")
    doctor = await node.spoke("doctor", "--json")
    assert "the store was emptied" in doctor.stdout
    await taken_again(hub, node)
    assert (await node.call("GET", "/readyz"))[0] == 200
    assert await code_of(hub, node, raw) == "unavailable", "its window is still open"
    await node.restart()
    assert await code_of(hub, node, raw) == "unavailable", "a restart does not forget it"
    assert await node.agents() == []
    assert len(node.log_lines("store.lost")) == 1


@pytest.mark.fault(14)
async def test_what_runs_while_the_store_is_emptied_is_seen_to_its_end_and_its_hub_hears_of_it(
    node: SpokeNode, repository: Path, tmp_path: Path
) -> None:
    hub = HubPeer()
    async with hub.taking_events(node):
        hub.register(node)
        spawn = hub.spawn(repository, f"wait {tmp_path / 'go'}", "commit made.txt", 'result {"summary": "done"}')
        await hub.send(node, spawn)
        await node.until(spawn["id"], "running")
        shutil.rmtree(store_of(node))
        os.kill(valkey_of(node), signal.SIGKILL)
        await eventually(lambda: node.log_lines("run.restored"), "the run is taken up")
        await node.until(spawn["id"], "running")
        (tmp_path / "go").touch()
        ended = await node.until_ended(spawn["id"])
        assert (ended["status"], ended["attempt"], len(ended["result"]["commits"])) == ("completed", 1, 1)
        assert (await hub.saw(spawn["id"], "completed"))["result"]["summary"] == "done"
        # Asked for again, it is the same agent and not a second one.
        await taken_again(hub, node)
        (again,) = await hub.send(node, spawn)
        assert (again["agent"]["status"], len(node.executions(spawn["id"]))) == ("completed", 1)


@pytest.mark.fault(14)
async def test_an_old_copy_is_noticed_and_starts_nothing_that_was_started(
    node: SpokeNode, repository: Path, tmp_path: Path
) -> None:
    hub = HubPeer()
    hub.register(node)
    await node.call("POST", "/queue/pause", {"on": True})
    before, after = hub.spawn(repository, "exit 0"), hub.spawn(repository, "exit 0")
    await hub.send(node, before)
    await node.terminate()
    shutil.copytree(store_of(node), tmp_path / "copy")
    await node.restart()
    await hub.send(node, after)
    await node.call("POST", "/queue/pause", {"on": False})
    for spawn in (before, after):
        assert (await node.until_ended(spawn["id"]))["status"] == "completed"
    await node.terminate()
    shutil.rmtree(store_of(node))
    shutil.copytree(tmp_path / "copy", store_of(node))
    await node.restart()
    assert [line["cause"] for line in node.log_lines("store.lost")] == ["rolled_back"]
    await taken_again(hub, node)
    await node.call("POST", "/queue/pause", {"on": False})
    # One is queued in the copy, the other not in it at all, until its hub asks again.
    await hub.send(node, after)
    for spawn in (before, after):
        await node.until_ended(spawn["id"])
        assert len(node.executions(spawn["id"])) == 1, "its run directory says that it was started"


@pytest.mark.fault(14)
async def test_a_process_that_nobody_answers_for_is_ended(node: SpokeNode, repository: Path) -> None:
    hub = HubPeer()
    hub.register(node)
    spawn = hub.spawn(repository, "sleep 60")
    await hub.send(node, spawn)
    (start,) = await eventually(lambda: node.executions(spawn["id"]), "it runs")
    (origin,) = node.directory.glob("runs/*/*/*/origin.json")
    another = spawn["id"][:-1] + ("1" if spawn["id"].endswith("0") else "0")
    origin.write_text(origin.read_text().replace('"T-1"', '"T-2"').replace(spawn["id"], another))
    shutil.rmtree(store_of(node))
    os.kill(valkey_of(node), signal.SIGKILL)
    await eventually(lambda: start["pid"] not in processes_of(node.directory), "its process ends")
    await eventually(lambda: node.log_lines("run.unknown_ended"), "the log says so")
    assert await node.agents() == []


async def test_without_a_loss_nothing_is_said(node: SpokeNode) -> None:
    for _ in range(2):
        os.kill(valkey_of(node), signal.SIGKILL)
        await eventually(lambda: node.log_lines("valkey.ended"), "its end is noticed")
        await node.restart()
    await asyncio.sleep(0)
    assert node.log_lines("store.lost") == []
