"""Whether chaos would notice: a run in which nothing broke, with faults of ours planted into what it looks at."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from common.valkey import connect
from tests.faults import chaos
from tests.faults.chaos_check import find_violations
from tests.peer import new_id


async def _start_twice(run: chaos.Run) -> str:
    line = run.spoke.record.read_text().splitlines()[0]
    with run.spoke.record.open("a") as record:
        record.write(f"{line}\n")
    return "was started 2 times in attempt"


async def _start_unasked(run: chaos.Run) -> str:
    line = run.spoke.record.read_text().splitlines()[0]
    start = line.replace(next(asked.agent_id for asked in run.asked if asked.agent_id in line), new_id())
    with run.spoke.record.open("a") as record:
        record.write(f"{start}\n")
    return "was started, and nobody asked for it"


async def _forget(run: chaos.Run) -> str:
    async with connect(run.hub.directory / "valkey") as client:
        await client.delete(f"hs:{{{run.hub.id}}}:agent:{run.asked[0].agent_id}")
    return "was acknowledged and is forgotten"


async def _disagree(run: chaos.Run) -> str:
    async with connect(run.spoke.directory / "valkey") as client:
        (key,) = [key async for key in client.scan_iter(f"hs:{{{run.spoke.id}}}:agent:*{run.asked[1].agent_id}")]
        await client.hset(key, mapping={"status": "failed", "reason": "lost"})
    return "on the hub and failed (lost"


async def _keep_a_lease(run: chaos.Run) -> str:
    async with connect(run.spoke.directory / "valkey") as client:
        await client.zadd(f"hs:{{{run.spoke.id}}}:leases", {f"{run.hub.id}_1 {new_id()}": 1})
    return "the spoke's leases are not empty"


async def _leave_a_lock(run: chaos.Run) -> str:
    (run.spoke.directory / "workspaces" / "index.lock").touch()
    return "index.lock is left"


async def _see_twins(run: chaos.Run) -> str:
    run.twins.add(run.asked[0].agent_id)
    return "was started again while it was alive"


async def _lose_the_resumed(run: chaos.Run) -> str:
    run.asked[2].resumed_after = 9
    return "was resumed after attempt 9"


PLANTED: tuple[Callable[[chaos.Run], Awaitable[str]], ...] = (
    _start_twice, _start_unasked, _forget, _disagree, _keep_a_lease, _leave_a_lock, _see_twins, _lose_the_resumed,
)  # fmt: skip


@pytest.mark.slow
async def test_it_finds_every_fault_that_was_planted_and_none_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = chaos._until_over
    expected: list[str] = []

    async def until_over_and_planted(run: chaos.Run) -> list[str]:
        found = await whole(run) or await find_violations(run)
        assert found == []
        expected.extend([await plant(run) for plant in PLANTED])
        return []

    monkeypatch.setattr(chaos, "_until_over", until_over_and_planted)
    _, violations = await chaos.chaos(tmp_path, 6, 7, "always")
    assert len(expected) == len(PLANTED)
    for words in expected:
        assert any(words in violation for violation in violations), (words, violations)
