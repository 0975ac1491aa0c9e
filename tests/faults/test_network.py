"""A real hub and a real spoke with a network between them that breaks in the middle of a request."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.keyfiles import load_signing_key
from tests.faults.chaos import target_of
from tests.faults.proxy import Proxy
from tests.integration.hub.hub_node import HubNode
from tests.spoke_node import SpokeNode, eventually, run_in_process


@dataclass
class Pair:
    """Both nodes, and the way between them in either direction."""

    hub: HubNode
    spoke: SpokeNode
    to_spoke: Proxy
    to_hub: Proxy
    repository: Path

    async def spawn(self, *items: str) -> str:
        context = {"repository": f"file://{self.repository}", "branch": "main", "workItems": list(items)}
        return await self.hub.spawn(self.spoke.id, context=context)


@pytest.fixture(params=["never", "always"], ids=["by POST", "over the link"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path, repository: Path) -> AsyncIterator[Pair]:
    hub, spoke = HubNode(tmp_path), SpokeNode(tmp_path, env={"SPOKE_NODE__LINK": request.param})
    async with Proxy(target_of(spoke)) as to_spoke, Proxy(target_of(hub)) as to_hub:
        key_file = spoke.directory / "hub.jwk"
        key_file.write_text(json.dumps(hub.key.public.to_jwk()))
        run_in_process(spoke.directory, "peer", "add", hub.id, "--key", str(key_file), "--url", to_hub.url)
        key = load_signing_key(spoke.directory / "keys" / f"{spoke.id}.key").public
        hub.add_peer(spoke.id, key, to_spoke.url if request.param == "never" else None)
        with hub:
            async with spoke:
                found = Pair(hub, spoke, to_spoke, to_hub, repository)
                first = await found.spawn("exit 0")
                await hub.until_delivery(first, "delivered")
                await spoke.until_ended(first)
                yield found


@pytest.mark.fault(15)
async def test_an_answer_that_is_lost_is_unknown_and_the_retry_settles_it(pair: Pair) -> None:
    way = pair.to_spoke if pair.to_spoke.connections else pair.to_hub
    before = way.swallowed
    way.swallow_answers(1)
    agent_id = await pair.spawn("exit 0")
    await eventually(lambda: way.swallowed > before, "an answer is lost")
    shown = await pair.hub.agent(agent_id)
    assert shown["status"] in {"pending", "queued", "spawning", "running", "completed"}, "never failed"
    assert (await pair.hub.until_delivery(agent_id, "delivered"))["spoke"] == pair.spoke.id
    await pair.spoke.until_ended(agent_id)
    assert len(pair.spoke.executions(agent_id)) == 1
    assert not pair.hub.log_lines("command.refused")

    async def agreed() -> bool:
        return bool((await pair.hub.agent(agent_id))["status"] == "completed")

    await eventually(agreed, "the hub hears of the end")


@pytest.mark.fault(15)
@pytest.mark.fault(17)
async def test_what_is_asked_for_while_the_network_is_cut_is_done_when_it_is_back(pair: Pair) -> None:
    running = await pair.spawn("sleep 0.3", "commit made.txt")
    await pair.spoke.until(running, "running")
    for proxy in (pair.to_spoke, pair.to_hub):
        proxy.cut()
    waiting = await pair.spawn("exit 0")
    assert (await pair.spoke.until_ended(running))["status"] == "completed"

    async def noticed() -> bool:
        delivery = (await pair.hub.agent(waiting))["delivery"]
        return delivery["state"] == "pending" and delivery["lastError"] is not None

    await eventually(noticed, "the hub says why it waits")
    assert (await pair.hub.agent(waiting))["delivery"]["lastError"]["retryable"]
    for proxy in (pair.to_spoke, pair.to_hub):
        proxy.mend()
    for agent_id in (waiting, running):

        async def ended(agent_id: str = agent_id) -> bool:
            return bool((await pair.hub.agent(agent_id))["status"] == "completed")

        await eventually(ended, f"{agent_id} is completed on the hub")
        assert len(pair.spoke.executions(agent_id)) == 1
