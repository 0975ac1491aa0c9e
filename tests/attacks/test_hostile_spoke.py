"""A spoke that is let in and then floods its hub: the hub keeps little of it and serves the others (attack row 64)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from common.valkey import connect
from hub.agents import TAKEN_IN_BYTES
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke, agent_status, new_id

ENVELOPES = 160
EACH = 10
RESULT = {"summary": None, "data": {"x": "x" * 60_000}}


async def served_s(node: HubNode, spoke: StandinSpoke) -> float:
    """Return the longest of some spawns until they are delivered."""
    took = []
    for _ in range(10):
        started = time.monotonic()
        await node.until_delivery(await node.spawn(spoke.id), "delivered")
        took.append(time.monotonic() - started)
    return max(took)


@pytest.mark.slow
@pytest.mark.attack(64)
async def test_a_flood_of_made_up_agents_neither_fills_the_hub_nor_holds_up_an_honest_spoke(tmp_path: Path) -> None:
    with HubNode(tmp_path / "hub") as node:
        async with StandinSpoke(node) as hostile, StandinSpoke(node) as honest:
            quiet_s = await served_s(node, honest)
            answers: Counter[int] = Counter()

            async def flood() -> None:
                for _ in range(ENVELOPES // 4):
                    made_up = (agent_status(new_id(), "completed", 3, result=RESULT) for _ in range(EACH))
                    status, _ = await hostile.post(hostile.seal_events(*made_up))
                    answers[status] += 1

            floods = [asyncio.create_task(flood()) for _ in range(4)]
            flooded_s = await served_s(node, honest)
            assert not all(task.done() for task in floods), "the flood was over too soon to say anything"
            await asyncio.gather(*floods)
            assert set(answers) <= {200, 429}
            assert answers[200] * EACH * 60_000 > TAKEN_IN_BYTES, "what was told is more than what may be kept"
            assert flooded_s < max(3.0, quiet_s * 30), f"{quiet_s:.3f} s in quiet, {flooded_s:.3f} s in the flood"
            async with connect(node.place.valkey) as client:
                prefixes = [key async for key in client.scan_iter(match="*agent:*", count=1000)]
                kept = sum([await client.hstrlen(key.decode(), "agent") for key in prefixes])
            assert TAKEN_IN_BYTES * 0.9 < kept < TAKEN_IN_BYTES * 1.01
            _, page = await node.call("GET", f"/api/v1/agents?spoke={honest.id}&limit=100")
            assert {agent["delivery"]["state"] for agent in page["agents"]} == {"delivered"}
