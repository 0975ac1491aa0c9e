"""Workers of several machines on one queue, with the scripts in a real Valkey: what began somewhere goes on there."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from spoke.agent_record import AgentRef
from spoke.machines.held_by import Held, by_machine, lose, shown_lease
from spoke.queue_terms import Claim, FreezeStep, KillStep, StepRefused
from tests.integration.spoke.queue_rig import OTHER, TENANT, Rig, check_invariants, id_of, resume, sender, spawn

M1, M2, OWN = "@m1_1/place:life", "@m2_2/place:life", "node:life"


@pytest.fixture
def rig(valkey: Redis, key_prefix: str) -> Rig:
    return Rig(valkey, key_prefix)


async def claim(rig: Rig, worker: str) -> Claim | None:
    return await rig.queue.claim(worker, rig.limits)


async def claimed(rig: Rig, worker: str) -> Claim:
    found = await claim(rig, worker)
    assert found is not None
    return found


async def task(rig: Rig, worker: str) -> str | None:
    found = await claim(rig, worker)
    return None if found is None else found.record.fields["task"]


async def ended(rig: Rig, number: int, worker: str) -> None:
    await rig.accept(spawn(number))
    held = await claimed(rig, worker)
    assert await rig.queue.started(held, 1)
    assert await rig.queue.finish(held, "completed", {"exit_code": 0})


async def resumed(rig: Rig, number: int) -> None:
    (answer,) = await rig.accept(resume(number, 100 + number))
    assert not isinstance(answer, StepRefused)


async def retried(rig: Rig, held: Claim) -> None:
    assert await rig.queue.retry(held, "lost", "", pause_ms=0, may_help=True) == "queued"


async def test_what_is_new_is_anybody_s(rig: Rig) -> None:
    await rig.accept_many(range(1, 4))
    assert [await task(rig, worker) for worker in (M1, OWN, M2)] == ["T-1", "T-2", "T-3"]
    assert (await rig.fields(1))["machine"] == "m1_1"
    assert "machine" not in await rig.fields(2)
    await check_invariants(rig)


@pytest.mark.parametrize("again", ["resumed", "retried"])
@pytest.mark.parametrize("where", [M1, OWN])
async def test_what_began_somewhere_goes_on_there_and_stands_in_nobody_s_way(rig: Rig, where: str, again: str) -> None:
    if again == "resumed":
        await ended(rig, 1, where)
        await resumed(rig, 1)
    else:
        await rig.accept(spawn(1))
        await retried(rig, await claimed(rig, where))
    await rig.accept_many([2, 3])
    elsewhere = [worker for worker in (M1, OWN, M2) if worker != where]
    assert [await task(rig, worker) for worker in elsewhere] == ["T-2", "T-3"]
    assert [await task(rig, worker) for worker in elsewhere] == [None, None]
    await check_invariants(rig)
    (record,) = await rig.queue.describe([AgentRef(TENANT, id_of(1))], {TENANT: 100})
    assert record is not None
    assert record.place is not None
    assert record.place.position == 1
    assert await rig.queue.head_since() > 0
    assert await rig.queue.tenants() == {TENANT}
    assert await task(rig, where) == "T-1"
    await check_invariants(rig)


async def test_one_that_was_given_back_unstarted_is_anybody_s_again(rig: Rig) -> None:
    await rig.accept(spawn(1))
    await rig.queue.give_back(await claimed(rig, M1), "")
    assert await task(rig, OWN) == "T-1"
    assert "machine" not in await rig.fields(1)
    await check_invariants(rig)


async def test_what_a_machine_sets_aside_keeps_its_priority_and_order(rig: Rig) -> None:
    for number in (1, 2):
        await ended(rig, number, OWN)
    for number in (2, 1):
        await resumed(rig, number)
    await rig.accept(spawn(3, priority=1), spawn(4))
    assert [await task(rig, M1), await task(rig, M1), await task(rig, M1)] == ["T-3", "T-4", None]
    await check_invariants(rig)
    assert [await task(rig, OWN) for _ in range(3)] == ["T-2", "T-1", None]
    await check_invariants(rig)


async def test_a_lease_is_taken_over_on_its_own_machine_only(rig: Rig) -> None:
    await rig.accept_many([1, 2])
    mine, own = await claimed(rig, M1), await claimed(rig, OWN)
    for held in (mine, own):
        await rig.expire(held)
    assert await rig.reclaim("@m2_2/place:next", "@m2_2/place:") is None
    (node_s,) = [await rig.reclaim("node:next", "node:")]
    assert node_s is not None
    assert node_s.record.ref == own.record.ref
    assert await rig.reclaim("node:next") is None
    # Another place of the same machine, as after a change of its name.
    again = await rig.reclaim("@m1_1/renamed:next", "@m1_1/renamed:")
    assert again is not None
    assert again.record.ref == mine.record.ref
    assert await rig.queue.renew([mine]) == [False]
    await check_invariants(rig)


async def test_a_kill_a_freeze_and_an_eviction_reach_what_waits_for_a_machine(rig: Rig) -> None:
    for number in (1, 2, 3):
        await ended(rig, number, M1)
    for number in (1, 2, 3):
        await resumed(rig, number)
    step = KillStep(id_of(1), 0, "killed_by_peer")
    assert await rig.queue.kill(AgentRef(TENANT, id_of(1)), step) is not None
    assert await rig.status(1) == "killed"
    await check_invariants(rig)
    await rig.accept(FreezeStep(id_of(200), KillStep("", 0, "killed_by_peer")))
    assert [await rig.status(number) for number in (2, 3)] == ["killed", "killed"]
    await check_invariants(rig)
    await rig.accept(spawn(4), by=sender(OTHER))
    held = await claimed(rig, M1)
    await retried(rig, held)
    assert await task(rig, M2) is None
    assert await rig.queue.evict(KillStep("", 0, "killed_by_operator"), [OTHER], 10) == (1, 0)
    assert await rig.status(4, OTHER) == "killed"
    await check_invariants(rig)


async def test_a_machine_that_is_given_up_loses_all_it_has_and_nobody_else_loses_anything(rig: Rig) -> None:
    await ended(rig, 1, M1)
    await resumed(rig, 1)
    await rig.accept_many([2, 3, 4, 5])
    own, other, later = await claimed(rig, OWN), await claimed(rig, M2), None
    running, later = await claimed(rig, M2), await claimed(rig, M2)
    assert await rig.queue.retry(later, "lost", "", pause_ms=60_000, may_help=True) == "queued"
    assert await rig.queue.started(running, 1)
    found = await by_machine(rig.queue)
    assert found["m1_1"] == Held(0, 0)
    assert found["m2_2"].leases == 2
    assert found["m2_2"].deadline_ms > 0
    assert await lose(rig.queue, "m1_1", "gone") == 1
    assert await lose(rig.queue, "m2_2", "gone") == 3
    assert await by_machine(rig.queue) == {}
    assert await lose(rig.queue, "m2_2", "gone") == 0
    for ref in (other.record.ref, running.record.ref, later.record.ref, AgentRef(TENANT, id_of(1))):
        (record,) = await rig.queue.describe([ref])
        assert record is not None
        assert (record.status, record.fields["reason"], record.fields["detail"]) == ("failed", "lost", "gone")
    assert await rig.queue.renew([running, own]) == [False, True]
    assert not await rig.queue.finish(running, "completed", {})
    await check_invariants(rig)


async def test_a_stranger_s_lease_of_a_machine_goes_with_it(rig: Rig) -> None:
    await ended(rig, 1, M1)
    await rig.client.zadd(f"{rig.prefix}leases", {f"{TENANT} {id_of(1)}": 5})
    await rig.client.hset(f"{rig.prefix}agent:{TENANT}:{id_of(1)}", "worker", M1)
    assert await lose(rig.queue, "m1_1", "gone") == 1
    assert await rig.queue.leases() == {}
    assert await rig.status(1) == "completed"


async def test_a_lease_is_shown_to_whoever_has_its_token(rig: Rig) -> None:
    await rig.accept(spawn(1))
    held = await claimed(rig, M1)
    shown = await shown_lease(rig.queue, held.record.ref, held.token)
    assert shown is not None
    assert (shown.asked, shown.record.fields["worker"]) == (held.asked, M1)
    assert await shown_lease(rig.queue, held.record.ref, "99") is None


@pytest.mark.attack(61)
@pytest.mark.parametrize("how", ["claim", "lose", "evict", "freeze"])
async def test_an_entry_without_a_record_in_a_lane_of_a_machine_is_dropped(rig: Rig, how: str) -> None:
    """No record leads to that lane any more; whoever goes through it must not find the entry for ever."""
    lane = f"{TENANT}@m1_1"
    await rig.client.zadd(f"{rig.prefix}queue:{lane}", {id_of(1): 1})
    await rig.client.zadd(f"{rig.prefix}waiting", {lane: 0})
    if how == "claim":
        assert await claim(rig, M1) is None
    elif how == "lose":
        assert await lose(rig.queue, "m1_1", "gone") == 1
    elif how == "evict":
        await rig.queue.evict(KillStep("", 0, "killed_by_operator"), [TENANT], 10)
    else:
        await rig.accept(FreezeStep(id_of(9), KillStep("", 0, "killed_by_peer")))
    assert not await rig.client.exists(f"{rig.prefix}queue:{lane}")
    assert await rig.client.zrange(f"{rig.prefix}waiting", 0, -1) == []
