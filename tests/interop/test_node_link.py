"""A spoke of a page of Node, written from the protocol page, works with our hub through a link alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.hub.hub_node import HubNode
from tests.interop.conftest import Node
from tests.spoke_node import eventually

SPOKE = "spoke-node"


def read_line(spoke: subprocess.Popen[str]) -> dict[str, Any]:
    assert spoke.stdout is not None
    line = spoke.stdout.readline()
    assert line, "the spoke ended before its story"
    seen: dict[str, Any] = json.loads(line)
    return seen


async def reached(hub: HubNode, agent_id: str, status: str) -> dict[str, Any]:
    async def there() -> dict[str, Any] | None:
        agent = await hub.agent(agent_id)
        return agent if agent["status"] == status else None

    agent: dict[str, Any] = await eventually(there, f"{agent_id} is {status}")
    return agent


@pytest.mark.slow
async def test_a_spoke_made_from_the_protocol_page_works_through_its_link(tmp_path: Path, node: Node) -> None:
    with HubNode(tmp_path) as hub:
        invite = await hub.hub("invite")
        spoke = node("link_spoke.mjs")
        assert spoke.stdin is not None
        spoke.stdin.write(invite.stdout)
        spoke.stdin.flush()
        # Node's WebSocket offers compression to everybody, and goes on without it.
        assert read_line(spoke) == {"up": True, "extensions": ""}
        short = await hub.spawn(SPOKE, context={"workItems": ["say hello"]})
        assert read_line(spoke) == {"command": "spawn"}
        assert read_line(spoke) == {"acknowledged": True, "id": short, "seq": 2}
        await reached(hub, short, "completed")
        _, log = await hub.call("GET", f"/api/v1/agents/{short}/logs")
        assert read_line(spoke) == {"command": "logs"}
        assert (log["data"], log["eof"]) == ("say hello", True)
        long = await hub.spawn(SPOKE, context={"workItems": ["stay"]})
        assert [read_line(spoke) for _ in range(2)][-1] == {"acknowledged": True, "id": long, "seq": 2}
        await reached(hub, long, "running")
        await hub.call("POST", f"/api/v1/agents/{long}/kill", {})
        assert [read_line(spoke) for _ in range(2)][-1] == {"acknowledged": True, "id": long, "seq": 3}
        await reached(hub, long, "killed")
        _, view = await hub.call("GET", f"/api/v1/peers/{SPOKE}")
        assert view["link"]["remote"] == "127.0.0.1"
        assert view["told"]["labels"] == {"runtime": "node"}
        hub.set_state(SPOKE, "suspended")
        assert read_line(spoke) == {"closed": 1008, "reason": "connection_inactive"}
