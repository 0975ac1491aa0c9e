"""A tenant that is frozen in a real Valkey: spawns refused, what it has waits or is killed, until it thaws."""

from __future__ import annotations

import asyncio
import time

import pytest
from redis.asyncio import Redis

from common.ids import uuid7
from spoke.agent_record import AgentRecord, Place
from spoke.queue import Queue
from spoke.queue_terms import Bounds, FreezeStep, KillStep, Latch, StatusStep, StepRefused, ThawStep
from tests.integration.spoke.queue_rig import OTHER, TENANT, Rig, check_invariants, id_of, sender, spawn

FREEZE = FreezeStep(id_of(500))
FREEZE_AND_KILL = FreezeStep(id_of(501), KillStep("", 3, "killed_by_peer", "budget spent"))
THAW = ThawStep(id_of(502))
FROZEN = StepRefused("frozen")


@pytest.fixture
def rig(valkey: Redis, key_prefix: str) -> Rig:
    return Rig(valkey, key_prefix)


async def test_a_frozen_tenants_spawns_are_refused_and_what_it_has_is_answered(rig: Rig) -> None:
    (old,) = await rig.accept(spawn(1))
    assert await rig.accept(FREEZE) == [Latch(frozen=True)]
    again, new, status = await rig.accept(spawn(1), spawn(2), StatusStep(id_of(1)))
    assert isinstance(old, AgentRecord)
    assert isinstance(again, AgentRecord)
    assert isinstance(status, AgentRecord)
    assert (again.status, new, status.status) == ("queued", FROZEN, "queued")
    assert again.place == status.place == Place(1, "paused")
    assert await rig.status(2) is None
    await check_invariants(rig)


async def test_the_order_of_an_envelopes_commands_counts(rig: Rig) -> None:
    first, frozen, second, thawed, third = await rig.accept(spawn(1), FREEZE, spawn(2), THAW, spawn(3))
    assert (frozen, second, thawed) == (Latch(frozen=True), FROZEN, Latch(frozen=False))
    assert isinstance(first, AgentRecord)
    assert isinstance(third, AgentRecord)
    assert [first.place, third.place] == [Place(1, "paused"), Place(2, "slot")]
    await check_invariants(rig)


async def test_frozen_agents_wait_and_start_when_their_tenant_thaws(rig: Rig) -> None:
    await rig.accept_many([1, 2])
    running = await rig.claimed()
    await rig.accept(FREEZE)
    assert await rig.claim() is None
    assert await rig.queue.retry(running, "lost", "x", pause_ms=0, may_help=True) == "queued"
    assert await rig.claim() is None, "one that is queued again waits, too"
    assert await rig.accept(THAW) == [Latch(frozen=False)]
    assert len(await rig.claim_all()) == 2
    await check_invariants(rig)


async def test_the_latch_holds_for_another_life_of_the_node(rig: Rig) -> None:
    await rig.accept(spawn(1), FREEZE)
    rig.queue = Queue(rig.client, "build-1", rig.bounds, rig.key_prefix)
    assert await rig.accept(spawn(2)) == [FROZEN]
    assert await rig.claim() is None


@pytest.mark.attack(37)
async def test_a_freeze_is_of_one_tenant_alone(rig: Rig) -> None:
    await rig.accept(spawn(1), by=sender(OTHER))
    assert await rig.accept(FREEZE_AND_KILL) == [Latch(frozen=True, killed=0)]
    (new,) = await rig.accept(spawn(2), by=sender(OTHER))
    assert isinstance(new, AgentRecord)
    assert new.place == Place(2, "slot")
    assert await rig.claim_all() == [f"{OTHER} T-1", f"{OTHER} T-2"]
    await check_invariants(rig)


async def test_a_freeze_that_kills_ends_what_waits_and_asks_for_what_runs(rig: Rig) -> None:
    running = await rig.running(1)
    await rig.accept_many([2, 3])
    again = await rig.claimed()
    assert await rig.queue.retry(again, "lost", "x", pause_ms=60_000, may_help=True) == "queued"
    await rig.accept(spawn(9), by=sender(OTHER))
    spawned, frozen = await rig.accept(spawn(4), FREEZE_AND_KILL)
    assert isinstance(spawned, AgentRecord)
    assert frozen == Latch(frozen=True, killed=4)
    for number in (2, 3, 4):
        fields = await rig.fields(number)
        assert (fields["status"], fields["reason"]) == ("killed", "killed_by_peer"), number
    assert await rig.queue.renew([running]) == [FREEZE_AND_KILL.kill]
    assert await rig.status(9, OTHER) == "queued"
    assert await rig.queue.finish(running, "killed", {"reason": "killed_by_peer"})
    assert await rig.accept(FREEZE_AND_KILL) == [Latch(frozen=True, killed=0)]
    await check_invariants(rig)


async def test_a_freeze_that_kills_ends_all_that_waits_however_much_it_is(valkey: Redis, key_prefix: str) -> None:
    rig = Rig(valkey, key_prefix, Bounds(agents=100, queued=10_000))
    for first in range(0, 6000, 1000):
        await rig.accept(*(spawn(number) for number in range(first, first + 1000)), by=sender(queued=10_000))
    assert await rig.accept(FREEZE_AND_KILL) == [Latch(frozen=True, killed=6000)]
    assert (await rig.queue.load())["queued"] == 0


async def test_what_was_spawned_after_a_thaw_is_not_killed_by_the_freeze_before_it(
    valkey: Redis, key_prefix: str
) -> None:
    rig = Rig(valkey, key_prefix, Bounds(agents=100, queued=10_000))
    for first in range(0, 6000, 1000):
        await rig.accept(*(spawn(number) for number in range(first, first + 1000)), by=sender(queued=10_000))
    await rig.accept(FREEZE_AND_KILL, THAW, spawn(9999, priority=1), by=sender(queued=10_000))
    assert await rig.status(9999) == "queued"


async def test_of_a_freeze_and_a_thaw_the_one_that_was_said_last_counts_whichever_comes_last(rig: Rig) -> None:
    assert await rig.accept(FreezeStep(id_of(510))) == [Latch(frozen=True)]
    assert await rig.accept(ThawStep(id_of(509))) == [Latch(frozen=True)], "it was held up on its way"
    assert await rig.accept(spawn(1)) == [FROZEN]
    assert await rig.accept(ThawStep(id_of(511)), spawn(1), THAW) != [FROZEN]
    late, old = await rig.accept(FreezeStep(id_of(510), FREEZE_AND_KILL.kill), StatusStep(id_of(1)))
    assert late == Latch(frozen=False)
    assert isinstance(old, AgentRecord)
    assert old.status == "queued"
    left_ms = await rig.client.pttl(f"{rig.prefix}latched:{TENANT}")
    assert 0 < left_ms <= rig.bounds.replay_ms, "a clock that was set back has the last word for no longer"
    assert await rig.accept(FreezeStep(id_of(511))) == [Latch(frozen=True)], "of one millisecond, the order decides"


async def test_a_freeze_from_a_clock_that_is_ahead_does_not_keep_a_later_thaw_out(rig: Rig) -> None:
    present, ahead = time.time_ns() // 1_000_000, 10 * 365 * 86_400_000
    assert await rig.accept(FreezeStep(uuid7(present + ahead, bytes(10)))) == [Latch(frozen=True)]
    await asyncio.sleep(0.002)
    assert await rig.accept(ThawStep(uuid7(time.time_ns() // 1_000_000, bytes(10)))) == [Latch(frozen=False)]
    assert await rig.accept(FreezeStep(uuid7(present - 1, bytes(10)))) == [Latch(frozen=False)], "that was before"
