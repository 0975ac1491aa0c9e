"""What the hub forgets of agents that ended, and what it never does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from common.agent_state import AgentStatus
from common.scripts import ScriptSet
from hub.agents import Filter
from hub.outbox import NewKill
from hub.retention import Bounds, Retention
from hub.settlement import Settlement
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke, agent_status, new_id
from tests.integration.hub.test_stored import NOW_MS, PEER, REFUSED, Stored, new_agent, numbered_id, settled
from tests.spoke_node import eventually

DAY_MS = 86_400_000


class At:
    """A clock that stands."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def new_id(self) -> str:
        return new_id()


@pytest.fixture
def stored(valkey: Redis, valkey_blocking: Redis, key_prefix: str) -> Stored:
    return Stored(valkey, valkey_blocking, key_prefix)


def retention(stored: Stored, days: int = 0, agents: int = 0, now_ms: int = NOW_MS) -> Retention:
    return Retention(stored.client, stored.keys, ScriptSet("hub"), Bounds(days, agents), At(now_ms))


async def end(stored: Stored, agent_id: str, at_ms: int, status: str = "completed") -> None:
    reason = "exit_nonzero" if status == "failed" else None
    told = AgentStatus.model_validate(agent_status(agent_id, status, 4, reason=reason))
    await stored.agents.record(PEER, [Settlement(agent_id, "event", agent=told)], at_ms)


async def ended(stored: Stored, count: int, at_ms: int = NOW_MS) -> list[str]:
    """Let so many agents end, one after the other."""
    ids = [numbered_id() for _ in range(count)]
    await stored.outcomes(*map(new_agent, ids))
    for number, agent_id in enumerate(ids):
        await end(stored, agent_id, at_ms + number)
    return ids


async def listed(stored: Stored, **wanted: Any) -> list[str]:
    records, _ = await stored.agents.page(Filter(**wanted), 1000)
    return sorted(record.agent_id for record in records)


async def test_what_ended_long_ago_goes_and_leaves_nothing_behind(stored: Stored) -> None:
    old = await ended(stored, 3)
    young = await ended(stored, 2, NOW_MS + DAY_MS)
    assert await retention(stored, days=30, now_ms=NOW_MS + 30 * DAY_MS + 2).prune() == 3
    assert await listed(stored) == young
    left = await stored.snapshot()
    events = left.pop(stored.keys.events.encode())
    assert len(events) > 0
    assert not any(agent_id in str(left) for agent_id in old)
    assert await retention(stored, days=30, now_ms=NOW_MS + 30 * DAY_MS + 2).prune() == 0
    assert await listed(stored) == young


async def test_why_it_ended_is_forgotten_with_it(stored: Stored) -> None:
    (agent_id,) = await ended(stored, 1)
    failed = numbered_id()
    await end(stored, failed, NOW_MS, "failed")
    assert await listed(stored, reason="exit_nonzero") == [failed]
    assert await stored.agents.count_reason("exit_nonzero") == 1
    assert await listed(stored, reason="exit_nonzero", status="completed") == []
    assert agent_id not in await listed(stored, reason="exit_nonzero", status="failed")
    assert await retention(stored, days=1, now_ms=NOW_MS + 2 * DAY_MS).prune() == 2
    assert await stored.agents.count_reason("exit_nonzero") == 0


async def test_of_too_many_those_that_ended_first_go(stored: Stored) -> None:
    ids = await ended(stored, 5)
    assert await retention(stored, agents=3).prune() == 2
    for wanted in ({}, {"spoke": "build-1"}, {"status": "completed"}, {"task_id": "T-1"}):
        assert await listed(stored, **wanted) == ids[2:]
    assert await retention(stored).prune() == 0


async def test_what_has_not_ended_stays_however_old(stored: Stored) -> None:
    waiting, running, refused, expiring = (numbered_id() for _ in range(4))
    agents = [*map(new_agent, (waiting, running, refused)), new_agent(expiring, deadline_ms=NOW_MS + 1)]
    await stored.outcomes(*agents)
    await end(stored, running, NOW_MS, "running")
    await stored.agents.record(PEER, [settled(refused, "refused", error=REFUSED)], NOW_MS)
    await stored.outbox.expire(NOW_MS + 2)
    late = retention(stored, days=1, agents=1, now_ms=NOW_MS + 400 * DAY_MS)
    assert await late.prune() == 2
    assert await listed(stored) == [waiting, running]


async def test_one_that_had_expired_and_runs_after_all_has_not_ended(stored: Stored) -> None:
    agent_id = numbered_id()
    await stored.outcomes(new_agent(agent_id, deadline_ms=NOW_MS + 1))
    await stored.outbox.expire(NOW_MS + 2)
    await end(stored, agent_id, NOW_MS, "running")
    assert await retention(stored, days=1, now_ms=NOW_MS + 400 * DAY_MS).prune() == 0
    assert await listed(stored, status="running") == [agent_id]


async def test_a_kill_that_nobody_answered_goes_with_its_agent(stored: Stored) -> None:
    (agent_id,) = (numbered_id(),)
    await stored.outcomes(new_agent(agent_id))
    await stored.outbox.enqueue_kills([NewKill(agent_id, new_id(), b"{}")])
    await end(stored, agent_id, NOW_MS)
    assert len(await stored.waiting()) == 1
    assert await retention(stored, days=1, now_ms=NOW_MS + 400 * DAY_MS).prune() == 1
    assert await stored.waiting() == []
    assert await stored.outbox.tenants() == set()


async def test_it_goes_in_pieces_until_nothing_is_over_the_bound(stored: Stored) -> None:
    ids = [numbered_id() for _ in range(450)]
    told = [AgentStatus.model_validate(agent_status(agent_id, "failed", 2)) for agent_id in ids]
    await stored.agents.record(PEER, [Settlement(agent.agent_id, "event", agent=agent) for agent in told], NOW_MS)
    few = retention(stored, agents=10)
    assert [await few.prune() for _ in range(4)] == [200, 200, 40, 0]
    assert len(await listed(stored)) == 10


@pytest.mark.slow
async def test_a_hub_forgets_at_its_start_and_a_repeated_spawn_is_still_the_same_agent(tmp_path: Path) -> None:
    with HubNode(tmp_path, toml="[retention]\nended_agents = 1\n") as own:
        async with StandinSpoke(own) as spoke:
            first, second = [await own.spawn(spoke.id) for _ in range(2)]
            for agent_id in (first, second):
                await own.until_delivery(agent_id, "delivered")
                await spoke.report(spoke.advance(agent_id, "completed"))
            await own.restart()

            async def is_gone() -> bool:
                return await own.agent(first) == {}

            await eventually(is_gone, "the first is forgotten")
            assert (await own.agent(second))["status"] == "completed"
            assert own.log_lines("retention.pruned", agents=1)
            assert await own.spawn(spoke.id, agentId=first) == first
            assert (await own.until_delivery(first, "delivered"))["status"] == "completed"
