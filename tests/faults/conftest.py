"""What tests of faults share: a spoke of their own with a hub that knows it, and a hand on its Valkey."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.spoke.repositories import make_repository
from tests.peer import HubPeer
from tests.spoke_node import SpokeNode, eventually, processes_of


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit on `main`."""
    return make_repository(tmp_path / "repository")


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[SpokeNode]:
    """A spoke of this test alone; fresh envelopes are taken two seconds after a loss."""
    async with SpokeNode(tmp_path, env={"SPOKE_NODE__SKEW_S": "1"}) as running:
        yield running


@pytest.fixture
def hub(node: SpokeNode) -> HubPeer:
    """An active peer of it."""
    hub = HubPeer()
    hub.register(node)
    return hub


def valkey_of(node: SpokeNode) -> int:
    """The process id of its Valkey."""
    (pid,) = (pid for pid, line in processes_of(node.directory).items() if "valkey-server" in line.split()[0])
    return pid


async def kill_valkey(node: SpokeNode) -> None:
    """Kill it with -9, and wait until another one runs and answers."""
    former = valkey_of(node)
    os.kill(former, signal.SIGKILL)
    await eventually(lambda: former not in processes_of(node.directory), "it is gone")
    await until_ready(node)


async def until_ready(node: SpokeNode) -> None:
    """Wait until the node takes work."""

    async def ready() -> bool:
        return (await node.call("GET", "/readyz"))[0] == 200

    await eventually(ready, "the node is ready")
