"""A spoke whose Valkey is killed, full, read-only, slow or without a disk: 503, nothing partial, and back by itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from common.valkey import connect
from tests.faults.conftest import kill_valkey, until_ready, valkey_of
from tests.peer import Answer, HubPeer
from tests.spoke_node import Go, SpokeNode, eventually

Repository = Any
Break = Callable[[Redis], Awaitable[Any]]


@pytest.fixture
def go(tmp_path: Any) -> Go:
    return Go(tmp_path / "go")


def has(what: set[str], count: int) -> bool:
    return len(what) >= count


@pytest.mark.fault(11)
@pytest.mark.timeout(120)
async def test_killed_under_load_it_forgets_nothing_that_was_acknowledged(
    node: SpokeNode, hub: HubPeer, repository: Repository
) -> None:
    spawns = [hub.spawn(repository, "exit 0") for _ in range(60)]
    acknowledged: set[str] = set()

    async def ask(mine: list[dict[str, Any]]) -> None:
        for spawn in mine:
            while spawn["id"] not in acknowledged:
                answer = await hub.post(node, hub.seal(node, spawn))
                assert answer.status in {200, 503}, answer.body
                if answer.status == 200:
                    acknowledged.add(spawn["id"])
                else:
                    assert int(answer.headers["Retry-After"]) >= 1
                    await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        for part in range(4):
            group.create_task(ask(spawns[part::4]))
        for enough in (8, 24, 40):
            await eventually(partial(has, acknowledged, enough), "some are acknowledged")
            await kill_valkey(node)
    for spawn in spawns:
        await node.until_ended(spawn["id"])
        assert len(node.executions(spawn["id"])) == 1
    assert (await node.call("GET", "/queue"))[1]["active"] == 0


# --- it takes no writes


async def _fill(client: Redis) -> None:
    await client.config_set("maxmemory", 1)


async def _empty(client: Redis) -> None:
    await client.config_set("maxmemory", 0)


async def _demote(client: Redis) -> None:
    await client.replicaof("127.0.0.1", 1)


async def _promote(client: Redis) -> None:
    await client.replicaof("NO", "ONE")


async def _alone(client: Redis) -> None:
    await client.config_set("min-replicas-to-write", 1)


async def _allowed(client: Redis) -> None:
    await client.config_set("min-replicas-to-write", 0)


async def _snapshot_of(client: Redis) -> Path:
    (directory,) = (await client.config_get("dir")).values()
    return Path(os.fsdecode(directory or "")) / "dump.rdb"


async def _cannot_save(client: Redis) -> None:
    """With snapshots configured, one that fails stops all writes."""
    snapshot = await _snapshot_of(client)
    (snapshot / "in the way").mkdir(parents=True)
    await client.config_set("save", "3600 1")
    await client.bgsave()

    async def failed() -> bool:
        return str((await client.info("persistence"))["rdb_last_bgsave_status"]) == "err"

    await eventually(failed, "the snapshot failed")


async def _can_save(client: Redis) -> None:
    shutil.rmtree(await _snapshot_of(client))
    await client.config_set("save", "")


NO_WRITES = [
    pytest.param(_fill, _empty, id="OOM"),
    pytest.param(_demote, _promote, id="READONLY"),
    pytest.param(_alone, _allowed, id="NOREPLICAS"),
    pytest.param(_cannot_save, _can_save, id="MISCONF"),
]


@asynccontextmanager
async def store_of(node: SpokeNode) -> AsyncIterator[Redis]:
    async with connect(node.directory / "valkey") as client:
        yield client


async def contents(client: Redis) -> dict[bytes, bytes]:
    keys = sorted([key async for key in client.scan_iter("*")])
    return {key: await client.dump(key) or b"" for key in keys}


def is_unavailable(answer: Answer) -> bool:
    return (answer.status, answer.code) == (503, "unavailable") and int(answer.headers["Retry-After"]) >= 1


@pytest.mark.fault(13)
@pytest.mark.parametrize(("broken", "mended"), NO_WRITES)
async def test_without_writes_it_answers_503_changes_nothing_and_kills_all_the_same(
    node: SpokeNode, hub: HubPeer, repository: Repository, go: Go, broken: Break, mended: Break
) -> None:
    running, killed = hub.spawn(repository, f"wait {go}", "print done"), hub.spawn(repository, "sleep 60")
    await hub.send(node, running, killed)
    for spawn in (running, killed):
        await eventually(partial(node.executions, spawn["id"]), "it runs")
        await node.until(spawn["id"], "running")
    async with store_of(node) as client:
        await broken(client)
        before = await contents(client)
        raw = hub.seal(node, hub.spawn(repository, "exit 0"), hub.about("kill", running["id"]))
        for _ in range(2):
            assert is_unavailable(await hub.post(node, raw))
        assert (await node.agent(running["id"]))["status"] == "running"
        # The operator's kill reaches the keeper; what it did is written down later.
        status, told = await node.call("POST", f"/agents/{killed['id']}/kill", {"graceS": 0})
        assert (status, told["agentId"]) == (202, killed["id"])
        (start,) = node.executions(killed["id"])
        await eventually(lambda: start["pid"] not in node.processes(), "it is gone")
        go.now()
        (end,) = node.executions(running["id"])
        await eventually(lambda: end["pid"] not in node.processes(), "the other ends by itself")
        assert await contents(client) == before
        await mended(client)
    await until_ready(node)
    assert (await node.until_ended(running["id"]))["status"] == "completed"
    ended = await node.until_ended(killed["id"])
    assert (ended["status"], ended["reason"]) == ("killed", "killed_by_operator")
    # Nothing of the refused envelope was kept, not even that it had come.
    answer = await hub.post(node, raw)
    assert answer.status == 200


@pytest.mark.fault(13)
async def test_with_a_full_disk_it_answers_503_and_goes_on_when_there_is_room(
    node: SpokeNode, hub: HubPeer, repository: Repository, go: Go
) -> None:
    running = hub.spawn(repository, f"wait {go}")
    await hub.send(node, running)
    await node.until(running["id"], "running")
    # The file that Valkey will append to next is one that every write to fails with ENOSPC.
    directory = node.directory / "valkey" / "appendonlydir"
    (manifest,) = directory.glob("*.manifest")
    full = directory / "appendonly.aof.99.incr.aof"
    full.symlink_to("/dev/full")
    manifest.write_text(manifest.read_text() + f"file {full.name} seq 99 type i\n")
    os.kill(valkey_of(node), signal.SIGKILL)
    go.now()
    raw = hub.seal(node, hub.spawn(repository, "exit 0"))
    await eventually(lambda: len(node.log_lines("valkey.ended")) >= 3, "it ends again and again")
    assert "No space left on device" in node.log()
    assert is_unavailable(await hub.post(node, raw))
    full.unlink()
    full.touch()
    await until_ready(node)
    assert (await node.until_ended(running["id"]))["status"] == "completed"
    assert (await hub.post(node, raw)).status == 200
    assert node.log_lines("store.lost") == []


@pytest.mark.fault(12)
async def test_a_valkey_that_stands_still_is_503_and_what_it_did_late_is_done_once(
    node: SpokeNode, hub: HubPeer, repository: Repository
) -> None:
    spawn = hub.spawn(repository, "exit 0")
    valkey = valkey_of(node)
    os.kill(valkey, signal.SIGSTOP)
    try:
        assert is_unavailable(await hub.post(node, hub.seal(node, spawn)))
        assert (await node.call("GET", "/healthz"))[0] == 200
    finally:
        os.kill(valkey, signal.SIGCONT)
    await until_ready(node)
    # It was in the socket, and is accepted now that nobody waits for the answer.
    (again,) = await hub.send(node, spawn)
    assert again["agent"]["agentId"] == spawn["id"]
    await node.until_ended(spawn["id"])
    assert len(node.executions(spawn["id"])) == 1
