"""Row 35: all spokes of a hub at once, and again after it was killed. A thousand of them: `make bench-crowd`."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.crowd import Crowd
from tests.integration.hub.hub_node import HubNode, spawn_request

LINKS = 100
FEW = 80
"""Open files that the hub is started with; it has fewer links than that only when it does not ask for more."""


@contextmanager
def few_descriptors() -> Iterator[None]:
    """Start what is started in the block with a low limit of open files, which it may raise."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def ask_until(node: HubNode, done: asyncio.Event) -> int:
    """Ask the API one request after the other; each is answered, and none waits until the storm is over."""
    answered = 0
    while not done.is_set():
        async with asyncio.timeout(20):
            status, _ = await node.call("GET", "/api/v1/agents?limit=1")
        assert status == 200
        answered += 1
        await asyncio.sleep(0.01)
    return answered


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.fault(35)
async def test_all_spokes_come_back_to_a_killed_hub_and_it_serves_meanwhile(tmp_path: Path) -> None:
    with ExitStack() as stack:
        with few_descriptors():
            node = stack.enter_context(HubNode(tmp_path))
        async with Crowd(node, LINKS) as crowd:
            await crowd.until_up(LINKS)
            await node.kill9()
            await node.restart()
            done = asyncio.Event()
            asking = asyncio.create_task(ask_until(node, done))
            await crowd.until_up(LINKS)
            done.set()
            assert await asking > 1
            request = spawn_request("nobody", taskId="T-crowd")
            del request["spoke"]
            status, answer = await node.call("POST", "/api/v1/agents/place", request)
            assert (status, answer["accepted"]) == (202, LINKS)
            for agent in answer["agents"]:
                await node.until_delivery(agent["agentId"], "delivered")
            assert [list(member.agents.values()) for member in crowd.members] == [[1]] * LINKS
