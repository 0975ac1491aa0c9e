"""Resuming in the queue, with the scripts in a real Valkey: the one way out of a terminal state."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from spoke.agent_record import AgentRecord
from spoke.queue_terms import Asked, Bounds, Claim, FreezeStep, Requeue, ResumedStep, Sender, Step, StepRefused
from tests.integration.spoke.queue_rig import (
    OTHER,
    RAW,
    TENANT,
    Rig,
    check_invariants,
    id_of,
    kill,
    resume,
    sender,
    spawn,
)

MIB = 1024 * 1024


@pytest.fixture
def rig(valkey: Redis, key_prefix: str) -> Rig:
    return Rig(valkey, key_prefix, Bounds(agents=100, queued=3))


async def ended(rig: Rig, number: int = 1, status: str = "completed") -> None:
    claim = await rig.running(number)
    reason = {} if status == "completed" else {"reason": "agent_error"}
    fields: dict[str, str | int] = {"exit_code": 3, "result": "{}", "detail": "why", **reason}
    assert await rig.queue.finish(claim, status, fields)


async def ask(rig: Rig, step: Step, by: Sender | None = None) -> AgentRecord | StepRefused:
    (answer,) = await rig.accept(step, by=by)
    assert isinstance(answer, AgentRecord | StepRefused)
    return answer


async def resumed(rig: Rig, command: int = 100) -> Claim:
    """Resume agent 1 and claim it."""
    answer = await ask(rig, resume(1, command))
    assert isinstance(answer, AgentRecord)
    return await rig.claimed()


@pytest.mark.parametrize("status", ["completed", "failed", "killed"])
async def test_an_agent_that_ended_waits_again_and_runs_as_the_next_attempt(rig: Rig, status: str) -> None:
    await ended(rig, status=status)
    answer = await ask(rig, resume(1, 100, text="go on"))
    assert isinstance(answer, AgentRecord)
    shown = answer.to_status()
    assert (shown["agentId"], shown["status"], shown["seq"], shown["attempt"]) == (id_of(1), "queued", 5, 1)
    assert (shown["finishedAt"], shown["startedAt"], shown["reason"], shown["exitCode"], shown["result"]) == (None,) * 5
    assert shown["queue"] == {"position": 1, "waitingFor": "slot"}
    await check_invariants(rig)
    claim = await rig.claimed()
    assert (claim.record.attempt, claim.asked) == (2, Asked(RAW, RAW))
    assert [record.status for record in await rig.events()][-3:] == [status, "queued", "spawning"]
    assert await rig.queue.launch(claim) == "launch"
    assert await rig.queue.started(claim, 7)
    assert await rig.queue.finish(claim, "completed", {})
    await check_invariants(rig)


@pytest.mark.parametrize("later", ["queued", "running", "ended", "resumed again"])
async def test_the_same_resume_again_is_the_same_attempt(rig: Rig, later: str) -> None:
    await ended(rig)
    await ask(rig, resume(1, 100))
    if later != "queued":
        claim = await rig.claimed()
        if later != "running":
            assert await rig.queue.finish(claim, "failed", {"reason": "lost"})
    if later == "resumed again":
        await ask(rig, resume(1, 101))
    before = await rig.fields(1)
    for step in (resume(1, 100), ResumedStep(resume(1, 100).resume)):
        answer = await ask(rig, step)
        assert isinstance(answer, AgentRecord)
        assert answer.fields == before == await rig.fields(1)
    await check_invariants(rig)


async def test_the_same_id_with_another_text_is_a_conflict(rig: Rig) -> None:
    await ended(rig)
    await ask(rig, resume(1, 100, text="go on"))
    assert await ask(rig, resume(1, 100, text="stop")) == StepRefused("conflict", "resume")
    assert await ask(rig, resume(1, 100)) == StepRefused("conflict", "resume")


async def test_one_that_was_refused_before_and_never_taken_stays_refused(rig: Rig) -> None:
    await ended(rig)
    assert await rig.accept(ResumedStep(resume(1, 100).resume), ResumedStep(resume(9, 100).resume)) == [None, None]


@pytest.mark.parametrize("state", ["queued", "spawning", "running"])
async def test_what_has_not_ended_is_not_resumed(rig: Rig, state: str) -> None:
    await rig.accept(spawn(1))
    if state != "queued":
        claim = await rig.claimed()
    if state == "running":
        assert await rig.queue.launch(claim) == "launch"
        assert await rig.queue.started(claim, 1)
    before = await rig.fields(1)
    assert await ask(rig, resume(1, 100)) == StepRefused("not_allowed", "running")
    assert await rig.fields(1) == before


@pytest.mark.attack(37)
async def test_anothers_agent_is_not_found_like_none(rig: Rig) -> None:
    await ended(rig)
    for number in (1, 9):
        assert await ask(rig, resume(number, 100), sender(OTHER)) == StepRefused("not_found")
    assert await rig.status(1) == "completed"


@pytest.mark.parametrize("code", ["frozen", "draining", "queue_full", "quota_exceeded"])
async def test_where_no_spawn_is_taken_no_agent_is_resumed(rig: Rig, code: str) -> None:
    await ended(rig)
    if code == "frozen":
        await rig.accept(FreezeStep(id_of(90)))
    if code == "draining":
        await rig.queue.set_flag("draining", on=True)
    if code == "queue_full":
        await rig.accept_many([2, 3, 4])
    before = await rig.fields(1)
    answer = await ask(rig, resume(1, 100), sender(queued=0 if code == "quota_exceeded" else 100))
    assert isinstance(answer, StepRefused)
    assert (answer.code, await rig.fields(1)) == (code, before)


async def test_one_that_was_requeued_goes_on_as_the_new_one(rig: Rig) -> None:
    await ended(rig, status="failed")
    (record,) = await rig.queue.describe([(await rig.events())[0].ref])
    assert record is not None
    await rig.queue.requeue(record.ref, Requeue(spawn(50).spawn, rig.jti(), RAW))
    assert await ask(rig, resume(1, 100)) == StepRefused("not_allowed", "requeued")


async def test_without_the_envelope_that_asked_for_it_nothing_goes_on(rig: Rig) -> None:
    await ended(rig)
    await rig.client.delete(f"{rig.prefix}env:{TENANT}:{(await rig.fields(1))['env']}")
    assert await ask(rig, resume(1, 100)) == StepRefused("not_allowed", "forgotten")


async def test_it_can_be_resumed_only_so_often(rig: Rig) -> None:
    await ended(rig)
    for number in range(50):
        claim = await resumed(rig, 100 + number)
        assert await rig.queue.finish(claim, "failed", {"reason": "lost"})
    assert await ask(rig, resume(1, 200)) == StepRefused("not_allowed", "often")
    await check_invariants(rig)


async def test_each_resume_gives_the_attempts_anew(rig: Rig) -> None:
    claim = await rig.running(1, maxAttempts=2)
    assert await rig.queue.finish(claim, "failed", {"reason": "agent_error"})
    claim = await resumed(rig)
    for outcome in ("queued", "failed"):
        assert await rig.queue.retry(claim, "lost", "why", pause_ms=0, may_help=True) == outcome
        if outcome == "queued":
            claim = await rig.claimed()
    assert (await rig.fields(1))["reason"] == "attempts_exhausted"
    assert (await rig.fields(1))["attempt"] == "3"
    await check_invariants(rig)


@pytest.mark.fault(20)
async def test_killed_in_the_same_envelope_it_ends_again(rig: Rig) -> None:
    await ended(rig)
    answers = await rig.accept(resume(1, 100), kill(1), resume(1, 100), resume(1, 101))
    statuses = [answer.status for answer in answers if isinstance(answer, AgentRecord)]
    assert statuses == ["queued", "killed", "killed", "queued"]
    await check_invariants(rig)


async def test_beside_spawns_in_one_envelope_everything_is_counted_once(rig: Rig) -> None:
    await ended(rig)
    answers = await rig.accept(spawn(2), resume(1, 100), spawn(3))
    places = [answer.place for answer in answers if isinstance(answer, AgentRecord)]
    assert [place and place.position for place in places] == [1, 2, 3]
    await check_invariants(rig)
    assert await rig.claim_all() == [f"{TENANT} T-2", f"{TENANT} T-1", f"{TENANT} T-3"]


async def test_room_is_made_among_the_others_and_not_by_forgetting_the_one_that_is_resumed(rig: Rig) -> None:
    for number in (1, 2):
        claim = await rig.running(number)
        assert await rig.queue.finish(claim, "completed", {"result": f'"{"x" * (MIB // 2)}"'})
        await rig.queue.acknowledge(TENANT, await rig.queue.pending_events(TENANT))
    await check_invariants(rig, acknowledged=True)
    answer = await ask(rig, resume(1, 100), sender(store_mib=1))
    assert isinstance(answer, AgentRecord)
    assert (await rig.status(1), await rig.status(2)) == ("queued", None)


@pytest.mark.fault(14)
async def test_what_the_store_forgot_is_put_back_with_both_envelopes(rig: Rig) -> None:
    await ended(rig)
    claim = await resumed(rig)
    keys = [key async for key in rig.client.scan_iter(f"{rig.prefix}*")]
    await rig.client.delete(*keys)
    record = AgentRecord({name: value for name, value in claim.record.fields.items() if name != "kill"})
    assert await rig.queue.restore(record, Asked(RAW, b"the resume"), "node:former")
    again = await rig.reclaim("node:2", "node:former")
    assert again is not None
    assert again.asked == Asked(RAW, b"the resume")
    assert again.record.attempt == 2
    assert await rig.queue.started(again, 1)
    assert await rig.queue.finish(again, "completed", {})


@pytest.mark.attack(61)
@pytest.mark.parametrize("status", ["", "strange", None])
async def test_a_record_that_no_script_of_ours_wrote_is_not_resumed(rig: Rig, status: str | None) -> None:
    await ended(rig)
    key = f"{rig.prefix}agent:{TENANT}:{id_of(1)}"
    if status is None:
        await rig.client.hdel(key, "status")
    else:
        await rig.client.hset(key, "status", status)
    (answer,) = await rig.accept(resume(1, 100))
    assert answer == StepRefused("not_allowed", "running")
