"""A spoke killed with -9 between the request and the acceptance."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.faults.conftest import valkey_of
from tests.peer import HubPeer
from tests.spoke_node import SpokeNode


@pytest.mark.fault(4)
async def test_before_it_accepts_there_is_no_reply_and_the_retry_is_accepted_once(
    node: SpokeNode, hub: HubPeer, repository: Path
) -> None:
    spawn = hub.spawn(repository, "exit 0")
    valkey = valkey_of(node)
    os.kill(valkey, signal.SIGSTOP)  # so it waits for the answer of the script
    asking = asyncio.create_task(hub.post(node, hub.seal(node, spawn)))
    done, _ = await asyncio.wait([asking], timeout=0.5)
    assert not done
    os.kill(valkey, signal.SIGKILL)
    await node.kill9()
    with pytest.raises(aiohttp.ClientError):
        await asking
    await node.restart()
    assert await node.agents() == []
    for _ in range(2):
        (result,) = await hub.send(node, spawn)
        assert result["agent"]["agentId"] == spawn["id"]
    await node.until_ended(spawn["id"])
    assert len(node.executions(spawn["id"])) == 1
