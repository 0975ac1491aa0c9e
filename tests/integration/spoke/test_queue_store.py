"""How much of the store a tenant may take: counted exactly, what ended goes first, what lives and waits never."""

from __future__ import annotations

from typing import Any, Final

import pytest
from redis.asyncio import Redis

from common.errors import RateLimited
from spoke.agent_record import AgentRecord
from spoke.policy import LOCAL_POLICY
from spoke.queue_terms import Sender, StatusStep, StepRefused
from tests.integration.spoke.queue_rig import OTHER, TENANT, Rig, check_invariants, id_of, kill, sender, spawn

pytestmark = [pytest.mark.attack(40), pytest.mark.attack(64)]
FULL: Final = StepRefused("quota_exceeded", "store_mib")
MIB: Final = 1024 * 1024
LARGE: Final = b"x" * (MIB // 4)
"""An envelope of which four are more than a mebibyte with their agents."""


@pytest.fixture
def rig(valkey: Redis, key_prefix: str) -> Rig:
    return Rig(valkey, key_prefix)


async def size(rig: Rig, tenant: str = TENANT) -> int:
    return int(await rig.client.get(f"{rig.prefix}size:{tenant}") or 0)


async def take_events(rig: Rig) -> None:
    while events := await rig.queue.pending_events(TENANT):
        await rig.queue.acknowledge(TENANT, events)


async def let_expire(rig: Rig, number: int) -> None:
    jti = (await rig.fields(number))["env"]
    await rig.client.delete(f"{rig.prefix}agent:{TENANT}:{id_of(number)}", f"{rig.prefix}env:{TENANT}:{jti}")
    entries: Any = await rig.client.zrange(f"{rig.prefix}ended:{TENANT}", 0, -1)
    for entry in entries:
        if id_of(number) in entry.decode() or jti in entry.decode():
            await rig.client.zadd(f"{rig.prefix}ended:{TENANT}", {entry: 1})


async def accept_one(rig: Rig, number: int, *, raw: bytes = LARGE, tenant: str = TENANT) -> Any:
    (answer,) = await rig.accept(spawn(number), by=sender(tenant, store_mib=1), raw=raw)
    return answer.status if isinstance(answer, AgentRecord) else answer


async def test_what_lives_is_bounded_and_never_dropped(rig: Rig) -> None:
    answers = [await accept_one(rig, number) for number in range(5)]
    assert answers == ["queued", "queued", "queued", FULL, FULL]
    assert await size(rig) <= MIB
    assert [await rig.status(number) for number in range(4)] == ["queued", "queued", "queued", None]
    assert await accept_one(rig, 9, tenant=OTHER) == "queued", "another tenant has room of its own"


async def test_the_bound_is_exact_within_an_envelope(rig: Rig) -> None:
    answers = await rig.accept(*(spawn(number) for number in range(400)), by=sender(store_mib=1))
    taken = [isinstance(answer, AgentRecord) for answer in answers]
    each = await size(rig) / taken.count(True)
    assert set(answers[taken.count(True) :]) == {FULL}
    assert 0 <= MIB - await size(rig) < 2 * each
    await check_invariants(rig)


async def test_of_what_ended_the_oldest_goes_and_can_never_run_again(rig: Rig) -> None:
    for number in (2, 1, 3):
        assert await accept_one(rig, number) == "queued"
        await rig.accept(kill(number))
    await take_events(rig)
    assert await accept_one(rig, 5) == "queued"
    gone, kept = await rig.accept(StatusStep(id_of(2)), StatusStep(id_of(3)))
    assert gone == StepRefused("not_found")
    assert isinstance(kept, AgentRecord)
    assert await size(rig) <= MIB
    assert await accept_one(rig, 2, raw=b"") == StepRefused("stale")
    assert await accept_one(rig, 0, raw=b"") == StepRefused("stale"), "an id from before may have run as well"
    assert await accept_one(rig, 1, raw=b"") == "killed", "what is remembered is what it was"
    assert await accept_one(rig, 4, raw=b"") == "queued"


async def test_a_forgotten_agent_leaves_nothing_behind(rig: Rig) -> None:
    await rig.accept(spawn(1), kill(1), by=sender(store_mib=1), raw=LARGE)
    (jti,) = {(await rig.fields(1))["env"]}
    await take_events(rig)
    assert await rig.client.pttl(f"{rig.prefix}env:{TENANT}:{jti}") > 0
    for number in range(2, 5):
        assert await accept_one(rig, number) == "queued"
    assert await rig.client.exists(f"{rig.prefix}env:{TENANT}:{jti}", f"{rig.prefix}agent:{TENANT}:{id_of(1)}") == 0
    assert id_of(1) not in {ref.agent_id for ref in await rig.queue.newest(10)}
    assert await rig.client.zcard(f"{rig.prefix}ended:{TENANT}") == 0


async def test_a_hub_that_takes_no_events_gets_no_more_agents(rig: Rig) -> None:
    by = sender(store_mib=1)
    number, answer = 0, None
    while answer != FULL:
        number += 1
        assert number < 1000, "the events are not counted"
        answer, *_ = await rig.accept(spawn(number), kill(number), by=by)
    waiting = await rig.client.xlen(f"{rig.prefix}events:{TENANT}")
    assert waiting >= 2 * (number - 1), "no event is dropped"
    await take_events(rig)
    assert await size(rig) < MIB
    assert await accept_one(rig, number + 1, raw=b"") == "queued"


async def test_early_kills_are_bounded(rig: Rig) -> None:
    by = sender(store_mib=1)
    answers = [each for _ in range(9) for each in await rig.accept(*map(kill, range(_ * 1000, _ * 1000 + 1000)), by=by)]
    assert answers == [StepRefused("not_found")] * 8192 + [FULL] * 808
    assert await rig.accept(kill(8191), by=by) == [FULL], "an answer is a promise: this one could not be kept"
    assert (await rig.accept(spawn(1), by=sender()))[0] == StepRefused("killed")
    assert (await rig.accept(kill(1), by=sender(OTHER, store_mib=1)))[0] == StepRefused("not_found")


async def test_what_expired_is_not_counted_any_more(rig: Rig) -> None:
    for number in range(1, 4):
        await rig.accept(spawn(number), kill(number), raw=LARGE)
    await take_events(rig)
    await let_expire(rig, 1)
    await rig.accept(spawn(4), raw=b"")  # a new agent removes old names
    assert await size(rig) < 3 * len(LARGE)
    await rig.accept(kill(4))
    await take_events(rig)
    for number in range(2, 5):
        await let_expire(rig, number)
    assert await rig.queue.forget_expired() == 3
    assert await size(rig) == 0
    assert await rig.client.zcard(f"{rig.prefix}ended:{TENANT}") == 0


async def test_the_operator_has_all_the_room(rig: Rig) -> None:
    local = Sender("local", "build-1", LOCAL_POLICY)
    answers = [(await rig.accept(spawn(number), by=local, raw=LARGE))[0] for number in range(5)]
    assert all(isinstance(answer, AgentRecord) for answer in answers)


async def test_a_rate_counts_commands_too(rig: Rig) -> None:
    by, questions = sender(commands_per_s=3), [StatusStep(id_of(number)) for number in range(5)]

    async def until_refused() -> tuple[str, str]:
        for _ in range(1000):  # a slow machine may need a few: two have to come within a second
            try:
                await rig.accept(*questions, by=by, jti=(jti := rig.jti()))
            except RateLimited as refused:
                return refused.message, jti
        raise AssertionError("never refused")

    message, jti = await until_refused()
    assert message == "policy.commands_per_s allows 3 commands a second"
    assert await rig.client.exists(f"{rig.prefix}replay:hub-eu:{jti}") == 0
    await rig.client.delete(f"{rig.prefix}rate:{TENANT}")  # as a second does
    await rig.accept(spawn(1), by=by)
