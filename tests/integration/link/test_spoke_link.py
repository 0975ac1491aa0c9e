"""The link of a real spoke, taken by a bare hub."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import WSMsgType

from common.websocket import REPLACED
from tests.envelopes import NONCE
from tests.integration.link.bare_hub import BareHub, code_of
from tests.integration.spoke.repositories import make_repository
from tests.peer import HubPeer
from tests.spoke_node import SpokeNode, eventually, tables

pytestmark = pytest.mark.slow


def with_link(link: str) -> dict[str, str]:
    return {"SPOKE_NODE__LINK": link}


async def test_commands_and_events_go_over_the_link(tmp_path: Path) -> None:
    repository, hub = make_repository(tmp_path / "repository"), BareHub()
    env = {"SPOKE_NODE__LABELS": '{"os": "linux"}'}
    async with SpokeNode(tmp_path, env=env) as node, hub.taking_links(node):
        hub.register(node)
        await hub.linked()
        (hello,) = hub.hellos
        assert (hello.capacity, hello.labels) == ({"agents": 4, "running": 0, "queued": 0}, {"os": "linux"})
        command = hub.spawn(repository, "print hello")
        (result,) = await hub.ask_over_link(node, command)
        assert result["agent"]["agentId"] == command["id"]
        await hub.saw(command["id"], "completed")
        statuses = [event["status"] for event in hub.events_of(command["id"])]
        assert statuses == ["queued", "spawning", "running", "completed"]
        (result,) = await hub.ask_over_link(node, hub.about("logs", command["id"]))
        assert result["log"]["data"] == "hello\n"
        await node.terminate()
        await eventually(lambda: hub.closings == [1001], "the spoke said goodbye")


@pytest.mark.fault(16)
async def test_one_command_over_both_transports_in_the_same_moment(tmp_path: Path) -> None:
    repository, hub = make_repository(tmp_path / "repository"), BareHub()
    async with SpokeNode(tmp_path) as node, hub.taking_links(node):
        hub.register(node)
        await hub.linked()
        for _ in range(10):
            command = hub.spawn(repository, "print hello")
            first, second = hub.seal(node, command), hub.seal(node, command)
            by_link, by_post = await asyncio.gather(hub.send_over_link(first), hub.post(node, second))
            ids = [hub.results(node, raw)[0]["agent"]["agentId"] for raw in (by_link, by_post.body)]
            assert ids == [command["id"]] * 2
            # The same bytes over the other transport are no second envelope.
            assert code_of(await hub.send_over_link(second)) == "replayed"
            assert (await hub.post(node, first)).code == "replayed"
            await node.until_ended(command["id"])
        agents = [agent["agentId"] for agent in await node.agents()]
        assert len(agents) == 10
        assert all(len(node.executions(agent)) == 1 for agent in agents)


async def test_rejections_are_those_of_the_post(tmp_path: Path) -> None:
    hub, stranger = BareHub(), HubPeer("hub-us", seed=7)
    async with SpokeNode(tmp_path) as node, hub.taking_links(node):
        hub.register(node)
        await hub.linked()
        for raw in (
            b"garbage",
            stranger.seal(node, stranger.about("status", NONCE)),
            hub.seal(node, hub.about("status", "0199a0b0-0000-7000-8000-000000000000"), aud="build-2"),
            hub.seal(node, hub.about("status", "0199a0b0-0000-7000-8000-000000000000"), exp=int(time.time()) + 999),
            hub.hello(node, NONCE),
        ):
            assert code_of(await hub.send_over_link(raw)) == (await hub.post(node, raw)).code
        command = hub.about("status", "0199a0b0-0000-7000-8000-000000000000")
        (result,) = await hub.ask_over_link(node, command)
        assert result["error"]["code"] == "not_found"


IMPOSTORS: dict[str, Callable[[BareHub, SpokeNode, str], bytes]] = {
    "another challenge": lambda hub, node, _: hub.hello(node, NONCE),
    "for another spoke": lambda hub, node, nonce: hub.hello(node, nonce, aud="build-2"),
    "a stranger": lambda _hub, node, nonce: BareHub("hub-eu", seed=9).hello(node, nonce),
    "another hub of the spoke": lambda _hub, node, nonce: BareHub("hub-us", seed=7).hello(node, nonce),
    "a problem": lambda *_: b'{"status":403,"code":"connection_inactive"}',
    "garbage": lambda *_: b"garbage",
}


@pytest.mark.parametrize("make_hello", IMPOSTORS.values(), ids=IMPOSTORS)
async def test_who_is_not_the_hub_gets_no_link(
    tmp_path: Path, make_hello: Callable[[BareHub, SpokeNode, str], bytes]
) -> None:
    hub = BareHub(make_hello=make_hello)
    async with SpokeNode(tmp_path) as node, hub.taking_links(node):
        HubPeer("hub-us", seed=7).register(node)
        hub.register(node)
        await eventually(lambda: hub.closings, "the spoke has turned away")
        # It tries again, and takes the real one.
        hub.make_hello = None
        await hub.linked()
        await eventually(lambda: len(node.log_lines("link.up")) == 1, "the spoke believes the hub")
        assert len(node.log_lines("link.failed")) >= 1


@pytest.mark.parametrize("first", [b"garbage", b"{}", b'{"challenge":"short"}'])
async def test_what_is_no_challenge_is_not_answered(tmp_path: Path, first: bytes) -> None:
    hub = BareHub(make_challenge=first)
    async with SpokeNode(tmp_path) as node, hub.taking_links(node):
        hub.register(node)
        await eventually(lambda: hub.closings, "the spoke has turned away")
        assert hub.hellos == []
        lines = await eventually(lambda: node.log_lines("link.failed"), "the spoke says why")
        assert lines[0]["code"] == "malformed"


async def test_a_hub_without_links_is_told_of_events_by_post(tmp_path: Path) -> None:
    repository, hub = make_repository(tmp_path / "repository"), HubPeer()
    async with SpokeNode(tmp_path) as node, hub.taking_events(node):
        hub.register(node)
        await eventually(lambda: node.log_lines("link.not_offered"), "the spoke knows")
        command = hub.spawn(repository, "print hello")
        await hub.send(node, command)
        await hub.saw(command["id"], "completed")
        assert node.log_lines("link.failed") == []


async def test_a_spoke_that_never_dials_and_one_that_only_dials(tmp_path: Path) -> None:
    repository, posted, hub = make_repository(tmp_path / "repository"), HubPeer(), BareHub()
    async with SpokeNode(tmp_path, env=with_link("never")) as node, posted.taking_events(node):
        posted.register(node)
        command = posted.spawn(repository, "print hello")
        await posted.send(node, command)
        await posted.saw(command["id"], "completed")
        assert node.log_lines("link.not_offered") == []
    async with SpokeNode(tmp_path, id="build-2", env=with_link("always")) as node, hub.taking_links(node):
        hub.refuse_links_with = 503
        hub.register(node)
        command = hub.spawn(repository, "print hello")
        await hub.send(node, command)
        await node.until_ended(command["id"])
        await eventually(lambda: node.log_lines("events.not_delivered"), "the spoke waits for a link")
        hub.refuse_links_with = None
        # A fresh start dials at once, wherever its former life was in its pauses.
        await node.restart()
        await hub.saw(command["id"], "completed")


@pytest.mark.fault(32)
async def test_a_spoke_that_was_replaced_says_so_and_does_not_fight(tmp_path: Path) -> None:
    hub = BareHub()
    async with SpokeNode(tmp_path) as node, hub.taking_links(node):
        hub.register(node)
        socket = await hub.linked()
        await socket.close(code=REPLACED, message=b"replaced")
        (line,) = await eventually(lambda: node.log_lines("link.replaced"), "the spoke says so")
        assert line["level"] == "error"
        assert "revoke" in line["reason"]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await hub.linked()


@pytest.mark.attack(35)
async def test_a_suspended_hub_is_cut_off_at_once(tmp_path: Path) -> None:
    hub = BareHub()
    async with SpokeNode(tmp_path) as node, hub.taking_links(node):
        hub.register(node)
        await hub.linked()
        assert (await node.spoke("peer", "suspend", hub.id)).returncode == 0
        await eventually(lambda: hub.closings, "the link is closed")
        assert hub.closings[0] in {1008, 1001}
        assert (await node.spoke("peer", "resume", hub.id)).returncode == 0
        await hub.linked()
        assert len(hub.hellos) == 2


async def test_a_hub_that_breaks_the_rules_is_closed_and_dialed_again(tmp_path: Path) -> None:
    hub = BareHub()
    async with SpokeNode(tmp_path, toml=tables()) as node, hub.taking_links(node):
        hub.register(node)
        await (await hub.linked()).send_bytes(b"binary")
        await eventually(lambda: hub.closings == [1003], "the spoke has closed")
        await (await hub.linked()).send_frame(b'{"code":"expired"}', WSMsgType.TEXT)
        await eventually(lambda: hub.closings == [1003, 1002], "the spoke has closed again")
        await hub.linked()
