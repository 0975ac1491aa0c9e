"""The client while answers are lost and hubs restart: what it asked for happens once, and it says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from common.handshake import LINK_PATH, SUBPROTOCOL
from hub.client import HubClient, NodeUnreachable, Refused, Work
from tests.faults.proxy import Proxy
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke, new_id
from tests.spoke_node import eventually

WORK = Work("https://git.example.org/team/app.git", ["fix the login redirect"], task_id="T-1")


@pytest.fixture
async def proxy(node: HubNode) -> AsyncIterator[Proxy]:
    parts = urlsplit(node.url)
    async with Proxy(lambda: (str(parts.hostname), int(parts.port or 0))) as between:
        yield between


async def test_a_lost_answer_is_asked_for_again_and_there_is_one_agent(
    node: HubNode, spoke: StandinSpoke, proxy: Proxy
) -> None:
    async with HubClient(proxy.url, node.token) as hub:
        proxy.swallow_answers(2)
        spawned = await hub.spawn(spoke.id, WORK)
        assert proxy.swallowed == 2
        await node.until_delivery(spawned["agentId"], "delivered")
        proxy.swallow_answers(1)
        placed = await hub.place(WORK, spoke=spoke.id, count=3)
        ids = [outcome["agentId"] for outcome in placed["agents"]]
        assert [agent["agentId"] async for agent in hub.every_agent(spoke=spoke.id)] == sorted(
            [*ids, spawned["agentId"]], reverse=True
        )
        proxy.swallow_answers(1)
        many = await hub.spawn_many([(spoke.id, WORK), ("nobody", WORK)])
        assert (many["accepted"], many["refused"]) == (1, 1)
        proxy.swallow_answers(1)
        assert (await hub.kill(spawned["agentId"]))["agentId"] == spawned["agentId"]
    assert len([agent async for agent in every(node, spoke)]) == 5


async def every(node: HubNode, spoke: StandinSpoke) -> AsyncIterator[object]:
    async with HubClient(node.url, node.token) as hub:
        async for agent in hub.every_agent(spoke=spoke.id):
            yield agent


async def test_what_would_happen_twice_is_not_asked_for_again(node: HubNode, proxy: Proxy) -> None:
    async with HubClient(proxy.url, node.token) as hub:
        proxy.swallow_answers(1)
        with pytest.raises(NodeUnreachable):
            await hub.invite()
        assert (proxy.swallowed, proxy.connections) == (1, 1)


async def test_all_refused_is_an_answer(node: HubNode, proxy: Proxy) -> None:
    async with HubClient(proxy.url, node.token) as hub:
        answer = await hub.spawn_many([("nobody", WORK), ("nobody", WORK)])
        assert [outcome["error"]["code"] for outcome in answer["agents"]] == ["not_found", "not_found"]
        with pytest.raises(Refused) as refusal:
            await hub.place(WORK, spoke="nobody")
        assert refusal.value.code == "not_found"


async def test_waiting_goes_on_while_the_network_is_cut(node: HubNode, spoke: StandinSpoke, proxy: Proxy) -> None:
    async with HubClient(proxy.url, node.token) as hub:
        agent_id = (await hub.spawn(spoke.id, WORK))["agentId"]
        await node.until_delivery(agent_id, "delivered")
        waiting = asyncio.create_task(hub.wait(agent_id))
        reading = asyncio.create_task(read(hub, agent_id))
        before = proxy.connections
        await eventually(lambda: proxy.connections > before, "it watches")
        proxy.cut()
        spoke.log = b"half"
        await spoke.report(spoke.advance(agent_id, "running"))
        spoke.log += b" and half\n"
        await spoke.report(spoke.advance(agent_id, "completed"))
        proxy.mend()
        async with asyncio.timeout(30):
            assert (await waiting)["status"] == "completed"
            assert await reading == "half and half\n"


async def read(hub: HubClient, agent_id: str) -> str:
    return "".join([piece async for piece in hub.logs(agent_id, follow=True)])


async def test_waiting_ends_in_time(node: HubNode, spoke: StandinSpoke) -> None:
    async with HubClient(node.url, node.token) as hub:
        agent_id = (await hub.spawn(spoke.id, WORK))["agentId"]
        with pytest.raises(TimeoutError):
            await hub.wait(agent_id, timeout_s=0.2)
        with pytest.raises(Refused):
            await hub.wait(new_id())


async def test_what_follows_gives_up_in_the_end(node: HubNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.client.PAUSE_S", 0.0)
    async with HubClient("http://127.0.0.1:1", node.token) as hub:
        with pytest.raises(NodeUnreachable):
            await hub.wait(new_id())
        with pytest.raises(NodeUnreachable):
            await read(hub, new_id())


async def test_peers_one_by_one(node: HubNode, spoke: StandinSpoke) -> None:
    async with HubClient(node.url, node.token) as hub:
        assert (await hub.peer(spoke.id))["state"] == "active"
        invite = await hub.invite(labels={"gpu": "yes"})
        assert invite["invite"].startswith("hubspoke1.")
        pending = StandinSpoke(node)
        node.add_peer(pending.id, pending.key.public, None, "pending")
        fingerprint = pending.key.public.fingerprint
        assert (await hub.approve(pending.id, fingerprint))["state"] == "active"


async def test_a_log_of_a_spoke_that_takes_no_more_this_second_is_read_to_its_end(
    node: HubNode, spoke: StandinSpoke
) -> None:
    spoke.log = b"x" * 300_000
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    spoke.next("rate_limited", "rate_limited")
    async with HubClient(node.url, node.token) as hub:
        pieces = [piece async for piece in hub.logs(agent_id)]
    assert "".join(pieces) == "x" * 300_000
    assert len(pieces) <= 3, "a piece is as long as it may be"


UPGRADE = (
    f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {'A' * 22}==\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"
)


@pytest.mark.parametrize("path", [LINK_PATH, "/api/v1/events"])
async def test_whoever_hangs_up_before_the_stream_begins_is_no_crash(node: HubNode, path: str) -> None:
    parts = urlsplit(node.url)
    head = UPGRADE if path == LINK_PATH else f"Authorization: Bearer {node.token}\r\n"
    abandoned = len(node.log_lines("request.abandoned"))
    for _ in range(20):  # the kernel does not always tell the hub in time
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{head}\r\n".encode())
        writer.close()
        await writer.wait_closed()

    async def noticed() -> bool:
        return len(node.log_lines("request.abandoned")) > abandoned

    await eventually(noticed, "the hub noticed")
    assert node.log_lines("request.crashed") == []
