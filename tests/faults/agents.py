"""What tests with several workers do with agents: spawn many, wait for an end however late, read whose they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tests.peer import HubPeer
from tests.spoke_node import SpokeNode, eventually

TAKEN_OVER_S: Final = 60


async def send(
    node: SpokeNode, hub: HubPeer, repository: Path, *items: str, count: int = 1, attempts: int = 1
) -> list[str]:
    """Spawn agents that do these things; returns their ids."""
    spawns = [hub.spawn(repository, *items, maxAttempts=attempts) for _ in range(count)]
    results = await hub.send(node, *spawns)
    return [result["agent"]["agentId"] for result in results]


async def ended(node: SpokeNode, agent_id: str) -> dict[str, Any]:
    """Wait until it has ended, also when a lease has to run out before."""
    seen: dict[str, Any] = {}

    async def has_ended() -> bool:
        nonlocal seen
        seen = await node.agent(agent_id)
        return seen.get("status") in {"completed", "failed", "killed"}

    await eventually(has_ended, f"{agent_id} ends", TAKEN_OVER_S)
    return seen


def agents_in(log: list[dict[str, Any]]) -> set[str]:
    """Return the agents that log entries are about."""
    return {line["agent_id"] for line in log}
