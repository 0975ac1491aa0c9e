"""What was settled stays settled, in whatever order and company it was told; and what is kept of it is kept once."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from common.agent_state import AgentStatus
from common.ids import uuid7
from common.scripts import ScriptSet
from hub.agents import ReplayMark
from hub.outbox import NewKill, NewLatch
from hub.retention import Bounds
from hub.retention import Retention as Sweep
from hub.settlement import Latched, Settlement
from tests.integration.hub.standin_spoke import agent_status, new_id
from tests.integration.hub.test_retention import DAY_MS, At
from tests.integration.hub.test_stored import NOW_MS, PEER, REFUSED, Stored, new_agent, numbered_id, settled


@pytest.fixture
def stored(valkey: Redis, valkey_blocking: Redis, key_prefix: str) -> Stored:
    return Stored(valkey, valkey_blocking, key_prefix)


def event(agent_id: str, status: str, seq: int) -> Settlement:
    return Settlement(agent_id, "event", agent=AgentStatus.model_validate(agent_status(agent_id, status, seq)))


def of_kill(agent_id: str, kill_id: str, status: str = "killed") -> Settlement:
    agent = AgentStatus.model_validate(agent_status(agent_id, status, 2))
    return Settlement(agent_id, "delivered", kill_id, agent=agent)


async def is_over(stored: Stored, agent_id: str) -> None:
    """Nothing of its spawn goes any more, now or later."""
    assert await stored.waiting() == []
    assert (await stored.outbox.take(PEER.tenant, NOW_MS + DAY_MS)).commands == ()
    left = await stored.snapshot()
    assert not [key for key in left if b"outbox:" in key or b"deferred:" in key or b"deadlines" in key], left
    assert await stored.outbox.tenants() == set()
    assert (await stored.agents.find(agent_id)).delivery["state"] == "delivered"


async def killed_while_it_waits(stored: Stored) -> tuple[str, str]:
    agent_id, kill_id = numbered_id(), new_id()
    await stored.outcomes(new_agent(agent_id))
    await stored.outbox.enqueue_kills([NewKill(agent_id, kill_id, b"{}")])
    return agent_id, kill_id


@pytest.mark.parametrize("kill_first", [False, True])
async def test_a_spawn_put_off_beside_the_answer_to_its_kill(stored: Stored, *, kill_first: bool) -> None:
    agent_id, kill_id = await killed_while_it_waits(stored)
    put_off = settled(agent_id, "retry", error=REFUSED, not_before_ms=NOW_MS + 10)
    answers = [put_off, of_kill(agent_id, kill_id)]
    await stored.agents.record(PEER, answers[::-1] if kill_first else answers, NOW_MS)
    await is_over(stored, agent_id)


async def test_a_thaw_does_not_bring_back_what_was_settled_beside_it(stored: Stored) -> None:
    agent_id, kill_id = await killed_while_it_waits(stored)
    await stored.agents.record(PEER, [settled(agent_id, "retry", error=REFUSED, not_before_ms=NOW_MS + 10)], NOW_MS)
    thaw = NewLatch(new_id(), "thaw", b"{}", kills=False, reason="")
    await stored.outbox.enqueue_latch(PEER.tenant, thaw, NOW_MS)
    thawed = Settlement("", "delivered", thaw.command_id, latch=Latched(frozen=False, killed=None))
    await stored.agents.record(PEER, [of_kill(agent_id, kill_id, "running"), thawed], NOW_MS)
    await is_over(stored, agent_id)


async def test_what_was_left_behind_goes_with_the_next_look(stored: Stored) -> None:
    agent_id = numbered_id()
    await stored.outcomes(new_agent(agent_id))
    await stored.agents.record(PEER, [settled(agent_id)], NOW_MS)
    await stored.client.zadd(stored.keys.deferred(PEER.tenant), {agent_id: NOW_MS - 1})
    await stored.client.zadd(stored.keys.outbox(PEER.tenant), {"nobody": 1})
    assert await stored.waiting() == []
    await stored.client.zadd(stored.keys.outbox(PEER.tenant), {agent_id: 1})
    await stored.agents.record(PEER, [settled(agent_id)], NOW_MS)
    await is_over(stored, agent_id)


async def test_a_latch_asked_for_twice_is_there_once(stored: Stored) -> None:
    freeze = NewLatch(new_id(), "freeze", b"{}", kills=True, reason="")
    for _ in range(2):
        await stored.outbox.enqueue_latch(PEER.tenant, freeze, NOW_MS)
        assert await stored.waiting() == [freeze.command_id]


async def test_an_envelope_full_of_one_agent(stored: Stored) -> None:
    """As many transitions of one as an envelope holds: what is written of it is written once."""
    agent_id = numbered_id()
    await stored.outcomes(new_agent(agent_id))
    told = [event(agent_id, ("queued", "spawning")[seq % 2], seq) for seq in range(1, 1001)]
    mark = ReplayMark(f"{PEER.instance}:{uuid7(NOW_MS, bytes(10))}", 60_000, NOW_MS // 1000)
    assert await stored.agents.record(PEER, told, NOW_MS, mark) == [True] * 1000
    assert (await stored.agents.find(agent_id)).status == "queued"
    assert await stored.client.xlen(stored.keys.events) == 1001


async def test_whoever_comes_back_and_ends_in_one_envelope_has_ended_now(stored: Stored) -> None:
    agent_id, later_ms = numbered_id(), NOW_MS + 3 * DAY_MS
    await stored.outcomes(new_agent(agent_id))
    await stored.agents.record(PEER, [settled(agent_id), event(agent_id, "failed", 2)], NOW_MS)
    await stored.agents.await_return(agent_id, new_id())
    again = [event(agent_id, "queued", 3), event(agent_id, "spawning", 4), event(agent_id, "failed", 5)]
    await stored.agents.record(PEER, [*again, event(agent_id, "failed", 5)], later_ms)
    sweep = Sweep(stored.client, stored.keys, ScriptSet("hub"), Bounds(1, 100), At(later_ms + DAY_MS // 2))
    assert await sweep.prune() == 0
    await stored.agents.record(PEER, [event(agent_id, "failed", 5)], later_ms)
    assert [pair[1] for pair in await stored.client.zrange(f"{stored.keys.prefix}ended", 0, -1, withscores=True)] == [
        later_ms
    ]


async def test_what_is_forgotten_leaves_nothing_that_waits(stored: Stored) -> None:
    """An agent that the spoke told of, and that had ended when this hub asked for it under its id."""
    agent_id = numbered_id()
    await stored.agents.record(PEER, [event(agent_id, "failed", 3)], NOW_MS)
    await stored.outcomes(new_agent(agent_id, deadline_ms=NOW_MS + 10 * DAY_MS))
    sweep = Sweep(stored.client, stored.keys, ScriptSet("hub"), Bounds(1, 0), At(NOW_MS + 2 * DAY_MS))
    assert await sweep.prune() == 1
    left = await stored.snapshot()
    assert not [key for key in left if b"outbox" in key or b"deadlines" in key], left


async def test_a_deadline_of_nobody_holds_no_other_up(stored: Stored) -> None:
    late = numbered_id()
    await stored.outcomes(new_agent(late, deadline_ms=NOW_MS))
    await stored.client.zadd(f"{stored.keys.prefix}deadlines", {"nobody": 1})
    assert set(await stored.outbox.expire(NOW_MS + 1)) == {late, "nobody"}
    assert await stored.outbox.expire(NOW_MS + 1) == []


async def test_one_put_off_by_an_older_hub_has_a_place_again(stored: Stored) -> None:
    """Its store came back, as a copy, while this hub ran: the place was in a hash of the command's own."""
    first, second = numbered_id(), numbered_id()
    await stored.outcomes(new_agent(first), new_agent(second))
    await stored.agents.record(PEER, [settled(first, "retry", error=REFUSED, not_before_ms=NOW_MS - 1)], NOW_MS)
    await stored.client.hdel(stored.keys.agent(first), "sequence")
    assert await stored.waiting() == [second, first]
