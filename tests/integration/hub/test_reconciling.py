"""A hub learns by itself what it missed: it asks the spokes about agents that have not ended as far as it knows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from common.agent_state import AgentStatus
from hub.reconciling import _lost
from hub.settlement import Settlement, shown_error
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke, agent_status, error
from tests.integration.hub.test_stored import NOW_MS, PEER, Stored, new_agent, numbered_id, settled
from tests.integration.link.bare_spoke import BareSpoke
from tests.spoke_node import eventually


def _no_sockets(directory: str, names: list[str]) -> set[str]:
    return {name for name in names if (Path(directory) / name).is_socket()}


async def until_shown(node: HubNode, agent_id: str, status: str) -> dict[str, Any]:
    async def reached() -> dict[str, Any] | None:
        agent = await node.agent(agent_id)
        return agent if agent.get("status") == status else None

    found: dict[str, Any] = await eventually(reached, f"{agent_id} is {status}")
    return found


@pytest.mark.slow
@pytest.mark.fault(31)
async def test_restored_from_an_old_copy_it_asks_about_what_it_shows_as_running(tmp_path: Path) -> None:
    with HubNode(tmp_path) as own:
        async with StandinSpoke(own) as spoke:
            agent_id = await own.spawn(spoke.id)
            await own.until_delivery(agent_id, "delivered")
            await spoke.report(spoke.advance(agent_id, "running"))
            await own.terminate()
            store, copy = own.directory / "valkey", tmp_path / "copy"
            shutil.copytree(store, copy, ignore=_no_sockets)
            await own.restart()
            # Acknowledged, so the spoke never says it again.
            await spoke.report(spoke.advance(agent_id, "completed", result={"summary": "done"}))
            await own.terminate()
            shutil.rmtree(store)
            shutil.copytree(copy, store)
            await own.restart()
            healed = await until_shown(own, agent_id, "completed")
            assert (healed["seq"], healed["result"]) == (3, {"summary": "done"})
            assert own.log_lines("store.lost")


@pytest.mark.slow
async def test_a_spoke_that_is_away_at_the_start_is_asked_when_it_opens_a_link(tmp_path: Path) -> None:
    with HubNode(tmp_path) as own:
        spoke = BareSpoke.registered_at(own)
        async with spoke.linked() as socket:
            agent_id = await own.spawn(spoke.id)
            await spoke.serve(socket)
            await own.until_delivery(agent_id, "delivered")
        await own.restart()
        await eventually(lambda: own.log_lines("reconcile.unanswered", peer=spoke.id), "it cannot be asked")
        spoke.advance(agent_id, "completed")
        async with spoke.linked() as socket:
            (command,) = await spoke.serve(socket, questions=True)
            assert (command["command"], command["agentId"]) == ("status", agent_id)
            await until_shown(own, agent_id, "completed")


@pytest.mark.slow
@pytest.mark.fault(14)
async def test_what_had_begun_and_its_spoke_lost_has_failed_and_what_it_will_not_tell_stays(tmp_path: Path) -> None:
    with HubNode(tmp_path) as own:
        async with StandinSpoke(own) as spoke, StandinSpoke(own) as silent:
            kept = [await own.spawn(spoke.id), await own.spawn(silent.id)]
            for agent_id in kept:
                await own.until_delivery(agent_id, "delivered")
            await spoke.report(spoke.advance(kept[0], "running"))
            before = [await own.agent(agent_id) for agent_id in kept]
            spoke.agents.clear()
            silent.answers["status"] = error("not_allowed")
            own.set_state(spoke.id, "suspended")
            await own.restart()
            told = {"answered": 0, "again": 0}
            await eventually(lambda: own.log_lines("reconcile.asked", peer=silent.id, unknown=0, **told), "asked")
            assert [await own.agent(agent_id) for agent_id in kept] == before
            assert (spoke.questions, silent.questions) == ([], [kept[1]])
            own.set_state(spoke.id, "active")
            await own.restart()
            await eventually(
                lambda: own.log_lines("reconcile.asked", peer=spoke.id, unknown=1, lost=1, **told), "asked"
            )
            lost, untold = [await own.agent(agent_id) for agent_id in kept]
            assert (lost["status"], lost["reason"], lost["seq"], untold) == ("failed", "lost", 3, before[1])
            assert own.log_lines("reconcile.lost", peer=spoke.id)
            assert [spoke.sent(agent_id) + silent.sent(agent_id) for agent_id in kept] == [1, 1]


@pytest.mark.slow
@pytest.mark.fault(14)
async def test_what_waited_at_a_spoke_whose_store_was_lost_goes_again_under_the_same_id(tmp_path: Path) -> None:
    with HubNode(tmp_path) as own:
        spoke = BareSpoke.registered_at(own)
        async with spoke.linked() as socket:
            waiting, killed = [await own.spawn(spoke.id) for _ in range(2)]
            while len(spoke.agents) < 2:
                await spoke.serve(socket)
            for agent_id in (waiting, killed):
                await own.until_delivery(agent_id, "delivered")
        await own.call("POST", f"/api/v1/agents/{killed}/kill", {})
        spoke.agents.clear()
        async with spoke.linked() as socket:
            came: list[dict[str, Any]] = []
            while not any(command["id"] == waiting for command in came):
                came += await spoke.serve(socket, questions=True)
            again = await own.until_delivery(waiting, "delivered")
            assert (again["status"], again["seq"], again["delivery"]["lastError"]) == ("queued", 1, None)
            assert came[-1]["command"] == "spawn"
            about_killed = [command["command"] for command in came if killed in (command["id"], command.get("agentId"))]
            assert about_killed[0] == "kill"
        assert own.log_lines("reconcile.asked", peer=spoke.id, answered=0)


async def test_putting_back_twice_is_once_and_takes_only_what_waited(
    valkey: Redis, valkey_blocking: Redis, key_prefix: str
) -> None:
    stored = Stored(valkey, valkey_blocking, key_prefix)
    waiting, running, pending = (numbered_id() for _ in range(3))
    await stored.outcomes(*map(new_agent, (waiting, running, pending)))
    started = Settlement(running, "event", agent=AgentStatus.model_validate(agent_status(running, "running", 3)))
    await stored.agents.record(PEER, [settled(waiting), started], NOW_MS)
    asked = [waiting, running, pending, numbered_id()]
    assert await stored.outbox.resend(asked, NOW_MS) == [waiting]
    once = await stored.snapshot()
    assert await stored.outbox.resend(asked, NOW_MS) == []
    assert await stored.outbox.resend([], NOW_MS) == []
    assert await stored.snapshot() == once
    assert await stored.waiting() == [pending, waiting]
    again = await stored.agents.find(waiting)
    assert (again.status, again.agent, again.delivery["state"]) == ("pending", None, "pending")
    # The spoke counts its transitions from 1 again.
    await stored.agents.record(PEER, [settled(waiting)], NOW_MS)
    assert (await stored.agents.find(waiting)).status == "queued"
    change = (await stored.feed.read("0-0"))[-2]
    assert (change.agent_id, change.status, change.reason) == (waiting, "pending", "lost")


async def test_those_that_may_be_at_their_spokes_are_named_page_by_page(
    valkey: Redis, valkey_blocking: Redis, key_prefix: str
) -> None:
    stored, ids = Stored(valkey, valkey_blocking, key_prefix), [numbered_id() for _ in range(7)]
    await stored.outcomes(*map(new_agent, ids[:6]), new_agent(ids[6], deadline_ms=NOW_MS))
    refused = shown_error("not_allowed", "no", retryable=False)
    await stored.agents.record(PEER, [settled(agent_id) for agent_id in ids[:4]], NOW_MS)
    await stored.agents.record(PEER, [settled(ids[4], "refused", error=refused)], NOW_MS)
    await stored.outbox.expire(NOW_MS)
    at_spoke = [(agent_id, PEER.tenant) for agent_id in ids]
    assert await stored.agents.living("queued", "", 3) == (ids[2], at_spoke[:3])
    assert await stored.agents.living("queued", ids[2], 3) == ("", at_spoke[3:4])
    assert await stored.agents.living("queued", ids[1], 2) == (ids[3], at_spoke[2:4])
    assert await stored.agents.living("queued", ids[3], 2) == ("", [])
    assert await stored.agents.living("expired", "", 3) == ("", at_spoke[6:])
    assert await stored.agents.living("pending", "", 3) == ("", []), "not sent yet"
    assert await stored.agents.living("refused", "", 3) == ("", []), "never taken"


async def test_an_event_that_repeats_the_reply_is_not_looked_up_until_its_agent_begins_anew(
    valkey: Redis, valkey_blocking: Redis, key_prefix: str
) -> None:
    stored, agent_id = Stored(valkey, valkey_blocking, key_prefix), numbered_id()
    await stored.outcomes(new_agent(agent_id))
    await stored.agents.record(PEER, [settled(agent_id)], NOW_MS)
    event = Settlement(agent_id, "event", agent=AgentStatus.model_validate(agent_status(agent_id)))
    await valkey.delete(stored.keys.agent(agent_id))  # would be taken in again by whoever looks
    assert await stored.agents.record(PEER, [event], NOW_MS) == [True]
    assert not await valkey.exists(stored.keys.agent(agent_id))
    stored.agents.begin_anew(PEER.tenant, [agent_id])
    assert await stored.agents.record(PEER, [event], NOW_MS) == [True]
    assert (await stored.agents.find(agent_id)).status == "queued"


@pytest.mark.slow
@pytest.mark.fault(31)
async def test_a_spawn_that_expired_here_and_had_arrived_is_asked_about(tmp_path: Path) -> None:
    with HubNode(tmp_path) as own:
        async with StandinSpoke(own) as spoke:
            spoke.next("drop")
            agent_id = await own.spawn(spoke.id, deadlineS=2)
            await eventually(lambda: spoke.agents, "it has arrived, and nobody heard of it")
            await spoke.down()
            await own.until_delivery(agent_id, "expired")
            await spoke.up()
            await own.restart()
            shown = await until_shown(own, agent_id, "queued")
            assert shown["delivery"]["state"] == "delivered"


async def test_an_agent_is_ended_as_lost_once_and_not_when_its_spoke_has_told_more(
    valkey: Redis, valkey_blocking: Redis, key_prefix: str
) -> None:
    stored = Stored(valkey, valkey_blocking, key_prefix)
    running, ended, requeued, waiting = (numbered_id() for _ in range(4))
    await stored.outcomes(*map(new_agent, (running, ended, waiting)))

    async def told(agent_id: str, status: str, seq: int) -> None:
        settlement = Settlement(
            agent_id, "event", agent=AgentStatus.model_validate(agent_status(agent_id, status, seq))
        )
        await stored.agents.record(PEER, [settlement], NOW_MS)

    await told(running, "running", 3)
    await told(ended, "running", 3)
    await told(requeued, "queued", 1)  # of the spoke's own making: there is nothing that could be sent again
    records = [await stored.agents.find(agent_id) for agent_id in (running, ended, requeued, waiting)]
    ends = [_lost(record, NOW_MS) for record in records]
    assert ends[3] is None, "it waits in the outbox"
    await told(ended, "completed", 4)
    for _ in range(2):
        await stored.agents.record(PEER, [end for end in ends if end is not None], NOW_MS)
    found = [await stored.agents.find(agent_id) for agent_id in (running, ended, requeued)]
    assert [record.status for record in found] == ["failed", "completed", "failed"]
    changes = [
        (change.agent_id, change.reason) for change in await stored.feed.read("0-0") if change.status == "failed"
    ]
    assert changes == [(running, "lost"), (requeued, "lost")]
    again = await stored.agents.find(running)
    assert _lost(again, NOW_MS) is None
    assert again.agent is not None
    assert (again.agent["reason"], again.agent["seq"], again.agent["finishedAt"] is not None) == ("lost", 4, True)
