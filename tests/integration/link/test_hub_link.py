"""The link of a real hub, dialed by a bare WebSocket client."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.envelope import EnvelopeType, ReplyBody
from common.handshake import LINK_PATH
from common.jose import MAX_ENVELOPE_BYTES
from common.keyring import SigningKey
from common.websocket import REPLACED
from tests.envelopes import NONCE, sign
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import agent_status
from tests.integration.link.bare_spoke import CAPACITY, BareSpoke, challenge, closed, problem, received, send
from tests.spoke_node import eventually


async def peer(spoke: BareSpoke) -> dict[str, Any]:
    _, view = await spoke.node.call("GET", f"/api/v1/peers/{spoke.id}")
    shown: dict[str, Any] = view
    return shown


async def up(spoke: BareSpoke) -> dict[str, Any]:
    async def linked() -> dict[str, Any] | None:
        view = await peer(spoke)
        return view if view["link"] else None

    view: dict[str, Any] = await eventually(linked, "the hub shows the link")
    return view


async def test_the_handshake_and_what_the_hub_shows_of_it(spoke: BareSpoke) -> None:
    before = await peer(spoke)
    assert (before["link"], before["told"], before["lastContactAt"]) == (None, None, None)
    async with spoke.linked():
        view = await up(spoke)
        assert view["link"]["remote"] == "127.0.0.1"
        assert (view["told"]["capacity"], view["told"]["labels"]) == (CAPACITY, {"os": "linux"})
        assert view["lastContactAt"] == view["told"]["at"]
    after = await eventually(lambda: gone(spoke), "the hub shows that the link is gone")
    assert after["told"] == view["told"]


async def gone(spoke: BareSpoke) -> dict[str, Any] | None:
    view = await peer(spoke)
    return view if view["link"] is None else None


async def test_commands_and_events_go_over_the_link(spoke: BareSpoke) -> None:
    async with spoke.linked() as socket:
        agent_id = await spoke.node.spawn(spoke.id)
        (command,) = await spoke.serve(socket)
        assert (command["command"], command["id"]) == ("spawn", agent_id)
        await spoke.node.until_delivery(agent_id, "delivered")
        event = spoke.advance(agent_id, "spawning")
        acknowledged = await spoke.ask(socket, spoke.seal_events(event))
        assert isinstance(acknowledged.body, ReplyBody)
        assert [(result.id, result.seq) for result in acknowledged.body.results] == [(agent_id, 2)]
        answering = asyncio.create_task(spoke.answer_questions(socket))
        _, agent = await spoke.node.call("GET", f"/api/v1/agents/{agent_id}?live=true")
        assert agent["status"] == "spawning"
        answering.cancel()
        await asyncio.wait([answering])


async def test_what_waited_leaves_at_once_when_the_spoke_dials(spoke: BareSpoke) -> None:
    agent_id = await spoke.node.spawn(spoke.id)

    async def failed_often() -> bool:
        return bool((await peer(spoke))["failures"] >= 4)

    # By now the pause before the next attempt is 2 to 4 s.
    await eventually(failed_often, "the hub has tried in vain")
    async with spoke.linked() as socket:
        started = time.monotonic()
        (command,) = await spoke.serve(socket)
        assert time.monotonic() - started < 1.5
        assert command["id"] == agent_id


@pytest.mark.attack(21)
async def test_an_envelope_counts_once_over_both_transports(spoke: BareSpoke) -> None:
    async with spoke.linked() as socket:
        raw = spoke.seal_events(agent_status("0199a0b0-0000-7000-8000-000000000000"))
        await spoke.ask(socket, raw)
        await send(socket, raw)
        assert (await problem(socket))["code"] == "replayed"
        assert (await spoke.post(raw))[0] == 409


# --- the handshake refused


def other_key() -> SigningKey:
    return SigningKey(Ed25519PrivateKey.generate())


REFUSED: dict[str, tuple[Callable[[BareSpoke, str], bytes], str, int]] = {
    "recorded on another link": (lambda spoke, _: spoke.hello(NONCE), "replayed", 409),
    "signed by another key": (lambda spoke, nonce: spoke.hello(nonce, key=other_key()), "bad_signature", 401),
    "in the name of another": (lambda spoke, nonce: spoke.hello(nonce, iss="build-9"), "bad_signature", 401),
    "for another hub": (lambda spoke, nonce: spoke.hello(nonce, aud="hub-us"), "wrong_audience", 403),
    "expired": (
        lambda spoke, nonce: spoke.hello(nonce, iat=int(time.time()) - 400, exp=int(time.time()) - 200),
        "expired",
        403,
    ),
    "without a challenge": (
        lambda spoke, nonce: sign({**spoke.claims_to_hub(), "nonce": nonce}, key=spoke.key, typ=EnvelopeType.HELLO),
        "malformed",
        400,
    ),
    "an event": (lambda spoke, _: spoke.seal_events(agent_status("0199a0b0-0000-7000-8000-000000000000")),
                 "wrong_direction", 403),
    "garbage": (lambda _spoke, _nonce: b"garbage", "malformed", 400),
    "a problem": (lambda _spoke, _nonce: b'{"code":"expired"}', "malformed", 400),
}  # fmt: skip


@pytest.mark.parametrize(("make", "code", "status"), REFUSED.values(), ids=REFUSED)
async def test_a_bad_hello(spoke: BareSpoke, make: Callable[[BareSpoke, str], bytes], code: str, status: int) -> None:
    async with spoke.dial() as socket:
        await send(socket, make(spoke, await challenge(socket)))
        document = await problem(socket)
        assert (document["code"], document["status"]) == (code, status)
        assert await closed(socket) == (1008, code)
    view = await peer(spoke)
    assert (view["link"], view["told"]) == (None, None)
    assert len(spoke.node.log_lines("link.received", outcome=code)) >= 1


async def test_a_hello_serves_one_link_only(spoke: BareSpoke) -> None:
    async with spoke.dial() as first, spoke.dial() as second:
        raw = spoke.hello(await challenge(first))
        await send(first, raw)
        await received(first)
        assert len(await challenge(second)) == 43
        await send(second, raw)
        assert (await problem(second))["code"] == "replayed"


@pytest.mark.attack(34)
@pytest.mark.parametrize(
    ("state", "code"),
    [("pending", "connection_inactive"), ("suspended", "connection_inactive"), ("revoked", "bad_signature")],
)
async def test_only_active_spokes_open_a_link(hub: HubNode, state: Any, code: str) -> None:
    spoke = BareSpoke(hub)
    hub.add_peer(spoke.id, spoke.key.public, None, state)
    async with spoke.dial() as socket:
        await send(socket, spoke.hello(await challenge(socket)))
        assert (await problem(socket))["code"] == code


async def test_a_binary_hello_is_none(spoke: BareSpoke) -> None:
    async with spoke.dial() as socket:
        await socket.send_bytes(spoke.hello(await challenge(socket)))
        assert (await problem(socket))["code"] == "unavailable"


@pytest.mark.slow
@pytest.mark.attack(43)
async def test_half_a_handshake_is_given_ten_seconds(spoke: BareSpoke) -> None:
    async with spoke.dial() as silent, spoke.linked() as other:
        await challenge(silent)
        # Others are served meanwhile.
        agent_id = await spoke.node.spawn(spoke.id)
        assert (await spoke.serve(other))[0]["id"] == agent_id
        async with asyncio.timeout(18):
            assert (await problem(silent))["code"] == "too_slow"
            assert await closed(silent) == (1008, "too_slow")


NO_LINKS: dict[str, dict[str, str]] = {
    "a plain request": {},
    "another subprotocol": {"Sec-WebSocket-Protocol": "chat"},
    "no subprotocol": {"Sec-WebSocket-Protocol": ""},
    "an old version": {"Sec-WebSocket-Version": "5"},
    "a bad key": {"Sec-WebSocket-Key": "short"},
}


@pytest.mark.parametrize("changes", NO_LINKS.values(), ids=NO_LINKS)
async def test_what_is_no_link(hub: HubNode, changes: dict[str, str]) -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Protocol": "federation.v1",
        **changes,
    }
    sent = headers if changes else {}
    async with aiohttp.ClientSession() as session, session.get(hub.url + LINK_PATH, headers=sent) as response:
        assert response.status == 426
        assert (await response.json(content_type="application/problem+json"))["code"] == "upgrade_required"


# --- an open link


async def test_a_refused_envelope_closes_nothing(spoke: BareSpoke) -> None:
    async with spoke.linked() as socket:
        for raw, code in (
            (b"garbage", "malformed"),
            (b"a.b.c", "malformed"),
            (spoke.hello(NONCE), "wrong_direction"),
            (spoke.seal_events(aud="hub-us"), "malformed"),
            (spoke.seal_events(agent_status("0199a0b0-0000-7000-8000-000000000000"), aud="hub-us"), "wrong_audience"),
        ):
            await send(socket, raw)
            assert (await problem(socket))["code"] == code
        event = agent_status("0199a0b0-0000-7000-8000-000000000000")
        answer = await spoke.ask(socket, spoke.seal_events(event))
        assert isinstance(answer.body, ReplyBody)
        assert [result.id for result in answer.body.results] == [event["agentId"]]


async def test_binary_and_oversized_messages(spoke: BareSpoke) -> None:
    async with spoke.linked() as socket:
        await socket.send_bytes(b"x")
        assert (await closed(socket))[0] == 1003
    async with spoke.linked() as socket:
        await send(socket, b"x" * MAX_ENVELOPE_BYTES)
        assert (await problem(socket))["code"] == "malformed"
        await send(socket, b"x" * (MAX_ENVELOPE_BYTES + 1))
        assert (await closed(socket))[0] == 1009
    status, _ = await spoke.node.call("GET", "/healthz")
    assert status == 200


@pytest.mark.attack(42)
async def test_compression_is_declined_and_a_compressed_frame_ends_the_link(spoke: BareSpoke) -> None:
    async with spoke.dial(compress=15) as socket:
        assert socket.compress == 0
        await spoke.greet(socket)
        await socket.send_frame(b"0" * MAX_ENVELOPE_BYTES, WSMsgType.TEXT, compress=15)
        assert (await closed(socket))[0] == 1002


@pytest.mark.attack(35)
async def test_a_suspended_spoke_is_cut_off_at_once(spoke: BareSpoke) -> None:
    async with spoke.linked() as socket:
        await up(spoke)
        # By the command line, beside the node: it has to notice by itself.
        suspended = await spoke.node.hub("peer", "suspend", spoke.id)
        assert suspended.returncode == 0
        # Nothing is sent: without watching the connection this would never come.
        assert await closed(socket) == (1008, "connection_inactive")
        assert (await peer(spoke))["link"] is None
    async with spoke.dial() as socket:
        await send(socket, spoke.hello(await challenge(socket)))
        assert (await problem(socket))["code"] == "connection_inactive"


@pytest.mark.attack(35)
async def test_an_event_after_the_suspension_is_refused(spoke: BareSpoke) -> None:
    async with spoke.linked() as socket:
        agent_id = await spoke.node.spawn(spoke.id)
        await spoke.serve(socket)
        await spoke.node.until_delivery(agent_id, "delivered")
        event = spoke.seal_events(spoke.advance(agent_id, "running"))
        spoke.node.set_state(spoke.id, "suspended")
        await send(socket, event)
        message = await socket.receive()
        # The link may have been closed before the event was read.
        if message.type is WSMsgType.TEXT:
            assert json.loads(message.data)["code"] == "connection_inactive"
            message = await socket.receive()
        assert (message.data, message.extra) == (1008, "connection_inactive")
        assert (await spoke.node.agent(agent_id))["status"] == "queued"


@pytest.mark.fault(32)
async def test_a_second_link_closes_the_first_and_both_are_logged(spoke: BareSpoke) -> None:
    async with spoke.linked() as first:
        await up(spoke)
        async with spoke.linked() as second:
            assert await closed(first) == (REPLACED, "replaced")
            (line,) = spoke.node.log_lines("link.replaced", peer=spoke.id)
            assert line["level"] == "warning"
            agent_id = await spoke.node.spawn(spoke.id)
            assert (await spoke.serve(second))[0]["id"] == agent_id

    def codes() -> set[int]:
        return {line["code"] for line in spoke.node.log_lines("link.down", peer=spoke.id)}

    await eventually(lambda: codes() == {REPLACED, 1000}, "the hub has logged both ends")


async def test_many_spokes_at_once(hub: HubNode) -> None:
    spokes = [BareSpoke.registered_at(hub) for _ in range(50)]
    leave = asyncio.Event()

    async def stay(spoke: BareSpoke) -> str:
        async with spoke.linked() as socket:
            agent_id = await hub.spawn(spoke.id)
            (command,) = await spoke.serve(socket)
            assert command["id"] == agent_id
            await leave.wait()
        return spoke.id

    async with asyncio.timeout(40):
        staying = [asyncio.create_task(stay(spoke)) for spoke in spokes]

        async def all_up() -> bool:
            _, views = await hub.call("GET", "/api/v1/peers")
            linked = {view["id"] for view in views["peers"] if view["link"]}
            return linked >= {spoke.id for spoke in spokes}

        await eventually(all_up, "fifty links are up")
        leave.set()
        await asyncio.gather(*staying)
