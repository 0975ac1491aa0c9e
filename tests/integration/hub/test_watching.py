"""`GET /api/v1/events` and the typed client: what watchers see, also after they were away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from hub.client import HubClient, NodeUnreachable, Refused, ServerSentEvent, Work, shown
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke, new_id

WORK = Work("https://git.example.org/team/app.git", ["fix the login redirect"], task_id="T-1")


@pytest.fixture
async def client(node: HubNode) -> AsyncIterator[HubClient]:
    """A client of the shared hub."""
    async with HubClient(node.url, node.token) as opened:
        yield opened


async def collect(events: AsyncIterator[ServerSentEvent], count: int) -> list[ServerSentEvent]:
    """Return the next events, at most ten seconds long."""
    found = []
    async with asyncio.timeout(10):
        async for event in events:
            found.append(event)
            if len(found) == count:
                return found
    raise AssertionError(f"the stream ended after {found}")


async def test_a_watcher_sees_each_change_once_and_in_order(
    node: HubNode, spoke: StandinSpoke, client: HubClient
) -> None:
    events = client.events({"spoke": spoke.id})
    (opened,) = await collect(events, 1)
    assert opened.event == "open"
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    await spoke.report(spoke.advance(agent_id, "running"))
    await spoke.report(spoke.agents[agent_id])
    await spoke.report(spoke.advance(agent_id, "failed", reason="timeout"))
    seen = await collect(events, 4)
    assert [event.data["status"] for event in seen] == ["pending", "queued", "running", "failed"]
    assert {event.event for event in seen} == {"agent"}
    assert seen[-1].data == {
        "agentId": agent_id, "spoke": spoke.id, "taskId": "T-1", "status": "failed", "seq": 3,
        "delivery": "delivered", "reason": "timeout", "at": seen[-1].data["at"],
    }  # fmt: skip


async def test_a_watcher_that_was_away_misses_nothing(node: HubNode, spoke: StandinSpoke, client: HubClient) -> None:
    (opened,) = await collect(client.events({"spoke": spoke.id}), 1)
    agents = [await node.spawn(spoke.id) for _ in range(3)]
    for agent_id in agents:
        await node.until_delivery(agent_id, "delivered")
    seen = await collect(client.events({"spoke": spoke.id}, opened.event_id), 1 + 2)
    rest = await collect(client.events({"spoke": spoke.id}, seen[-1].event_id), 1 + 4)
    changes = [(event.data["agentId"], event.data["status"]) for event in [*seen[1:], *rest[1:]]]
    assert sorted(changes) == sorted((agent_id, status) for agent_id in agents for status in ("pending", "queued"))


async def test_filters_leave_out_what_is_not_asked_for(node: HubNode, spoke: StandinSpoke, client: HubClient) -> None:
    (opened,) = await collect(client.events({}), 1)
    wanted = await node.spawn(spoke.id, taskId="wanted")
    for query in ({"taskId": "wanted"}, {"agentId": wanted}):
        await node.spawn(spoke.id, taskId="other")
        seen = await collect(client.events({**query, "spoke": spoke.id}, opened.event_id), 2)
        assert seen[1].data["agentId"] == wanted


@pytest.mark.parametrize("last", ["x", "-", "1-2-3", "1-", "9" * 40])
async def test_a_last_event_id_that_is_none_is_refused(client: HubClient, last: str) -> None:
    with pytest.raises(Refused) as refusal:
        await collect(client.events({}, last), 1)
    assert (refusal.value.code, refusal.value.http_status) == ("invalid", 400)


async def test_following_one_agent_ends_with_it(node: HubNode, spoke: StandinSpoke, client: HubClient) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")

    async def finish() -> None:
        await spoke.report(spoke.advance(agent_id, "running"))
        await spoke.report(spoke.advance(agent_id, "completed"))

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        seen: list[str] = []
        async for agent in client.watch(agent_id):
            if not seen:
                group.create_task(finish())
            seen.append(shown(agent))
    assert (seen[0], seen[-1]) == ("queued", "completed")


async def test_the_client_speaks_the_whole_api(node: HubNode, spoke: StandinSpoke, client: HubClient) -> None:
    answer = await client.spawn(spoke.id, WORK)
    await node.until_delivery(answer["agentId"], "delivered")
    assert (await client.agent(answer["agentId"], live=True))["status"] == "queued"
    assert (await client.agents(spoke=spoke.id, limit=1))["agents"][0]["agentId"] == answer["agentId"]
    assert (await client.log(answer["agentId"], 0))["eof"] is True
    assert (await client.kill(answer["agentId"], grace_s=1, reason="test"))["commandId"] is not None
    assert spoke.id in {peer["id"] for peer in await client.peers()}
    assert (await client.change_peer(spoke.id, "suspend"))["state"] == "suspended"
    assert await client.ready() == {"status": "ready"}


async def test_no_hub_is_told_apart_from_a_hub_that_refuses(node: HubNode, client: HubClient) -> None:
    with pytest.raises(Refused) as refusal:
        await client.agent(new_id())
    assert (refusal.value.code, refusal.value.http_status) == ("not_found", 404)
    async with HubClient("http://127.0.0.1:1", node.token) as nobody:
        with pytest.raises(NodeUnreachable):
            await nobody.ready()
        with pytest.raises(NodeUnreachable):
            await collect(nobody.events({}), 1)


async def test_a_client_is_used_inside_its_block(node: HubNode) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await HubClient(node.url, node.token).ready()


async def test_who_comes_back_too_late_is_told_that_something_is_missing(
    node: HubNode, spoke: StandinSpoke, client: HubClient
) -> None:
    # An id that this stream never had: of a store that is gone, or of one that was restored.
    events = client.events({"spoke": spoke.id}, "9999999999999-0")
    opened, gap = await collect(events, 2)
    assert (opened.event, gap.event, gap.data) == ("open", "gap", {"after": "9999999999999-0"})


async def test_the_log_of_an_agent_that_is_started_again_follows_on_the_former_one(
    node: HubNode, spoke: StandinSpoke, client: HubClient
) -> None:
    spoke.log, spoke.grows = b"the first attempt\n", True
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    await spoke.report(spoke.advance(agent_id, "running"))
    text, again = "", False
    async with asyncio.timeout(20):
        async for piece in client.logs(agent_id, follow=True):
            text += piece
            if "first" in text and not again:
                again = True
                spoke.log = b"the next\n"
                await spoke.report(spoke.advance(agent_id, "running", attempt=2))
            elif "next" in text:
                await spoke.report(spoke.advance(agent_id, "completed"))
    assert text == "the first attempt\nthe next\n"
