"""Tenants beside each other: exact quotas, fair turns, and nothing to be learnt about the others."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from redis.asyncio import Redis

from common.embedded_valkey import EmbeddedValkey
from spoke.agent_record import AgentRecord, Place
from spoke.queue import Queue
from spoke.queue_terms import Bounds, StatusStep, Step, StepRefused
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
from tests.integration.trust.quota_client import QUOTA

FLOOD = 1000


@pytest.fixture
def rig(valkey: Redis, key_prefix: str) -> Rig:
    return Rig(valkey, key_prefix)


@pytest.mark.attack(40)
async def test_a_quota_is_exact_over_two_processes(rig: Rig, valkey_server: EmbeddedValkey) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.integration.trust.quota_client", str(valkey_server.directory),
            rig.key_prefix, str(first), "50",
            cwd=Path(__file__).parents[3], stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for first in (1, 101)
    ]  # fmt: skip
    answers = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    outcomes = Counter(outcome for output, _ in answers for outcome in json.loads(output))
    assert outcomes == {"queued": QUOTA, "quota_exceeded": 100 - QUOTA}
    assert (await rig.queue.load())["queued"] == QUOTA
    await check_invariants(rig)


async def test_a_flood_of_one_hub_does_not_delay_another(valkey: Redis, key_prefix: str) -> None:
    rig = Rig(valkey, key_prefix, Bounds(agents=100, queued=2 * FLOOD))
    await rig.accept(*(spawn(number) for number in range(FLOOD)), by=sender(queued=FLOOD))
    first = await rig.claimed()
    assert first.record.ref.tenant == TENANT
    for number in range(FLOOD + 1, FLOOD + 4):
        (answer,) = await rig.accept(spawn(number), by=sender(OTHER))
        assert isinstance(answer, AgentRecord)
        assert [(await rig.claimed()).record.ref.tenant for _ in range(2)] == [OTHER, TENANT]


async def test_two_floods_take_turns_and_a_better_priority_goes_first(rig: Rig) -> None:
    await rig.accept(*(spawn(number) for number in range(50)))
    await rig.accept(*(spawn(number) for number in range(100, 150)), by=sender(OTHER))
    turns = [(await rig.claimed()).record.ref.tenant for _ in range(20)]
    assert Counter(turns) == {TENANT: 10, OTHER: 10}
    assert all(a != b for a, b in pairwise(turns))
    await rig.accept(spawn(999, priority=1), by=sender(OTHER))
    assert (await rig.claimed()).record.ref.agent_id == id_of(999)


@pytest.mark.attack(37)
async def test_a_place_and_its_reason_tell_of_ones_own_agents_only(rig: Rig) -> None:
    (alone,) = await rig.accept(spawn(1), by=sender(OTHER, agents=5))
    await rig.accept(*(spawn(number) for number in range(100, 400)))
    for _ in range(3):
        await rig.claim()
    (beside,) = await rig.accept(spawn(2), by=sender(OTHER, agents=5))
    assert isinstance(alone, AgentRecord)
    assert isinstance(beside, AgentRecord)
    assert alone.place == Place(1, "slot")
    ahead = await rig.status(1, OTHER) == "queued"
    assert beside.place == Place(2 if ahead else 1, "slot")
    assert set(beside.to_status()) == set(alone.to_status())


async def _ask(queue: Queue, number: int, jti: str) -> tuple[StepRefused | object, float]:
    began = time.perf_counter()
    (answer,) = await queue.accept(sender(OTHER), jti, RAW, [StatusStep(id_of(number))])
    return answer, time.perf_counter() - began


@pytest.mark.attack(37)
async def test_a_foreign_agent_is_answered_as_fast_as_an_absent_one(rig: Rig) -> None:
    """The medians of interleaved questions; a machine that hiccups gets two more turns."""
    await rig.accept(*(spawn(number) for number in range(100)))
    ratios = []
    for _ in range(3):
        foreign, absent = [], []
        for number in range(300):
            answer, took_s = await _ask(rig.queue, number % 100, rig.jti())
            foreign.append(took_s)
            missing, missing_took_s = await _ask(rig.queue, 5000 + number % 100, rig.jti())
            absent.append(missing_took_s)
            assert answer == missing == StepRefused("not_found")
        ratios.append(statistics.median(foreign) / statistics.median(absent))
        if 0.8 < ratios[-1] < 1.25:
            return
    pytest.fail(f"the medians differ: {ratios}")


@pytest.mark.attack(37)
async def test_a_kill_of_a_foreign_agent_is_answered_like_that_of_an_absent_one(rig: Rig) -> None:
    await rig.running(1)
    foreign = await rig.accept(kill(1), by=sender(OTHER))
    absent = await rig.accept(kill(7), by=sender(OTHER))
    assert foreign == absent == [StepRefused("not_found")]
    assert await rig.status(1) == "running"
    assert "kill" not in await rig.fields(1)


async def _counted(rig: Rig, *steps: Step) -> tuple[list[object], dict[str, int]]:
    """Ask as OTHER; return the answers and how often each command ran in Valkey, also inside the script."""
    await rig.client.config_resetstat()
    answers = await rig.accept(*steps, by=sender(OTHER))
    stats = await rig.client.info("commandstats")
    ignored = {"cmdstat_config|resetstat", "cmdstat_info"}
    return list(answers), {name: counts["calls"] for name, counts in stats.items() if name not in ignored}


@pytest.mark.attack(37)
@pytest.mark.parametrize("state", ["queued", "running", "ended"])
@pytest.mark.parametrize(
    "ask",
    [lambda number: StatusStep(id_of(number)), kill, lambda number: resume(number, 900 + number)],
    ids=["status", "kill", "resume"],
)
async def test_a_foreign_agent_costs_the_work_of_an_absent_one(
    rig: Rig, ask: Callable[[int], Step], state: str
) -> None:
    """Counted, not timed: what is not done cannot be measured from outside either."""
    if state == "queued":
        await rig.accept(spawn(1))
    else:
        claim = await rig.running(1)
        if state == "ended":
            await rig.queue.finish(claim, "completed", {})
    await _counted(rig, ask(8))  # scripts are loaded, and what a first question makes is there
    absent, foreign = await _counted(rig, ask(9)), await _counted(rig, ask(1))
    assert foreign == absent
    assert absent[0] == [StepRefused("not_found")]
    assert sum(absent[1].values()) > 3
