"""The clock of Valkey's machine is set by an hour: what lies in the store is moved the other way, which is the same."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from common.errors import RateLimited
from spoke.lease_watch import LeaseWatch
from spoke.queue import LEASE_MS
from spoke.queue_terms import Claim
from tests.integration.spoke.queue_rig import TENANT, Rig, check_invariants, sender, spawn
from tests.spoke_node import eventually

pytestmark = pytest.mark.fault(21)
HOUR_MS = 3_600_000
JUMPS = pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS], ids=["forward", "back"])


@pytest.fixture
def rig(valkey: Redis, key_prefix: str) -> Rig:
    return Rig(valkey, key_prefix)


async def set_clock(rig: Rig, jump_ms: int) -> None:
    """Move everything that lies at a time of the server's clock, as far as it knows one."""
    for key in ("leases", "backoff"):
        found: Any = await rig.client.zrange(f"{rig.prefix}{key}", 0, -1, withscores=True)
        for member, at_ms in found:
            await rig.client.zadd(f"{rig.prefix}{key}", {member: at_ms - jump_ms})
    rate = f"{rig.prefix}rate:{TENANT}"
    if await rig.client.exists(rate):
        await rig.client.hincrby(rate, "since", -jump_ms)
        await rig.client.pexpire(rate, max(1000 - jump_ms, 1000))


async def renewed(rig: Rig, claims: list[Claim], before: dict[str, int]) -> bool:
    assert await rig.queue.renew(claims) == [True, True]
    return not before.items() & (await rig.queue.leases()).items()


@JUMPS
async def test_no_lease_is_over_that_is_kept(rig: Rig, jump_ms: int) -> None:
    await rig.accept_many([1, 2])
    claims = [await rig.claimed(), await rig.claimed()]
    watch = LeaseWatch(LEASE_MS / 1000, 12)
    for now_s in (0, 5, 10, 15, 20, 25):
        if now_s == 10:
            await set_clock(rig, jump_ms)
        before = await rig.queue.leases()
        assert await rig.queue.reclaim("other:1", "", watch.look(before, now_s)) is None
        await eventually(partial(renewed, rig, claims, before), "the deadlines are put off")


@JUMPS
async def test_one_that_nobody_keeps_is_taken_over_all_the_same(rig: Rig, jump_ms: int) -> None:
    await rig.accept(spawn(1))
    await rig.claimed()
    await set_clock(rig, jump_ms)
    watch = LeaseWatch(LEASE_MS / 1000, 12)
    abandoned = [watch.look(await rig.queue.leases(), now_s) for now_s in (0, 5, 10, 15)]
    assert await rig.queue.reclaim("other:1", "", abandoned[2]) is None
    assert await rig.queue.reclaim("other:1", "", abandoned[3]) is not None


async def test_a_pause_does_not_last_an_hour_when_the_clock_is_set_back(rig: Rig) -> None:
    await rig.accept(spawn(1))
    assert await rig.queue.retry(await rig.claimed(), "lost", "", pause_ms=60_000, may_help=True) == "queued"
    assert await rig.claim() is None
    await set_clock(rig, -HOUR_MS)
    assert await rig.claim() is not None
    await check_invariants(rig)


async def test_a_rate_does_not_last_an_hour_when_the_clock_is_set_back(rig: Rig) -> None:
    by = sender(rate_per_s=1)
    await rig.accept(by=by)
    with pytest.raises(RateLimited):
        await rig.accept(by=by)
    await set_clock(rig, -HOUR_MS)
    await rig.accept(by=by)
