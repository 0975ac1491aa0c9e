"""Joining a hub: by invite, by request, and every way in which it does not work."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from common.clock import SystemClock
from common.envelope import EnvelopeType, ReplyBody
from common.introduction import introduce
from common.invites import compute_mac, decode_secret, parse_invite
from common.peers import Peer
from common.rotation import NextKey
from common.rotation_store import RotationStore
from hub.inviting import Inviting
from tests.envelopes import key_of, sign
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke, agent_status, new_id

JOIN = "/federation/v1/join"


@pytest.fixture
async def stranger(node: HubNode) -> AsyncIterator[StandinSpoke]:
    """A spoke that the hub does not know yet."""
    async with StandinSpoke(node, registered=False) as standin:
        yield standin


async def invite(node: HubNode, **body: Any) -> Any:
    """Return a fresh invite."""
    status, answer = await node.call("POST", "/api/v1/invites", body)
    assert status == 201, answer
    return parse_invite(answer["invite"])


def join(spoke: StandinSpoke, invited: Any = None, **changes: Any) -> bytes:
    """A JOIN of the spoke; `changes` are to its payload."""
    proof = {}
    if invited is not None:
        mac = compute_mac(decode_secret(invited.secret), spoke.key.kid, spoke.node.id)
        proof = {"invite": invited.invite, "mac": mac}
    payload = {**spoke.claims_to_hub(), "identity": spoke.identity(), **proof, **changes}
    return sign(payload, key=spoke.key, typ=EnvelopeType.JOIN)


def result_of(spoke: StandinSpoke, body: bytes) -> dict[str, Any]:
    """Return the one result of the hub's reply."""
    reply = spoke.open(body).body
    assert isinstance(reply, ReplyBody)
    (result,) = reply.results
    return result.model_dump(by_alias=True, exclude_none=True)


def peer_of(node: HubNode, instance: str) -> Peer | None:
    """Look into the hub's trust store."""
    with node.trust() as store:
        found: Peer | None = store.current().find(instance)
    return found


async def test_the_identity_proves_the_hubs_key(node: HubNode, stranger: StandinSpoke) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{node.url}/federation/v1/identity") as response:
        assert response.content_type == "application/jose"
        raw = await response.read()
    said = introduce(raw, EnvelopeType.IDENTITY, audience="any", now_s=time.time(), skew_s=60)
    assert (said.instance, said.kind, said.url, said.key) == (node.id, "hub", node.url, node.key.public)


async def test_by_invite_it_is_active_at_once_and_has_its_labels(node: HubNode, stranger: StandinSpoke) -> None:
    invited = await invite(node, labels={"region": "eu"})
    assert (invited.hub, invited.url, invited.fingerprint) == (node.id, node.url, node.key.public.fingerprint)
    status, body = await stranger.post(join(stranger, invited), JOIN)
    assert status == 200, body
    assert result_of(stranger, body) == {"id": stranger.id, "connection": "active"}
    _, peer = await node.call("GET", f"/api/v1/peers/{stranger.id}")
    assert (peer["state"], peer["labels"], peer["url"]) == ("active", {"region": "eu"}, stranger.url)
    await node.until_delivery(await node.spawn(stranger.id), "delivered")


async def test_a_join_whose_reply_was_lost_may_be_signed_again(node: HubNode, stranger: StandinSpoke) -> None:
    invited = await invite(node)
    for _ in range(2):
        status, body = await stranger.post(join(stranger, invited), JOIN)
        assert (status, result_of(stranger, body)["connection"]) == (200, "active")


@pytest.mark.attack(21)
async def test_the_same_join_is_taken_once(node: HubNode, stranger: StandinSpoke) -> None:
    raw = join(stranger, await invite(node))
    answers = await asyncio.gather(*(stranger.post(raw, JOIN) for _ in range(8)))
    assert sorted(status for status, _ in answers) == [200] + [409] * 7


async def test_by_request_it_waits_for_its_fingerprint(node: HubNode, stranger: StandinSpoke) -> None:
    status, body = await stranger.post(join(stranger), JOIN)
    assert (status, result_of(stranger, body)) == (200, {"id": stranger.id, "connection": "pending"})
    status, _ = await stranger.post(stranger.seal_events(agent_status(new_id())))
    assert status == 403
    path = f"/api/v1/peers/{stranger.id}"
    for action, refused in (
        ("resume", {}),
        ("approve", {"fingerprint": key_of(9).public.fingerprint}),
        ("approve", {"fingerprint": "SHA256:short"}),
    ):
        status, _ = await node.call("POST", f"{path}/{action}", refused)
        assert status in {400, 404, 409}
        assert (await node.call("GET", path))[1]["state"] == "pending"
    status, peer = await node.call("POST", f"{path}/approve", {"fingerprint": stranger.key.public.fingerprint})
    assert (status, peer["state"]) == (200, "active")
    await node.until_delivery(await node.spawn(stranger.id), "delivered")


async def test_a_spoke_that_moved_joins_again_and_only_its_url_changes(node: HubNode, stranger: StandinSpoke) -> None:
    await stranger.post(join(stranger, await invite(node, labels={"region": "eu"})), JOIN)
    before = peer_of(node, stranger.id)
    assert before is not None
    moved = stranger.identity(url=f"{stranger.url}/moved")
    status, body = await stranger.post(join(stranger, identity=moved), JOIN)
    assert (status, result_of(stranger, body)) == (200, {"id": stranger.id, "connection": "active"})
    after = peer_of(node, stranger.id)
    assert after == replace(before, url=f"{stranger.url}/moved")
    # It does not move on at once, and a spoke that names no place is where it was.
    elsewhere = stranger.identity(url=f"{stranger.url}/elsewhere")
    status, body = await stranger.post(join(stranger, identity=elsewhere), JOIN)
    assert (status, json.loads(body)["code"]) == (429, "rate_limited")
    assert (await stranger.post(join(stranger, identity=stranger.identity(url=None)), JOIN))[0] == 200
    assert peer_of(node, stranger.id) == after


@pytest.mark.attack(34)
async def test_joining_again_brings_nobody_back(node: HubNode, stranger: StandinSpoke) -> None:
    await stranger.post(join(stranger, await invite(node)), JOIN)
    node.set_state(stranger.id, "suspended")
    before = peer_of(node, stranger.id)
    moved = stranger.identity(url=f"{stranger.url}/moved")
    status, body = await stranger.post(join(stranger, identity=moved), JOIN)
    assert (status, result_of(stranger, body)["connection"]) == (200, "suspended")
    assert peer_of(node, stranger.id) == before


@pytest.mark.attack(31)
async def test_a_former_key_moves_nobody(node: HubNode, stranger: StandinSpoke) -> None:
    await stranger.post(join(stranger, await invite(node)), JOIN)
    with node.trust() as store:
        peer = store.find(stranger.id)
        following = NextKey(key_of(77).public, 1, stranger.key.kid)
        RotationStore(store).rotate_peer(peer, following, int(time.time()) + 3600)
    before = peer_of(node, stranger.id)
    status, body = await stranger.post(join(stranger, identity=stranger.identity(url=f"{stranger.url}/x")), JOIN)
    assert (status, json.loads(body)["code"]) == (409, "peer_refused")
    assert peer_of(node, stranger.id) == before


async def test_the_admin_says_where_a_spoke_is(node: HubNode, stranger: StandinSpoke) -> None:
    await stranger.post(join(stranger, await invite(node)), JOIN)
    url = f"{stranger.url}/moved"
    assert (await node.hub("peer", "set-url", stranger.id, url)).returncode == 0
    assert (await node.call("GET", f"/api/v1/peers/{stranger.id}"))[1]["url"] == url
    assert "peer.url_changed" in (await node.hub("audit", "show", "--peer", stranger.id)).stdout
    for wrong in ((), (url, "--none"), ("http://169.254.169.254",), ("not a url",)):
        assert (await node.hub("peer", "set-url", stranger.id, *wrong)).returncode != 0
    assert (await node.hub("peer", "set-url", stranger.id, "--none")).returncode == 0
    assert (await node.call("GET", f"/api/v1/peers/{stranger.id}"))[1]["url"] is None
    node.set_state(stranger.id, "revoked")
    assert "revoked" in (await node.hub("peer", "set-url", stranger.id, url)).stderr


async def test_an_invite_works_for_one_spoke(node: HubNode, stranger: StandinSpoke) -> None:
    invited = await invite(node)
    assert (await stranger.post(join(stranger, invited), JOIN))[0] == 200
    async with StandinSpoke(node, registered=False) as second:
        status, body = await second.post(join(second, invited), JOIN)
        assert (status, json.loads(body)["code"]) == (403, "invite_refused")
        assert peer_of(node, second.id) is None


async def test_a_wrong_mac_does_not_use_an_invite_up(node: HubNode, stranger: StandinSpoke) -> None:
    invited = await invite(node)
    mac = compute_mac(b"x" * 32, stranger.key.kid, node.id)
    status, body = await stranger.post(join(stranger, invited, mac=mac), JOIN)
    assert (status, json.loads(body)["code"]) == (403, "invite_refused")
    assert peer_of(node, stranger.id) is None
    assert (await stranger.post(join(stranger, invited), JOIN))[0] == 200


async def test_an_expired_invite_is_refused(node: HubNode, stranger: StandinSpoke) -> None:
    with node.trust() as store:
        expired = Inviting(node.id, node.key, store, SystemClock()).invite(node.url, -1, {})
    status, body = await stranger.post(join(stranger, expired), JOIN)
    assert (status, json.loads(body)["code"]) == (403, "invite_refused")
    assert peer_of(node, stranger.id) is None


REFUSED: dict[str, tuple[Any, int, str]] = {
    "a hub": (lambda spoke: {"identity": spoke.identity(kind="hub")}, 403, "wrong_direction"),
    "another's key first": (
        lambda spoke: {"identity": spoke.identity(keys=[key_of(8).public.to_jwk()])},
        401,
        "bad_signature",
    ),
    "another's id": (lambda spoke: {"iss": "somebody-else"}, 401, "bad_signature"),
    "for another hub": (lambda spoke: {"aud": "hub-us"}, 403, "wrong_audience"),
    "an invite without mac": (lambda spoke: {"invite": new_id()}, 400, "malformed"),
    "a metadata address": (
        lambda spoke: {"identity": spoke.identity(url="http://169.254.169.254/")},
        400,
        "url_refused",
    ),
    "a low-order key": (
        lambda spoke: {"identity": spoke.identity(keys=[{"kty": "OKP", "crv": "Ed25519", "x": "A" * 43}])},
        400,
        "malformed",
    ),
    "the hub's own id": (
        lambda spoke: {"iss": spoke.node.id, "identity": spoke.identity(instance=spoke.node.id)},
        409,
        "peer_refused",
    ),
}


@pytest.mark.parametrize(("change", "status", "code"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_refused_join_leaves_no_peer(
    node: HubNode, stranger: StandinSpoke, change: Any, status: int, code: str
) -> None:
    with node.trust() as store:
        before = [peer.instance for peer in store.current().peers()]
    answered, body = await stranger.post(join(stranger, **change(stranger)), JOIN)
    assert (answered, json.loads(body)["code"]) == (status, code)
    with node.trust() as store:
        assert [peer.instance for peer in store.current().peers()] == before


async def test_an_event_is_no_join_and_a_join_no_event(node: HubNode, stranger: StandinSpoke) -> None:
    status, body = await stranger.post(stranger.seal_events(agent_status(new_id())), JOIN)
    assert (status, json.loads(body)["code"]) == (403, "wrong_direction")
    status, body = await stranger.post(join(stranger))
    assert (status, json.loads(body)["code"]) == (401, "bad_signature")


@pytest.mark.attack(63)
async def test_no_invite_is_in_the_log(node: HubNode, stranger: StandinSpoke) -> None:
    invited = await invite(node)
    await stranger.post(join(stranger, invited), JOIN)
    assert node.log_lines("join.received", peer=stranger.id)
    assert invited.secret not in node.log()
    assert node.token not in node.log()
