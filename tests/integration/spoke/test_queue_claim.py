"""Claims, leases and fencing, ends, attempts and kills, with the scripts in a real Valkey."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from redis.asyncio import Redis

import spoke.queue
from common.agent_state import TRANSITIONS
from common.embedded_valkey import EmbeddedValkey
from common.errors import Unavailable
from common.valkey import connect, connect_blocking
from spoke.agent_record import AgentRef
from spoke.queue import LEASE_MS, Queue
from spoke.queue_terms import Bounds, Claim, KillStep
from tests.integration.spoke.queue_rig import (
    OTHER,
    RAW,
    TENANT,
    Rig,
    check_invariants,
    id_of,
    kill,
    now_ms,
    sender,
    spawn,
)

THIRD = "hub-as_3"


@pytest.fixture
def rig(valkey: Redis, key_prefix: str) -> Rig:
    return Rig(valkey, key_prefix)


def test_the_table_of_states_in_the_scripts_is_that_of_the_protocol() -> None:
    text = (Path(spoke.queue.__file__).parent / "scripts" / "_agent.lua").read_text()
    (table,) = re.findall(r"local FOLLOWS = \{\n(.*?)\n\}", text, re.DOTALL)
    follows = {
        state: frozenset(re.findall(r"(\w+) = true", following))
        for state, following in re.findall(r"(\w+) = \{([^}]*)\}", table)
    }
    assert follows == dict(TRANSITIONS)


# --- order


async def test_the_first_priority_first_and_equals_in_the_order_they_came(rig: Rig) -> None:
    for number, priority in enumerate([5, 10, 1, 5, 1, 9, 2]):
        await rig.accept(spawn(9 - number, taskId=f"{priority}-{number}", priority=priority))
    order = [name.split()[1] for name in await rig.claim_all()]
    assert order == ["1-2", "1-4", "2-6", "5-0", "5-3", "9-5", "10-1"]


async def test_tenants_take_turns_however_much_one_of_them_has_waiting(rig: Rig) -> None:
    rig.limits[THIRD] = 100
    await rig.accept_many(range(6))
    await rig.accept(spawn(1), spawn(2), by=sender(OTHER))
    await rig.accept(spawn(1), by=sender(THIRD))
    turns = [name.split()[0] for name in await rig.claim_all()]
    assert sorted(turns[:3]) == sorted([TENANT, OTHER, THIRD])
    assert sorted(turns[3:5]) == sorted([TENANT, OTHER])
    assert turns[5:] == [TENANT] * 4


async def test_a_tenant_that_comes_later_waits_one_round_at_most(rig: Rig) -> None:
    await rig.accept_many(range(50))
    for _ in range(10):
        await rig.claim()
    await rig.accept(spawn(1), by=sender(OTHER))
    turns = [(await rig.claimed()).record.ref.tenant for _ in range(2)]
    assert OTHER in turns


async def test_a_better_priority_goes_before_a_turn(rig: Rig) -> None:
    await rig.accept(spawn(1, priority=5), spawn(2, priority=5))
    await rig.accept(spawn(3, priority=4), spawn(4, priority=4), by=sender(OTHER))
    assert [name.split()[0] for name in await rig.claim_all()] == [OTHER, OTHER, TENANT, TENANT]


async def test_a_tenant_has_its_limit_and_holds_nobody_else_up(rig: Rig) -> None:
    rig.limits = {TENANT: 2, OTHER: 1}
    await rig.accept_many(range(4), priority=1)
    await rig.accept(spawn(7), spawn(8), by=sender(OTHER))
    assert sorted(name.split()[0] for name in await rig.claim_all()) == sorted([TENANT, TENANT, OTHER])
    await check_invariants(rig)


async def test_a_slot_that_is_freed_is_taken_again(rig: Rig) -> None:
    rig.limits = {TENANT: 1}
    await rig.accept_many(range(2))
    first = await rig.claimed()
    assert await rig.claim() is None
    assert await rig.queue.finish(first, "failed", {"reason": "lost"})
    assert await rig.claim() is not None


async def test_the_spoke_has_its_limit(valkey: Redis, key_prefix: str) -> None:
    rig = Rig(valkey, key_prefix, Bounds(agents=3))
    await rig.accept_many(range(9))
    assert len(await rig.claim_all()) == 3


@pytest.mark.parametrize("limits", [{}, {OTHER: 5}, {TENANT: 0}], ids=["nobody", "another", "none at once"])
async def test_whoever_may_not_start_waits(rig: Rig, limits: dict[str, int]) -> None:
    await rig.accept(spawn(1))
    rig.limits = limits
    assert await rig.claim() is None
    rig.limits = {TENANT: 1}
    assert await rig.claim() is not None


async def test_a_spoke_for_no_agents_accepts_and_starts_none(valkey: Redis, key_prefix: str) -> None:
    rig = Rig(valkey, key_prefix, Bounds(agents=0))
    await rig.accept(spawn(1))
    assert await rig.claim() is None
    assert await rig.status(1) == "queued"


@pytest.mark.parametrize("flag", ["paused", "draining"])
async def test_nothing_is_claimed_while_paused_or_draining(rig: Rig, flag: str) -> None:
    await rig.accept(spawn(1))
    await rig.queue.set_flag(flag, on=True)
    assert await rig.claim() is None
    await rig.queue.set_flag(flag, on=False)
    assert await rig.claim() is not None


async def test_many_claims_at_once_give_each_agent_to_one(rig: Rig) -> None:
    await rig.accept_many(range(30))
    claims = await asyncio.gather(*(rig.claim() for _ in range(40)))
    given = [claim.record.ref.agent_id for claim in claims if claim is not None]
    assert sorted(given) == [id_of(number) for number in range(30)]
    assert len({claim.token for claim in claims if claim is not None}) == 30


# --- leases and fencing


async def test_a_claim_is_a_lease_with_the_envelope_and_a_counted_attempt(rig: Rig) -> None:
    await rig.accept(spawn(1))
    claim = await rig.claimed()
    assert (claim.asked.spawn, claim.record.status, claim.record.attempt, claim.record.seq) == (RAW, "spawning", 1, 2)
    deadline = await rig.client.zscore(f"{rig.prefix}leases", f"{TENANT} {id_of(1)}")
    assert deadline is not None
    assert abs(float(deadline) - LEASE_MS - now_ms()) < 5_000
    await check_invariants(rig)


async def test_a_renewal_puts_the_deadline_off(rig: Rig) -> None:
    await rig.accept(spawn(1))
    claim = await rig.claimed()
    await rig.expire(claim)
    assert await rig.queue.renew([claim]) == [True]
    assert await rig.reclaim("other") is None
    assert await rig.queue.renew([]) == []


async def test_only_an_expired_lease_is_taken_over(rig: Rig) -> None:
    await rig.accept_many([1, 2])
    first, second = await rig.claimed(), await rig.claimed()
    assert await rig.reclaim("other:1") is None
    await rig.expire(second)
    taken = await rig.reclaim("other:1")
    assert taken is not None
    assert (taken.record.ref, taken.asked.spawn) == (second.record.ref, RAW)
    assert int(taken.token) > int(second.token) > int(first.token)
    assert taken.record.attempt == 1, "taking over is no new attempt"
    await check_invariants(rig)


async def test_what_an_earlier_life_of_the_same_spoke_held_is_taken_over_at_once(rig: Rig) -> None:
    await rig.accept_many([1, 2, 3])
    for worker in ("node:old", "node:new", "nodeX:old"):
        assert await rig.queue.claim(worker, rig.limits) is not None
    taken = await rig.reclaim("node:new", "node:")
    assert taken is not None
    assert taken.record.ref.agent_id == id_of(1)
    assert await rig.reclaim("node:new", "node:") is None


@pytest.mark.fault(22)
@pytest.mark.parametrize("status", ["spawning", "running"])
async def test_the_late_writes_of_a_worker_that_lost_its_lease_are_refused(rig: Rig, status: str) -> None:
    await rig.accept(spawn(1))
    late = await rig.claimed()
    if status == "running":
        assert await rig.queue.started(late, 1)
    await rig.expire(late)
    taken = await rig.reclaim("other")
    assert taken is not None
    before = await rig.snapshot()
    assert await rig.queue.launch(late) == "lost"
    assert await rig.queue.started(late, 5) is False
    assert await rig.queue.renew([late]) == [False]
    assert await rig.queue.finish(late, "failed", {"reason": "exit_nonzero"}) is False
    assert await rig.queue.retry(late, "lost", "", pause_ms=0, may_help=True) == "lost"
    await rig.queue.give_back(late, "")
    assert await rig.snapshot() == before
    assert await rig.queue.renew([taken]) == [True]


@pytest.mark.fault(22)
async def test_a_token_is_good_for_its_own_agent_only(rig: Rig) -> None:
    first, second = await rig.running(1), await rig.running(2)
    forged = Claim(first.record, second.token, first.asked)
    assert await rig.queue.finish(forged, "completed", {}) is False
    assert await rig.status(1) == "running"


@pytest.mark.fault(12)
async def test_every_write_of_a_worker_may_be_repeated(rig: Rig) -> None:
    await rig.accept(spawn(1))
    claim = await rig.claimed()
    for _ in range(2):
        assert await rig.queue.launch(claim) == "launch"
    for started_at in (1, 2):
        assert await rig.queue.started(claim, started_at)
    assert (await rig.fields(1))["started_at"] == "1"
    for _ in range(2):
        assert await rig.queue.finish(claim, "completed", {})
    assert [event.status for event in await rig.events()] == ["queued", "spawning", "running", "completed"]
    await check_invariants(rig)


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    ("max_attempts", "killed", "outcomes"),
    [(3, False, ["queued", "lost"]), (1, False, ["failed", "failed"]), (3, True, ["killed", "killed"])],
    ids=["queued", "failed", "killed"],
)
async def test_a_retry_may_be_repeated(rig: Rig, max_attempts: int, killed: bool, outcomes: list[str]) -> None:
    claim = await rig.running(1, maxAttempts=max_attempts)
    if killed:
        await rig.accept(kill(1))
    for outcome in outcomes:
        assert await rig.queue.retry(claim, "lost", "", pause_ms=60_000, may_help=True) == outcome
    await check_invariants(rig)


# --- ends and attempts


async def test_an_end_frees_everything_and_keeps_the_record_for_its_time(rig: Rig) -> None:
    claim = await rig.running(1)
    assert await rig.queue.finish(claim, "failed", {"reason": "exit_nonzero", "exit_code": 3, "result": "{}"})
    fields = await rig.fields(1)
    assert (fields["status"], fields["reason"], fields["exit_code"]) == ("failed", "exit_nonzero", "3")
    assert await rig.queue.load() == {"queued": 0, "active": 0}
    life_ms = await rig.client.pttl(f"{rig.prefix}agent:{TENANT}:{id_of(1)}")
    assert rig.bounds.retention_ms - 60_000 < life_ms <= rig.bounds.retention_ms
    await check_invariants(rig)


async def test_an_agent_that_never_ran_cannot_complete(rig: Rig) -> None:
    await rig.accept(spawn(1))
    claim = await rig.claimed()
    assert await rig.queue.finish(claim, "completed", {}) is False
    assert await rig.status(1) == "spawning"
    await check_invariants(rig)


@pytest.mark.fault(6)
@pytest.mark.fault(23)
async def test_attempts_are_counted_and_end(rig: Rig) -> None:
    await rig.accept(spawn(1, maxAttempts=3))
    for attempt, outcome in ((1, "queued"), (2, "queued"), (3, "failed")):
        claim = await rig.claimed()
        assert claim.record.attempt == attempt
        assert await rig.queue.retry(claim, "lost", f"why {attempt}", pause_ms=0, may_help=True) == outcome
        await check_invariants(rig)
    fields = await rig.fields(1)
    assert (fields["status"], fields["reason"], fields["detail"]) == ("failed", "attempts_exhausted", "why 3")
    assert await rig.claim() is None


@pytest.mark.parametrize(
    ("max_attempts", "may_help", "reason"),
    [(1, True, "lost"), (3, False, "lost"), (1, False, "lost"), (2, True, "attempts_exhausted")],
)
async def test_the_reason_of_the_last_attempt(rig: Rig, max_attempts: int, may_help: bool, reason: str) -> None:
    await rig.accept(spawn(1, maxAttempts=max_attempts))
    for _ in range(max_attempts if may_help else 1):
        await rig.queue.retry(await rig.claimed(), "lost", "", pause_ms=0, may_help=may_help)
    assert (await rig.fields(1))["reason"] == reason


async def test_a_pause_is_kept_and_then_the_agent_goes_to_the_end_of_its_priority(rig: Rig) -> None:
    await rig.accept(spawn(1))
    claim = await rig.claimed()
    assert await rig.queue.retry(claim, "lost", "", pause_ms=60_000, may_help=True) == "queued"
    (waiting,) = await rig.queue.describe([claim.record.ref])
    assert waiting is not None
    assert waiting.place is not None
    assert (waiting.place.position, waiting.place.waiting_for) == (1, "backoff")
    assert await rig.claim() is None
    await rig.accept(spawn(2))
    await rig.client.zadd(f"{rig.prefix}backoff", {str(claim.record.ref): 1})  # the pause has passed
    assert [name.split()[1] for name in await rig.claim_all()] == ["T-2", "T-1"]
    await check_invariants(rig)


async def test_a_second_attempt_forgets_when_the_first_was_started(rig: Rig) -> None:
    claim = await rig.running(1)
    await rig.queue.retry(claim, "lost", "", pause_ms=0, may_help=True)
    assert "started_at" not in await rig.fields(1)


@pytest.mark.fault(33)
async def test_an_agent_that_was_given_back_has_lost_no_attempt(rig: Rig) -> None:
    await rig.accept(spawn(1, maxAttempts=1))
    for _ in range(3):
        claim = await rig.claimed()
        assert claim.record.attempt == 1
        await rig.queue.give_back(claim, "going")
        await check_invariants(rig)


# --- kills


@pytest.mark.parametrize("place", ["queued", "backoff"])
async def test_what_waits_is_killed_at_once(rig: Rig, place: str) -> None:
    await rig.accept(spawn(1))
    if place == "backoff":
        await rig.queue.retry(await rig.claimed(), "lost", "", pause_ms=60_000, may_help=True)
    (answer,) = await rig.accept(kill(1))
    assert answer is not None
    fields = await rig.fields(1)
    assert (fields["status"], fields["reason"]) == ("killed", "killed_by_peer")
    assert await rig.claim() is None
    await check_invariants(rig)


@pytest.mark.parametrize("status", ["spawning", "running"])
async def test_the_kill_of_what_is_held_goes_to_its_worker(rig: Rig, status: str) -> None:
    await rig.accept(spawn(1))
    claim = await rig.claimed()
    if status == "running":
        await rig.queue.started(claim, 1)
    await rig.accept(kill(1, grace_s=3, reason="superseded"))
    assert await rig.status(1) == status
    expected = KillStep("", 3, "killed_by_peer", "superseded")
    assert await rig.queue.renew([claim]) == [expected]
    assert await rig.queue.launch(claim) == "killed", "nothing is started once a kill was asked for"
    assert await rig.queue.finish(claim, "killed", {"reason": "killed_by_peer"})
    await check_invariants(rig)


async def test_a_kill_stays_asked_for_when_the_agent_changes_hands(rig: Rig) -> None:
    claim = await rig.running(1)
    await rig.accept(kill(1))
    await rig.expire(claim)
    taken = await rig.reclaim("other")
    assert taken is not None
    assert await rig.queue.renew([taken]) == [kill(1, agent_id="")]


async def test_a_killed_agent_gets_no_further_attempt(rig: Rig) -> None:
    claim = await rig.running(1)
    await rig.accept(kill(1))
    assert await rig.queue.retry(claim, "lost", "", pause_ms=0, may_help=True) == "killed"
    assert (await rig.fields(1))["reason"] == "killed_by_peer"
    await check_invariants(rig)


async def test_the_operator_kills_whose_agent_ever(rig: Rig) -> None:
    await rig.accept(spawn(1))
    record = await rig.queue.kill(AgentRef(TENANT, id_of(1)), kill(1, cause="killed_by_operator"))
    assert record is not None
    assert (record.status, record.fields["reason"]) == ("killed", "killed_by_operator")
    assert await rig.queue.kill(AgentRef(TENANT, id_of(2)), kill(2)) is None


@pytest.mark.fault(20)
async def test_a_kill_that_races_the_end_leaves_one_end_and_one_event_for_it(rig: Rig) -> None:
    for number in range(20):
        claim = await rig.running(number)
        await asyncio.gather(
            rig.queue.finish(claim, "completed", {}),
            rig.accept(kill(number)),
            rig.queue.retry(claim, "lost", "", pause_ms=60_000, may_help=True),
            rig.queue.finish(claim, "failed", {"reason": "timeout"}),
        )
        await rig.accept(kill(number))
    events = await rig.events()
    for number in range(20):
        ends = [event.status for event in events if event.fields["id"] == id_of(number) and event.terminal]
        assert len(ends) == 1
    await check_invariants(rig)


# --- events, messages, a Valkey that is away


async def test_events_are_kept_until_they_are_acknowledged(rig: Rig) -> None:
    await rig.accept_many([1, 2])
    first, second = await rig.queue.pending_events(TENANT)
    await rig.queue.acknowledge(TENANT, [])
    await rig.queue.acknowledge(TENANT, [first])
    assert await rig.queue.pending_events(TENANT) == [second]
    assert await rig.queue.pending_events(OTHER) == []


async def test_scripts_say_what_has_changed(rig: Rig, valkey_blocking: Redis) -> None:
    heard: list[tuple[str, str]] = []

    async def listen() -> None:
        async for message in rig.queue.messages(valkey_blocking):
            heard.append(message)
            if message[0] == "kills":
                return

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(listen())
        while not heard:  # until it listens
            await rig.queue.set_flag("paused", on=False)
        await rig.running(1)
        await rig.accept(kill(1))
    assert heard[0] == ("wake", "")
    assert heard[-1] == ("kills", f"{TENANT} {id_of(1)}")
    # Of `spawning` and `running`: that it is queued is in the REPLY, and its event goes along with the next one.
    assert heard.count(("changes", TENANT)) == 2


@pytest.mark.fault(11)
async def test_a_valkey_that_is_away_is_unavailable_and_heard_again_once_it_is_back(
    tmp_path: Path, key_prefix: str
) -> None:
    async with connect(tmp_path) as client, connect_blocking(tmp_path) as listener:
        queue = Queue(client, "build-1", Bounds(), key_prefix)
        with pytest.raises(Unavailable):
            await queue.claim("node:1", {})
        with pytest.raises(Unavailable):
            await queue.load()
        messages = queue.messages(listener)
        first = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0)
        async with EmbeddedValkey(tmp_path), asyncio.timeout(10):
            while not first.done():
                await queue.set_flag("paused", on=False)
                await asyncio.sleep(0.01)
            assert await first == ("wake", "")


# --- what a stranger with access to Valkey can do: delay and drop, not more


@pytest.mark.attack(61)
@pytest.mark.parametrize("place", ["queue", "backoff", "leases"])
async def test_a_record_that_was_taken_away_holds_nobody_up(rig: Rig, place: str) -> None:
    await rig.accept_many([1, 2])
    if place != "queue":
        claim = await rig.claimed()
        if place == "backoff":
            await rig.queue.retry(claim, "lost", "", pause_ms=0, may_help=True)
        else:
            await rig.expire(claim)
    await rig.client.delete(f"{rig.prefix}agent:{TENANT}:{id_of(1)}")
    assert await rig.reclaim("other") is None
    assert await rig.claim_all() == [f"{TENANT} T-2"]
    assert await rig.queue.load() == {"queued": 0, "active": 1}


@pytest.mark.attack(61)
async def test_an_envelope_that_was_taken_away_is_an_empty_one(rig: Rig) -> None:
    await rig.accept(spawn(1), jti=id_of(99))
    await rig.client.hdel(f"{rig.prefix}agent:{TENANT}:{id_of(1)}", "env")
    claim = await rig.claimed()
    assert claim.asked.spawn == b""
    await rig.expire(claim)
    taken = await rig.reclaim("other")
    assert taken is not None
    assert taken.asked.spawn == b""


@pytest.mark.attack(61)
async def test_a_record_cannot_pass_for_another_tenants(rig: Rig) -> None:
    await rig.accept(spawn(1))
    await rig.client.hset(f"{rig.prefix}agent:{TENANT}:{id_of(1)}", mapping={"tenant": OTHER, "id": id_of(2)})
    assert (await rig.claimed()).record.ref == AgentRef(TENANT, id_of(1))
