"""The end of a connection on a spoke: what is suspended rests, what is revoked goes, and nobody inherits anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from common.peers import Trust
from spoke import eviction
from spoke.eviction import Eviction
from tests.envelopes import hub_peer
from tests.integration.spoke.queue_rig import OTHER, TENANT, Rig, check_invariants, kill, sender, spawn
from tests.peer import HubPeer
from tests.spoke_node import Go, SpokeNode, eventually, is_alive, run_in_process, tables


@pytest.fixture
def rig(valkey: Redis, key_prefix: str) -> Rig:
    return Rig(valkey, key_prefix)


async def test_whoever_does_not_stay_loses_what_waits_and_is_asked_for_what_runs(rig: Rig) -> None:
    claim = await rig.running(1)
    await rig.accept_many(range(2, 5))
    backing_off = await rig.claimed()
    await rig.queue.retry(backing_off, "lost", "", pause_ms=60_000, may_help=True)
    await rig.accept(spawn(8), by=sender(OTHER))
    staying = await rig.claimed()
    await rig.accept(spawn(9), by=sender(OTHER))
    step = kill(1, agent_id="", cause="killed_by_operator", reason="revoked")
    assert await rig.queue.tenants() == {TENANT, OTHER}
    assert await rig.queue.evict(step, [TENANT], 100) == (3, 1)
    assert [await rig.status(number) for number in (1, 2, 3, 4)] == ["running", "killed", "killed", "killed"]
    assert (await rig.fields(2))["reason"] == "killed_by_operator"
    assert await rig.queue.renew([claim, staying]) == [step, True]
    assert await rig.status(9, OTHER) == "queued"
    assert await rig.queue.evict(step, [TENANT], 100) == (0, 1)
    await check_invariants(rig)
    assert await rig.client.pttl(f"{rig.prefix}events:{TENANT}") > 0
    assert await rig.client.pttl(f"{rig.prefix}events:{OTHER}") == -1


async def test_many_are_ended_in_turns(rig: Rig) -> None:
    await rig.accept_many(range(10))
    await rig.accept(*(spawn(number) for number in range(20, 25)), by=sender(OTHER))
    step = kill(0, agent_id="")
    assert [await rig.queue.evict(step, [TENANT, OTHER], 6) for _ in range(4)] == [(6, 0), (6, 0), (3, 0), (0, 0)]
    await check_invariants(rig)


async def test_a_strangers_entry_does_not_keep_it_from_its_end(rig: Rig) -> None:
    await rig.accept(spawn(1))
    await rig.client.zadd(f"{rig.prefix}queue:{TENANT}", {"stray": 1})
    assert await rig.queue.evict(kill(0, agent_id=""), [TENANT], 100) == (2, 0)
    assert await rig.queue.evict(kill(0, agent_id=""), [TENANT], 100) == (0, 0)


async def test_the_agents_of_a_hub_that_joined_in_the_same_moment_stay(rig: Rig) -> None:
    """It is registered and its spawn accepted while the eviction has read the trust and not asked the queue yet."""

    class JoinsAfterTheFirstLook:
        looks = 0

        def __call__(self) -> Trust:
            self.looks += 1
            return Trust([] if self.looks == 1 else [hub_peer()])

    await rig.accept(spawn(1))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(Eviction(rig.queue, JoinsAfterTheFirstLook()).run())
        await asyncio.sleep(0.2)
        assert await rig.status(1) == "queued"
        running.cancel()


async def test_it_looks_again_when_the_trust_changes_and_now_and_then(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eviction, "POLL_S", 0.01)
    monkeypatch.setattr(eviction, "_AT_ONCE", 2)
    trust = Trust([hub_peer()])
    await rig.accept_many(range(5))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(Eviction(rig.queue, lambda: trust).run())
        await asyncio.sleep(0)
        trust = Trust([hub_peer(state="suspended")])
        await eventually(lambda: _pending(rig, 5), "those of a suspended peer wait")
        trust = Trust([hub_peer(state="revoked")])
        await eventually(lambda: _pending(rig, 0), "those of a revoked peer go")
        monkeypatch.setattr(eviction, "LOOK_AGAIN_S", 0.0)
        trust = Trust([hub_peer(state="active", connection=2)])
        await eventually(lambda: _pending(rig, 0), "nothing is there")
        await rig.accept(spawn(8))
        await eventually(lambda: _pending(rig, 0), "what was accepted in the same moment goes, too")
        running.cancel()
    await check_invariants(rig)


async def _pending(rig: Rig, count: int) -> bool:
    return (await rig.queue.load())["queued"] == count


# --- a whole node ---------------------------------------------------------------------------------------------

NewHub = Callable[[SpokeNode], HubPeer]


@pytest.mark.attack(35)
async def test_suspended_the_queue_rests_and_agents_run_on_resumed_all_is_as_before(
    tmp_path: Path, new_hub: NewHub, origin: Path, go: Go
) -> None:
    async with SpokeNode(tmp_path, toml=tables(limits={"agents": 1})) as node:
        hub = new_hub(node)
        running, waiting = hub.spawn(origin, f"wait {go}"), hub.spawn(origin)
        await hub.send(node, running, waiting)
        await node.until(running["id"], "running")
        run_in_process(node.directory, "peer", "suspend", hub.id)
        refused = await hub.post(node, hub.seal(node, hub.about("status", running["id"])))
        assert (refused.status, refused.code) == (403, "connection_inactive")
        go.now()
        assert (await node.until_ended(running["id"]))["status"] == "completed"
        mine = hub.spawn(origin)
        status, answer = await node.call(
            "POST", "/agents/spawn", {name: mine[name] for name in ("taskId", "agentType", "context")}
        )
        assert status == 201, answer
        await node.until_ended(answer["agentId"])
        assert (await node.agent(waiting["id"]))["status"] == "queued"
        run_in_process(node.directory, "peer", "resume", hub.id)
        assert (await node.until_ended(waiting["id"]))["status"] == "completed"


@pytest.mark.attack(33)
@pytest.mark.attack(35)
async def test_revoked_all_its_agents_end_and_the_same_id_inherits_nothing(
    tmp_path: Path, new_hub: NewHub, origin: Path
) -> None:
    async with SpokeNode(tmp_path, toml=tables(limits={"agents": 1})) as node:
        hub, other = new_hub(node), new_hub(node)
        running, waiting, foreign = hub.spawn(origin, "sleep 60"), hub.spawn(origin), other.spawn(origin, "sleep 60")
        before = hub.seal(node, running, waiting)
        assert (await hub.post(node, before)).status == 200
        await other.send(node, foreign)
        await node.until(running["id"], "running")
        (start,) = await eventually(lambda: node.executions(running["id"]), "its program has begun")
        run_in_process(node.directory, "peer", "policy", hub.id, "--set", str(_rules(tmp_path)))
        run_in_process(node.directory, "peer", "revoke", hub.id)
        refused = await hub.post(node, hub.seal(node, hub.about("status", running["id"])))
        assert (refused.status, refused.code) == (401, "bad_signature")
        for spawn_ in (running, waiting):
            ended = await node.until_ended(spawn_["id"])
            assert (ended["status"], ended["reason"]) == ("killed", "killed_by_operator")
        await eventually(lambda: not is_alive(start["pid"]), "its process is gone")
        await node.until(foreign["id"], "running")
        hub.register(node)
        replayed = await hub.post(node, before)
        assert (replayed.status, replayed.code) == (409, "replayed")
        for command in ("status", "kill", "logs"):
            assert (await hub.ask(node, hub.about(command, running["id"])))["error"]["code"] == "not_found"
        shown = run_in_process(node.directory, "peer", "policy", hub.id, "--json")
        assert '"own": false' in shown
        again = hub.spawn(origin)
        assert (await hub.ask(node, again))["agent"]["queue"]["position"] == 1


async def test_revoked_while_the_node_is_down_its_agents_end_at_the_start(
    tmp_path: Path, new_hub: NewHub, origin: Path
) -> None:
    async with SpokeNode(tmp_path) as node:
        hub = new_hub(node)
        running = hub.spawn(origin, "sleep 60")
        await hub.send(node, running)
        await node.until(running["id"], "running")
        await node.terminate()
        run_in_process(node.directory, "peer", "revoke", hub.id)
        await node.restart()
        assert (await node.until_ended(running["id"]))["reason"] == "killed_by_operator"


def _rules(directory: Path) -> Path:
    file = directory / "rules.toml"
    file.write_text('commands = ["spawn"]\n')
    return file
