"""The indexes that keep lists and placing as quick with many agents as with few: true at each step, and made anew."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from redis.asyncio import Redis

from common.agent_state import AgentStatus
from common.scripts import ScriptSet
from common.valkey import connect
from hub.agents import SHOWN, Filter
from hub.indexing import make_indexes
from hub.records import ENDED
from hub.retention import Bounds
from hub.retention import Retention as Sweep
from hub.settlement import Settlement
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke, agent_status
from tests.integration.hub.test_retention import DAY_MS, At
from tests.integration.hub.test_stored import NOW_MS, PEER, REFUSED, Stored, new_agent, numbered_id, settled


@pytest.fixture
def stored(valkey: Redis, valkey_blocking: Redis, key_prefix: str) -> Stored:
    return Stored(valkey, valkey_blocking, key_prefix)


async def check(stored: Stored) -> None:
    """Compare what the indexes say with all records."""
    records, _ = await stored.agents.page(Filter(), 1000)
    for spoke in {record.spoke for record in records}:
        for shown in SHOWN:
            found, _ = await stored.agents.page(Filter(spoke=spoke, status=shown), 1000)
            assert found == [record for record in records if (record.spoke, record.shown) == (spoke, shown)]
        found, _ = await stored.agents.page(Filter(spoke=spoke), 1000)
        assert found == [record for record in records if record.spoke == spoke]
    for task_id in {record.task_id for record in records}:
        found, _ = await stored.agents.page(Filter(task_id=task_id), 1000)
        assert found == [record for record in records if record.task_id == task_id]
    living = Counter(record.tenant for record in records if record.shown not in ENDED)
    assert +(await stored.agents.load()) == living


async def tell(stored: Stored, agent_id: str, status: str, seq: int) -> None:
    agent = AgentStatus.model_validate(agent_status(agent_id, status, seq))
    await stored.agents.record(PEER, [Settlement(agent_id, "event", agent=agent)], NOW_MS)


async def lead(stored: Stored) -> None:
    """Take agents through all that may become of them, and look after each step."""
    one, resumed, refused, expired, late, unasked = (numbered_id() for _ in range(6))
    await stored.outcomes(*map(new_agent, (one, resumed, refused)))
    await stored.outcomes(*(new_agent(each, deadline_ms=NOW_MS) for each in (expired, late)))
    await check(stored)
    await stored.agents.record(PEER, [settled(one), settled(resumed)], NOW_MS)
    await check(stored)
    assert await stored.outbox.resend([one], NOW_MS) == [one]
    await check(stored)
    await stored.agents.record(PEER, [settled(one), settled(refused, "refused", error=REFUSED)], NOW_MS)
    await stored.outbox.expire(NOW_MS)
    await check(stored)
    await tell(stored, late, "running", 3)
    await tell(stored, unasked, "completed", 4)
    await tell(stored, resumed, "failed", 4)
    await check(stored)
    await stored.agents.await_return(resumed, numbered_id())
    await tell(stored, resumed, "queued", 5)
    await check(stored)


async def test_what_is_shown_of_a_spoke_and_how_many_live_is_true_at_each_step(stored: Stored) -> None:
    await lead(stored)
    sweep = Sweep(stored.client, stored.keys, ScriptSet("hub"), Bounds(1, 0), At(NOW_MS + 2 * DAY_MS))
    assert await sweep.prune() == 3
    await check(stored)
    left = await stored.snapshot()
    assert not [key for key in left if key.endswith((b":completed", b":refused", b":expired"))], "left behind"


async def test_they_are_made_from_the_records_of_a_store_that_had_none(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.indexing._AT_ONCE", 2)
    await lead(stored)
    before = await stored.snapshot()
    for key in before:
        if b":at:" in key or key.endswith(b":living"):
            await stored.client.delete(key)
    assert await stored.agents.load() == {}
    await make_indexes(stored.client, stored.keys, ScriptSet("hub"))
    version = await stored.client.getdel(f"{stored.keys.prefix}indexed")
    assert version == b"2"
    assert await stored.snapshot() == before
    await make_indexes(stored.client, stored.keys, ScriptSet("hub"))
    await stored.client.delete(f"{stored.keys.prefix}living")
    await make_indexes(stored.client, stored.keys, ScriptSet("hub"))
    assert await stored.agents.load() == {}, "what is kept is not made again"
    await stored.client.delete(f"{stored.keys.prefix}indexed")
    await make_indexes(stored.client, stored.keys, ScriptSet("hub"))
    await stored.client.delete(f"{stored.keys.prefix}indexed")
    assert await stored.snapshot() == before, "made twice they are the same"


async def test_they_are_made_for_more_agents_than_one_call_of_valkey_takes_arguments(stored: Stored) -> None:
    for _ in range(5):
        await stored.outcomes(*(new_agent(numbered_id()) for _ in range(1000)))
    await stored.client.delete(f"{stored.keys.prefix}at:{PEER.instance}:pending")
    await make_indexes(stored.client, stored.keys, ScriptSet("hub"))
    assert await stored.client.zcard(f"{stored.keys.prefix}at:{PEER.instance}:pending") == 5000
    assert (await stored.agents.load())[PEER.tenant] == 5000


async def test_a_spawn_that_waits_in_the_store_of_an_older_hub_goes_out(stored: Stored) -> None:
    """There its place and how often it was put off were in a hash of the command's own."""
    first, second = numbered_id(), numbered_id()
    await stored.outcomes(*map(new_agent, (first, second)))
    refused = settled(first, "retry", error=REFUSED, not_before_ms=NOW_MS)
    await stored.agents.record(PEER, [refused, refused], NOW_MS)
    before = await stored.snapshot()
    for agent_id in (first, second):
        record, command = stored.keys.agent(agent_id), f"{stored.keys.prefix}cmd:{agent_id}"
        sequence, put_off = await stored.client.hmget(record, ["sequence", "put_off"])
        await stored.client.hdel(record, "sequence", "put_off")
        pairs: list[bytes | str] = ["kind", "spawn", "agent", agent_id, "tenant", PEER.tenant, "json", "{}"]
        pairs += ["sequence", sequence or ""]
        if put_off:
            pairs += ["attempts", put_off]
        await stored.client.hset(command, items=pairs)
    await make_indexes(stored.client, stored.keys, ScriptSet("hub"))
    await stored.client.delete(f"{stored.keys.prefix}indexed")
    await stored.client.hdel(stored.keys.agent(second), "put_off")  # 0 is not written for one that was not put off
    assert await stored.snapshot() == before
    taken = await stored.outbox.take(PEER.tenant, NOW_MS)
    assert [(command.command_id, command.attempts) for command in taken.commands] == [(first, 2), (second, 0)]


@pytest.mark.slow
async def test_a_hub_makes_them_at_its_start_once(tmp_path: Path) -> None:
    with HubNode(tmp_path) as node:
        async with StandinSpoke(node) as spoke:
            agent_id = await node.spawn(spoke.id)
            await node.until_delivery(agent_id, "delivered")
            prefix = f"hs:{{{node.id}}}:"
            async with connect(node.place.valkey) as client:
                assert await client.delete(f"{prefix}at:{spoke.id}:queued", f"{prefix}indexed") == 2
            await node.restart()
            _, page = await node.call("GET", f"/api/v1/agents?spoke={spoke.id}&status=queued")
            assert [agent["agentId"] for agent in page["agents"]] == [agent_id]
