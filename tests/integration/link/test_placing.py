"""What spokes tell in their HELLO, and what the hub's admin said of them, decide where agents go."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from common.trust_store import NewPeer
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.test_cli import REPO
from tests.integration.link.bare_spoke import BareSpoke, Socket, challenge, received, send


async def linked(stack: AsyncExitStack, spoke: BareSpoke, agents: int, labels: dict[str, str]) -> Socket:
    """Open a link that lasts as long as the stack, telling this of the spoke."""
    socket = await stack.enter_async_context(spoke.dial())
    capacity = {"agents": agents, "running": 0, "queued": 0}
    await send(socket, spoke.hello(await challenge(socket), capacity=capacity, labels=labels))
    await received(socket)
    return socket


def registered(node: HubNode, labels: dict[str, str]) -> BareSpoke:
    """A spoke that joined by an invite with these labels."""
    spoke = BareSpoke(node)
    with node.trust() as store:
        store.add(NewPeer(spoke.id, "spoke", spoke.key.public, None, labels), "active", int(time.time()))
    return spoke


async def test_labels_of_both_sides_and_the_told_capacity_reach_the_placing(tmp_path: Path) -> None:
    with HubNode(tmp_path) as node:
        large, small, closed, other = (registered(node, {"gpu": gpu}) for gpu in ("yes", "yes", "yes", "no"))
        async with AsyncExitStack() as stack:
            for spoke, agents in ((large, 8), (small, 2), (closed, 0), (other, 8)):
                await linked(stack, spoke, agents, {"os": "linux", "gpu": "yes"})
            chosen = ("spawn", "--label", "gpu=yes", "--label", "os=linux", "--task", "T-placed", *REPO, "--json")
            done = await node.hub(*chosen, "--count", "10")
            assert done.returncode == 0, done.stderr
            # What the admin said of `other` counts before what it told of itself; `closed` said that it runs none.
            assert spokes_of(done.stdout) == {large.id: 8, small.id: 2}
            done = await node.hub("spawn", "--label", "os=plan9", *REPO, "--count", "1")
            assert (done.returncode, done.stderr.split(":")[1].strip()) == (1, "no_spoke")
            each = await node.hub(*chosen)
            assert spokes_of(each.stdout) == {large.id: 1, small.id: 1, closed.id: 1}


def spokes_of(text: str) -> Counter[str]:
    """How many agents each spoke got."""
    answer: dict[str, Any] = json.loads(text)
    return Counter(agent["spoke"] for agent in answer["agents"])
