"""A spoke `build-1` that completes whatever a hub asks of it: what the pages about the API take for granted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke


@asynccontextmanager
async def completing(node: HubNode) -> AsyncIterator[StandinSpoke]:
    """A spoke `build-1` whose agents complete as soon as they were asked for."""

    async def complete(spoke: StandinSpoke) -> None:
        while True:
            for agent_id, agent in list(spoke.agents.items()):
                if agent["status"] == "queued":
                    await spoke.report(spoke.advance(agent_id, "spawning"))
                    await spoke.report(spoke.advance(agent_id, "running"))
                    await spoke.report(spoke.advance(agent_id, "completed", result={"summary": "done"}))
            await asyncio.sleep(0.02)

    async with StandinSpoke(node, id="build-1", log=b"a line\n") as spoke:
        task = asyncio.create_task(complete(spoke))
        yield spoke
        task.cancel()
