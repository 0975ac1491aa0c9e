"""`GET /api/v1/agents/{id}/logs/stream`, and that streams end with their tokens."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke, error

Event = tuple[str, str, dict[str, Any]]


@asynccontextmanager
async def streaming(
    node: HubNode, path: str, last_event_id: str = "", token: str | None = None
) -> AsyncIterator[AsyncIterator[Event]]:
    """Open a stream and yield its events: name, id, data; they end when the stream does."""
    headers = {"Authorization": f"Bearer {token or node.token}"}
    if last_event_id:
        headers["Last-Event-ID"] = last_event_id

    async def read(content: aiohttp.StreamReader) -> AsyncIterator[Event]:
        fields: dict[str, str] = {}
        async for raw in content:
            name, _, value = raw.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "event" in fields:
                yield fields["event"], fields["id"], json.loads(fields["data"])
                fields = {}

    async with (
        asyncio.timeout(20),
        aiohttp.ClientSession() as session,
        session.get(node.url + path, headers=headers) as response,
    ):
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        yield read(response.content)


def stream_of(agent_id: str) -> str:
    return f"/api/v1/agents/{agent_id}/logs/stream"


async def delivered(node: HubNode, spoke: StandinSpoke) -> str:
    spoke.grows = True
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    return agent_id


async def test_a_log_comes_while_it_grows_and_ends_with_the_agent(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.log = b"first\n"
    agent_id = await delivered(node, spoke)
    await spoke.report(spoke.advance(agent_id, "running"))
    async with streaming(node, stream_of(agent_id)) as events:
        assert await anext(events) == ("log", "1-6", {"offset": 0, "data": "first\n", "nextOffset": 6, "eof": False})
        spoke.log += b"second\n"
        name, event_id, piece = await anext(events)
        assert (name, event_id, piece["data"]) == ("log", "1-13", "second\n")
        await spoke.report(spoke.advance(agent_id, "completed"))
        assert [event[:2] async for event in events] == [("end", "1-13")]
    async with streaming(node, stream_of(agent_id), "1-6") as events:
        assert [(name, data.get("data")) async for name, _, data in events] == [("log", "second\n"), ("end", None)]


async def test_a_new_attempt_begins_a_new_log(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.log = b"first attempt\n"
    agent_id = await delivered(node, spoke)
    await spoke.report(spoke.advance(agent_id, "running"))
    async with streaming(node, stream_of(agent_id)) as events:
        assert (await anext(events))[1] == "1-14"
        spoke.log = b"again\n"
        await spoke.report(spoke.advance(agent_id, "running", attempt=2))
        assert (await anext(events))[1:] == ("2-6", {"offset": 0, "data": "again\n", "nextOffset": 6, "eof": False})


async def test_while_its_spoke_is_away_it_waits(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.log = b"first\n"
    agent_id = await delivered(node, spoke)
    await spoke.report(spoke.advance(agent_id, "completed"))
    await spoke.down()
    async with streaming(node, stream_of(agent_id)) as events:
        await asyncio.sleep(0.6)
        await spoke.up()
        assert (await anext(events))[0] == "log"


async def test_what_its_spoke_refuses_ends_it_with_the_reason(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await delivered(node, spoke)
    spoke.answers["logs"] = error("not_allowed")
    async with streaming(node, stream_of(agent_id)) as events:
        ((name, _, told),) = [event async for event in events]
        assert (name, told["code"], told["retryable"]) == ("refused", "not_allowed", False)


@pytest.mark.parametrize("seen", ["x", "1", "1-", "-1", "1-2-3", "1-99999999999999999", "\u0661-1"])
async def test_a_position_that_is_none_is_refused(node: HubNode, spoke: StandinSpoke, seen: str) -> None:
    agent_id = await delivered(node, spoke)
    status, problem = await node.call("GET", f"{stream_of(agent_id)}?lastEventId={seen}")
    assert (status, problem["code"]) == (400, "invalid")


@pytest.mark.attack(36)
@pytest.mark.parametrize("which", ["events", "log"])
async def test_a_stream_ends_with_its_token(node: HubNode, spoke: StandinSpoke, which: str) -> None:
    agent_id = await delivered(node, spoke)
    await spoke.report(spoke.advance(agent_id, "running"))
    name = f"watcher-{which}"
    made = await node.hub("token", "create", name, "--scope", "operate", "--json")
    token = json.loads(made.stdout)["token"]
    path = "/api/v1/events" if which == "events" else stream_of(agent_id)
    async with streaming(node, path, token=token) as events:
        reading = asyncio.ensure_future(anext(events, None))
        await asyncio.sleep(0.3)
        assert not reading.done()
        assert (await node.hub("token", "revoke", name)).returncode == 0
        assert await reading is None


async def test_a_stream_ends_with_its_node(tmp_path: Any) -> None:
    with HubNode(tmp_path, id="hub-stops") as own:
        async with StandinSpoke(own) as spoke:
            agent_id = await delivered(own, spoke)
            async with streaming(own, stream_of(agent_id)) as events:
                reading = asyncio.ensure_future(anext(events, None))
                await asyncio.sleep(0.2)
                os.kill(own.pid, signal.SIGTERM)
                assert await reading is None
