"""Requeueing in the queue, with the scripts in a real Valkey."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from spoke.agent_record import AgentRecord, AgentRef
from spoke.queue_terms import Bounds, Requeue, RequeueRefused
from tests.integration.spoke.queue_rig import RAW, TENANT, Rig, check_invariants, id_of, spawn

OLD, NEW = AgentRef(TENANT, id_of(1)), 100


@pytest.fixture
def rig(valkey: Redis, key_prefix: str) -> Rig:
    return Rig(valkey, key_prefix, Bounds(agents=100, queued=3))


async def ended(rig: Rig, status: str = "failed") -> None:
    claim = await rig.running(1, priority=3)
    assert await rig.queue.finish(claim, status, {"reason": "attempts_exhausted"})


async def requeue(rig: Rig, number: int = NEW) -> AgentRecord | RequeueRefused:
    again = spawn(number, taskId="T-1", priority=3).spawn
    return await rig.queue.requeue(OLD, Requeue(again, rig.jti(), RAW))


@pytest.mark.fault(23)
@pytest.mark.parametrize("status", ["failed", "killed"])
async def test_the_work_is_queued_as_a_new_agent_and_the_old_one_stays(rig: Rig, status: str) -> None:
    await ended(rig, status)
    before = await rig.fields(1)
    again = await requeue(rig)
    assert isinstance(again, AgentRecord)
    assert (again.ref, again.status, again.fields["origin"]) == (AgentRef(TENANT, id_of(NEW)), "queued", id_of(1))
    assert again.place is not None
    assert await rig.fields(1) == {**before, "requeued_as": id_of(NEW)}
    assert [(record.ref.agent_id, record.status) for record in await rig.events()][-1] == (id_of(NEW), "queued")
    claim = await rig.claimed()
    assert (claim.record.ref.agent_id, claim.asked.spawn) == (id_of(NEW), RAW)
    assert await rig.queue.finish(claim, "failed", {"reason": "lost"})
    await check_invariants(rig)


async def test_the_same_call_again_changes_nothing(rig: Rig) -> None:
    await ended(rig)
    again = spawn(NEW).spawn
    first = await rig.queue.requeue(OLD, Requeue(again, rig.jti(), b"raw"))
    before = await rig.snapshot()
    second = await rig.queue.requeue(OLD, Requeue(again, rig.jti(), b"raw"))
    assert isinstance(first, AgentRecord)
    assert isinstance(second, AgentRecord)
    assert first.ref == second.ref
    assert await rig.snapshot() == before


@pytest.mark.parametrize("code", ["not_found", "not_failed", "conflict", "draining", "queue_full"])
async def test_what_is_refused_changes_nothing(rig: Rig, code: str) -> None:
    if code == "not_failed":
        await ended(rig, "completed")
    elif code != "not_found":
        await ended(rig)
    if code == "conflict":
        await requeue(rig)
    if code == "draining":
        await rig.queue.set_flag("draining", on=True)
    if code == "queue_full":
        await rig.accept_many([2, 3, 4])
    before = await rig.snapshot()
    assert await requeue(rig, NEW + 1) == RequeueRefused(code, id_of(NEW) if code == "conflict" else "")
    assert await rig.snapshot() == before


@pytest.mark.parametrize("state", ["queued", "spawning", "running"])
async def test_what_has_not_ended_is_not_requeued(rig: Rig, state: str) -> None:
    await rig.accept(spawn(1))
    if state != "queued":
        claim = await rig.claimed()
        if state == "running":
            await rig.queue.started(claim, 1)
    assert await requeue(rig) == RequeueRefused("not_failed", "")


@pytest.mark.parametrize("flag", ["paused", "draining"])
async def test_what_waits_says_that_nothing_starts(rig: Rig, flag: str) -> None:
    await rig.accept(spawn(1))
    await rig.queue.set_flag(flag, on=True)
    assert (await rig.queue.flags())[flag]
    (record,) = await rig.queue.describe([OLD], rig.limits)
    assert record is not None
    assert record.place is not None
    assert (record.place.position, record.place.waiting_for) == (1, "paused")
    assert await rig.claim() is None


@pytest.mark.parametrize(
    ("limits", "expected"),
    [({TENANT: 1}, "peer_quota"), ({TENANT: 2}, "slot"), ({}, "peer_quota"), (None, "slot")],
    ids=["at its quota", "below it", "not active", "nobody asked"],
)
async def test_what_a_waiting_agent_waits_for(rig: Rig, limits: dict[str, int] | None, expected: str) -> None:
    await rig.running(2)
    await rig.accept(spawn(1))
    (record,) = await rig.queue.describe([OLD], limits)
    assert record is not None
    assert record.place is not None
    assert record.place.waiting_for == expected


async def test_the_newest_in_pages(rig: Rig) -> None:
    for number in range(1, 4):
        await rig.accept(spawn(number))
    first = await rig.queue.newest(2)
    assert [ref.agent_id for ref in first] == [id_of(3), id_of(2)]
    assert [ref.agent_id for ref in await rig.queue.newest(2, first[-1])] == [id_of(1)]
    assert await rig.queue.newest(2, AgentRef(TENANT, id_of(1))) == []
    assert await rig.queue.describe([]) == []
