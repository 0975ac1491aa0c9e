"""A spoke as a whole: what a hub asks over the wire, and what becomes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.spoke.repositories import make_repository
from tests.peer import HubPeer
from tests.spoke_node import SpokeNode


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "repository")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[SpokeNode]:
    async with SpokeNode(tmp_path) as node:
        yield node


async def test_spawn_status_logs(node: SpokeNode, repository: Path) -> None:
    hub = HubPeer()
    async with hub.taking_events(node):
        hub.register(node)
        spawn = hub.spawn(repository, "print hello", "commit new.txt")
        result = await hub.ask(node, spawn)
        assert result["agent"]["status"] == "queued"
        await hub.saw(spawn["id"], "completed")
        assert [event["status"] for event in hub.events_of(spawn["id"])] == [
            "queued", "spawning", "running", "completed",
        ]  # fmt: skip
        status = await hub.ask(node, hub.about("status", spawn["id"]))
        assert status["agent"]["status"] == "completed"
        log = await hub.ask(node, hub.about("logs", spawn["id"]))
        assert log["log"]["data"] == "hello\n"
    assert len(node.executions()) == 1
