"""Accepting envelopes into a real Valkey: replay, identity of commands, quotas, rate, and all of it at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from redis.asyncio import Redis

from common.commands import content_hash
from common.errors import EnvelopeRejected, RateLimited
from spoke.agent_record import AgentRecord, Place
from spoke.policy import UNLIMITED, Policy
from spoke.queue import Queue
from spoke.queue_terms import Bounds, KnownStep, NoStep, Sender, SpawnStep, StatusStep, StepRefused
from tests.integration.spoke.queue_rig import (
    INSTANCE,
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


@pytest.fixture
def rig(valkey: Redis, key_prefix: str) -> Rig:
    return Rig(valkey, key_prefix)


def record(answer: Any) -> AgentRecord:
    assert isinstance(answer, AgentRecord)
    return answer


async def test_a_new_agent_is_queued_under_its_own_id_and_announced(rig: Rig) -> None:
    step = spawn(1, priority=3, timeoutS=7, maxAttempts=2)
    (answer,) = await rig.accept(step, jti=id_of(99))
    fields = await rig.fields(1)
    queued_at = fields.pop("queued_at")
    assert abs(int(queued_at) - now_ms()) < 10_000
    assert fields == {
        "id": id_of(1), "tenant": TENANT, "peer": "hub-eu", "status": "queued", "seq": "1", "attempt": "0",
        "hash": content_hash(step.spawn), "env": id_of(99), "index": "0", "task": "T-1", "type": "worker",
        "priority": "3", "timeout": "7", "max_attempts": "2",
    }  # fmt: skip
    assert record(answer).place == Place(1, "slot")
    assert record(answer).to_status()["granted"] == {"priority": 3, "timeoutS": 7, "maxAttempts": 2}
    (event,) = await rig.events()
    assert event.fields == {**fields, "queued_at": queued_at}
    await check_invariants(rig)


async def test_what_a_new_agent_is_answered_with_is_what_lies_in_the_queue(rig: Rig) -> None:
    (answer,) = await rig.accept(spawn(1))
    (asked,) = await rig.accept(StatusStep(id_of(1)))
    assert record(answer).to_status() == record(asked).to_status()


@pytest.mark.attack(22)
async def test_the_same_command_in_a_fresh_envelope_is_the_same_agent(rig: Rig) -> None:
    claim = await rig.running(1)
    before = await rig.snapshot()
    (answer,) = await rig.accept(spawn(1), jti=id_of(99))
    changed = {"status": "running", "seq": "3", "started_at": "1", "launched": "1"}
    assert record(answer).fields == {**claim.record.fields, **changed}
    del (after := await rig.snapshot())[f"{rig.prefix}replay:hub-eu:{id_of(99)}"]
    assert after == before
    await check_invariants(rig)


@pytest.mark.attack(23)
@pytest.mark.parametrize(
    "change",
    [
        {"taskId": "T-9"},
        {"agentType": "tester"},
        {"priority": 6},
        {"timeoutS": 61},
        {"maxAttempts": 4},
        {"context": {"repository": "https://git.example.org/app.git", "branch": "main", "workItems": ["other"]}},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_the_same_id_with_other_content_is_a_conflict_and_the_original_stays(rig: Rig, change: Any) -> None:
    await rig.accept(spawn(1))
    before = await rig.fields(1)
    assert await rig.accept(spawn(1, **change)) == [StepRefused("conflict")]
    assert await rig.fields(1) == before
    await check_invariants(rig)


@pytest.mark.attack(23)
@pytest.mark.attack(37)
async def test_another_peer_with_the_same_id_learns_nothing_and_gets_an_agent_of_its_own(rig: Rig) -> None:
    await rig.accept(spawn(1))
    other = sender(OTHER)
    absent, foreign = await rig.accept(StatusStep(id_of(2)), StatusStep(id_of(1)), by=other)
    assert absent == foreign == StepRefused("not_found")
    (answer,) = await rig.accept(spawn(1, taskId="mine"), by=other)
    assert record(answer).fields["task"] == "mine"
    assert (await rig.fields(1))["task"] == "T-1"
    await check_invariants(rig)


@pytest.mark.attack(37)
@pytest.mark.fault(19)
async def test_a_kill_of_a_foreign_agent_kills_nothing_and_leaves_a_tombstone_of_the_sender_only(rig: Rig) -> None:
    await rig.accept(spawn(1))
    assert await rig.accept(kill(1), by=sender(OTHER)) == [StepRefused("not_found")]
    assert await rig.status(1) == "queued"
    assert await rig.accept(spawn(1), by=sender(OTHER)) == [StepRefused("killed")]
    assert await rig.status(1, OTHER) is None
    assert record((await rig.accept(spawn(1)))[0]).status == "queued"
    await check_invariants(rig)


@pytest.mark.fault(19)
async def test_a_kill_before_the_spawn_keeps_it_from_ever_starting(rig: Rig) -> None:
    assert await rig.accept(kill(1)) == [StepRefused("not_found")]
    for _ in range(2):
        assert await rig.accept(spawn(1)) == [StepRefused("killed")]
    assert await rig.claim() is None
    until_ms = await rig.client.zscore(f"{rig.prefix}tombs:{TENANT}", id_of(1))
    assert until_ms is not None
    assert abs(until_ms - now_ms() - 24 * 3600 * 1000) < 60_000
    await rig.client.zadd(f"{rig.prefix}tombs:{TENANT}", {id_of(1): now_ms() - 1})
    assert record((await rig.accept(spawn(1)))[0]).status == "queued"


async def test_commands_of_one_envelope_are_taken_in_order(rig: Rig) -> None:
    answers = await rig.accept(
        StatusStep(id_of(1)), spawn(1), NoStep(), StatusStep(id_of(1)), kill(1), StatusStep(id_of(1)), kill(2), spawn(2)
    )
    shown = [answer.status if isinstance(answer, AgentRecord) else getattr(answer, "code", None) for answer in answers]
    assert shown == ["not_found", "queued", None, "queued", "killed", "killed", "not_found", "killed"]
    await check_invariants(rig)


@pytest.mark.attack(22)
async def test_a_spawn_that_is_only_looked_up_finds_itself_and_queues_nothing(rig: Rig) -> None:
    again, other = KnownStep(spawn(1).spawn), KnownStep(spawn(1, taskId="T-other").spawn)
    assert await rig.accept(again) == [None]
    assert await rig.claim() is None
    accepted = record((await rig.accept(spawn(1)))[0])
    found = await rig.accept(again, other)
    assert (record(found[0]).ref, record(found[0]).status, found[1]) == (accepted.ref, "queued", None)
    assert await rig.accept(again, by=sender(OTHER)) == [None]
    await check_invariants(rig)


async def test_an_envelope_that_kills_one_of_its_own_agents_is_kept_for_the_other(rig: Rig) -> None:
    await rig.accept(spawn(1), kill(1), spawn(2))
    await check_invariants(rig)
    assert (await rig.claimed()).asked.spawn == RAW


@pytest.mark.attack(21)
async def test_an_envelope_is_accepted_once(rig: Rig) -> None:
    await rig.accept(spawn(1), jti=id_of(99))
    before = await rig.snapshot()
    with pytest.raises(EnvelopeRejected) as refused:
        await rig.accept(spawn(2), kill(1), jti=id_of(99))
    assert refused.value.code == "replayed"
    assert await rig.snapshot() == before


@pytest.mark.attack(21)
async def test_the_mark_against_replay_outlives_every_window(rig: Rig) -> None:
    await rig.accept(jti=id_of(99))
    life_ms = await rig.client.pttl(f"{rig.prefix}replay:hub-eu:{id_of(99)}")
    assert 419_000 < life_ms <= 420_000  # 300 s of validity, 60 s of skew before and after


@pytest.mark.attack(33)
async def test_a_peer_that_joined_again_cannot_replay_its_former_envelopes(rig: Rig) -> None:
    await rig.accept(spawn(1), jti=id_of(99))
    with pytest.raises(EnvelopeRejected, match="accepted before"):
        await rig.accept(spawn(1), by=sender("hub-eu_7"), jti=id_of(99))


@pytest.mark.attack(21)
async def test_two_peers_may_use_the_same_jti(rig: Rig) -> None:
    await rig.accept(spawn(1), jti=id_of(99))
    await rig.accept(spawn(1), by=sender(OTHER), jti=id_of(99))
    await check_invariants(rig)


async def in_parallel(queues: list[Queue], times: int, by: Sender, steps: Any, jtis: Any) -> Counter[str]:
    """Accept `times` envelopes at once, taking turns between clients; counts the answers."""

    async def accept(number: int) -> str:
        try:
            (answer,) = await queues[number % len(queues)].accept(by, jtis(number), RAW, steps(number))
        except EnvelopeRejected as error:
            return error.code
        return answer.status if isinstance(answer, AgentRecord) else str(getattr(answer, "code", None))

    return Counter(await asyncio.gather(*(accept(number) for number in range(times))))


@pytest.fixture
def two_clients(rig: Rig, valkey_blocking: Redis) -> list[Queue]:
    return [rig.queue, Queue(valkey_blocking, INSTANCE, rig.bounds, rig.key_prefix)]


@pytest.mark.attack(21)
@pytest.mark.fault(16)
async def test_64_replays_in_parallel_have_one_effect(rig: Rig, two_clients: list[Queue]) -> None:
    answers = await in_parallel(two_clients, 64, sender(), lambda _: [spawn(1)], lambda _: id_of(99))
    assert answers == {"queued": 1, "replayed": 63}
    assert len(await rig.events()) == 1
    await check_invariants(rig)


@pytest.mark.attack(22)
@pytest.mark.fault(16)
async def test_64_fresh_envelopes_with_one_command_are_one_agent(rig: Rig, two_clients: list[Queue]) -> None:
    answers = await in_parallel(two_clients, 64, sender(), lambda _: [spawn(1)], id_of)
    assert answers == {"queued": 64}
    assert len(await rig.events()) == 1
    assert await rig.claim_all() == [f"{TENANT} T-1"]


@pytest.mark.attack(40)
async def test_a_quota_is_exact_when_64_spawns_come_at_once_over_two_clients(
    rig: Rig, two_clients: list[Queue]
) -> None:
    by = sender(queued=17)
    answers = await in_parallel(
        two_clients, 64, by, lambda number: [spawn(number)], lambda number: id_of(1000 + number)
    )
    assert answers == {"queued": 17, "quota_exceeded": 47}
    assert await rig.queue.load() == {"queued": 17, "active": 0}
    await check_invariants(rig)


@pytest.mark.attack(40)
@pytest.mark.fault(18)
async def test_the_limit_of_the_whole_spoke_is_exact_as_well(valkey: Redis, key_prefix: str) -> None:
    rig = Rig(valkey, key_prefix, Bounds(agents=100, queued=10))
    answers = await in_parallel(
        [rig.queue], 64, sender(), lambda number: [spawn(number)], lambda number: id_of(1000 + number)
    )
    assert answers == {"queued": 10, "queue_full": 54}
    assert await rig.accept(spawn(90), by=sender(OTHER)) == [StepRefused("queue_full")]
    assert len(await rig.claim_all()) == 10, "what was accepted is never dropped"


@pytest.mark.attack(40)
async def test_one_envelope_cannot_go_past_the_quota_either(rig: Rig) -> None:
    answers = await rig.accept(*(spawn(number) for number in range(5)), by=sender(queued=3))
    assert [type(answer) for answer in answers] == [AgentRecord] * 3 + [StepRefused] * 2
    assert answers[3] == StepRefused("quota_exceeded", "queued")
    await check_invariants(rig)


async def test_a_quota_counts_what_waits_now(rig: Rig) -> None:
    by = sender(queued=1)
    await rig.accept(spawn(1), by=by)
    assert await rig.accept(spawn(2), by=by) == [StepRefused("quota_exceeded", "queued")]
    killed, taken = await rig.accept(kill(1), spawn(3), by=by)
    assert (record(killed).status, record(taken).status) == ("killed", "queued")
    await rig.claimed()
    assert record((await rig.accept(spawn(4), by=by))[0]).status == "queued"
    await check_invariants(rig)


async def test_a_quota_of_nothing_takes_nothing(rig: Rig) -> None:
    assert await rig.accept(spawn(1), by=sender(queued=0)) == [StepRefused("quota_exceeded", "queued")]
    assert await rig.client.exists(f"{rig.prefix}env:{TENANT}:{id_of(rig.jtis)}") == 0


@pytest.mark.fault(33)
async def test_while_draining_new_agents_are_refused_and_old_ones_answered(rig: Rig) -> None:
    await rig.accept(spawn(1))
    await rig.queue.set_flag("draining", on=True)
    old, new, status, killed = await rig.accept(spawn(1), spawn(2), StatusStep(id_of(1)), kill(1))
    assert (record(old).status, new, record(status).status) == ("queued", StepRefused("draining"), "queued")
    assert record(killed).status == "killed"
    await rig.queue.set_flag("draining", on=False)
    assert record((await rig.accept(spawn(2)))[0]).status == "queued"


async def test_a_rate_is_kept_for_each_second_and_each_peer(rig: Rig) -> None:
    by = sender(rate_per_s=3)
    for _ in range(3):
        await rig.accept(by=by)
    before = await rig.snapshot()
    with pytest.raises(RateLimited) as refused:
        await rig.accept(spawn(1), by=by)
    assert (refused.value.retry_after_s, await rig.snapshot()) == (1, before)
    await rig.accept(spawn(1), by=sender(OTHER, rate_per_s=3))
    assert 0 < await rig.client.pttl(f"{rig.prefix}rate:{TENANT}") <= 1000
    await rig.client.delete(f"{rig.prefix}rate:{TENANT}")  # as a second does
    await rig.accept(spawn(1), by=by)


async def test_the_operator_has_no_rate_and_no_events(rig: Rig) -> None:
    local = Sender("local", INSTANCE, Policy(agents=UNLIMITED, queued=UNLIMITED, rate_per_s=UNLIMITED))
    await rig.accept(spawn(1), by=local)
    assert await rig.client.exists(f"{rig.prefix}rate:local", f"{rig.prefix}events:local") == 0
    await check_invariants(rig)


@pytest.mark.parametrize("queued", [0, 2])
async def test_a_place_in_the_queue_says_what_it_waits_for(rig: Rig, queued: int) -> None:
    await rig.accept_many(range(queued))
    (slot,) = await rig.accept(spawn(10))
    (quota,) = await rig.accept(StatusStep(id_of(10)), by=sender(agents=0))
    await rig.queue.set_flag("paused", on=True)
    (paused,) = await rig.accept(StatusStep(id_of(10)))
    places = [record(answer).place for answer in (slot, quota, paused)]
    assert places == [Place(queued + 1, reason) for reason in ("slot", "peer_quota", "paused")]


@pytest.mark.attack(59)
@pytest.mark.parametrize(
    "text", ['"\r\n*1\r\n$8\r\nFLUSHALL\r\n', "]] redis.call('FLUSHALL') --", "hs:{build-1}:load", "\u2028\x1b[31m"]
)
async def test_text_of_a_peer_is_only_ever_a_value(rig: Rig, text: str) -> None:
    claim = await rig.running(1)
    await rig.queue.kill(claim.record.ref, kill(1, reason=text))
    assert await rig.queue.renew([claim]) == [kill(1, reason=text, agent_id="")]
    assert await rig.queue.finish(claim, "failed", {"reason": "exit_nonzero", "detail": text})
    assert (await rig.fields(1))["detail"] == text
    await check_invariants(rig)


async def test_names_of_agents_whose_records_have_gone_are_pruned(rig: Rig) -> None:
    await rig.accept_many(range(6))
    await rig.client.delete(*(f"{rig.prefix}agent:{TENANT}:{id_of(number)}" for number in (0, 1, 2)))
    await rig.accept_many([6, 7])
    assert [ref.agent_id for ref in await rig.queue.newest(9)] == [id_of(number) for number in (7, 6, 5, 4, 3)]


async def test_newest_and_find_know_every_tenant(rig: Rig) -> None:
    await rig.accept_many([1, 2])
    await rig.accept(spawn(2), by=sender(OTHER))
    assert [str(ref) for ref in await rig.queue.newest(2)] == [f"{OTHER} {id_of(2)}", f"{TENANT} {id_of(2)}"]
    assert sorted(ref.tenant for ref in await rig.queue.find(id_of(2))) == [TENANT, OTHER]
    assert await rig.queue.find(id_of(3)) == []
    assert await rig.queue.describe([(await rig.queue.find(id_of(1)))[0]]) != [None]


async def test_a_thousand_spawns_of_the_largest_kind_fit_one_call(rig: Rig) -> None:
    steps = [SpawnStep(spawn(number, taskId="t" * 128).spawn, number) for number in range(1000)]
    answers = await rig.accept(*steps)
    assert {record(answer).status for answer in answers} == {"queued"}
    assert record(answers[-1]).place == Place(1000, "slot")
