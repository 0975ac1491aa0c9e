"""EVENT envelopes: what they change, what they cannot change, how they are acknowledged."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from common.errors import ENVELOPE_STATUS
from tests.envelopes import key_of, sign
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke, agent_status, new_id
from tests.spoke_node import eventually


async def delivered(node: HubNode, spoke: StandinSpoke) -> str:
    """Return an agent that the spoke has taken."""
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    return agent_id


async def test_an_event_is_acknowledged_and_shown(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await delivered(node, spoke)
    running = spoke.advance(agent_id, "running", startedAt="2026-11-22T08:00:01.000Z")
    assert await spoke.report(running) == [{"id": agent_id, "seq": 2}]
    agent = await node.agent(agent_id)
    assert {name: agent[name] for name in running} == running
    _, page = await node.call("GET", f"/api/v1/agents?spoke={spoke.id}&status=running")
    assert [found["agentId"] for found in page["agents"]] == [agent_id]
    _, peer = await node.call("GET", f"/api/v1/peers/{spoke.id}")
    assert peer["lastContactAt"] is not None


async def test_events_out_of_order_and_doubled_leave_the_latest(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await delivered(node, spoke)
    spawning, running = agent_status(agent_id, "spawning", 2), agent_status(agent_id, "running", 3)
    completed = agent_status(agent_id, "completed", 4, result={"summary": "done"})
    for told in (running, spawning, running, completed, running, completed, spawning):
        (acknowledged,) = await spoke.report(told)
        assert acknowledged == {"id": agent_id, "seq": told["seq"]}
    agent = await node.agent(agent_id)
    assert (agent["status"], agent["seq"], agent["result"]) == ("completed", 4, {"summary": "done"})


@pytest.mark.fault(20)
async def test_a_terminal_state_is_final(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await delivered(node, spoke)
    await spoke.report(agent_status(agent_id, "killed", 3, reason="killed_by_peer"))
    for seq in (3, 4):
        assert await spoke.report(agent_status(agent_id, "completed", seq)) == [{"id": agent_id, "seq": seq}]
    agent = await node.agent(agent_id)
    assert (agent["status"], agent["seq"], agent["reason"]) == ("killed", 3, "killed_by_peer")


async def test_a_result_is_not_replaced_by_none(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await delivered(node, spoke)
    await spoke.report(agent_status(agent_id, "completed", 3))
    await spoke.report(agent_status(agent_id, "completed", 3, result={"summary": "done"}))
    await spoke.report(agent_status(agent_id, "completed", 3))
    assert (await node.agent(agent_id))["result"] == {"summary": "done"}


@pytest.mark.attack(38)
async def test_an_event_for_another_spokes_agent_is_refused(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await delivered(node, spoke)
    before = await node.agent(agent_id)
    own = new_id()
    async with StandinSpoke(node) as other:
        foreign = agent_status(agent_id, "completed", 9, result={"summary": "mine now"})
        refused, taken = await other.report(foreign, agent_status(own))
    assert refused["id"] == agent_id
    assert (refused["error"]["code"], refused["error"]["retryable"]) == ("not_allowed", False)
    assert taken == {"id": own, "seq": 1}
    assert await node.agent(agent_id) == before


@pytest.mark.attack(21)
async def test_a_replayed_envelope_is_taken_once(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = new_id()
    raw = spoke.seal_events(agent_status(agent_id))
    answers = await asyncio.gather(*(spoke.post(raw) for _ in range(64)))
    assert sorted(status for status, _ in answers) == [200] + [409] * 63
    assert len(node.log_lines("envelope.received", peer=spoke.id, outcome="accepted")) == 1


async def test_a_thousand_events_in_one_envelope(node: HubNode, spoke: StandinSpoke) -> None:
    ids = [new_id() for _ in range(1000)]
    acknowledged = await spoke.report(*(agent_status(agent_id) for agent_id in ids))
    assert acknowledged == [{"id": agent_id, "seq": 1} for agent_id in ids]


async def test_an_event_settles_a_spawn_whose_reply_was_lost(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.next("drop", *["connection_inactive"] * 50)
    agent_id = await node.spawn(spoke.id)
    await eventually(lambda: len(spoke.envelopes) >= 2, "the second attempt")
    await spoke.report(spoke.advance(agent_id, "running"))
    agent = await node.agent(agent_id)
    assert (agent["status"], agent["delivery"]["state"], agent["delivery"]["lastError"]) == (
        "running",
        "delivered",
        None,
    )
    _, peer = await node.call("GET", f"/api/v1/peers/{spoke.id}")
    assert peer["pending"] == 0


def _wrong_key(spoke: StandinSpoke) -> bytes:
    payload = {**spoke.claims_to_hub(), "events": [{"agent": agent_status(new_id())}]}
    return sign(payload, key=key_of(78), typ="event+jwt")


def _of_another(spoke: StandinSpoke) -> bytes:
    return spoke.seal_events(agent_status(new_id()), iss="somebody-else")


def _a_command(spoke: StandinSpoke) -> bytes:
    command = {"id": new_id(), "command": "status", "agentId": new_id()}
    return sign({**spoke.claims_to_hub(), "commands": [command]}, key=spoke.key)


def _a_reply(spoke: StandinSpoke) -> bytes:
    payload = {**spoke.claims_to_hub(), "re": new_id(), "results": []}
    return sign(payload, key=spoke.key, typ="reply+jwt")


REFUSED = {
    "no envelope": (lambda spoke: b"hello", "malformed"),
    "wrong key": (_wrong_key, "bad_signature"),
    "another issuer": (_of_another, "bad_signature"),
    "another audience": (lambda spoke: spoke.seal_events(agent_status(new_id()), aud="hub-us"), "wrong_audience"),
    "expired": (lambda spoke: spoke.seal_events(agent_status(new_id()), iat=1_000_000, exp=1_000_060), "expired"),
    "a command": (_a_command, "wrong_direction"),
    "a reply": (_a_reply, "wrong_direction"),
    "no events": (lambda spoke: spoke.seal_events(), "malformed"),
    "a status that is none": (lambda spoke: spoke.seal_events(agent_status(new_id(), "asleep")), "malformed"),
    "over a megabyte": (lambda spoke: b"a" * (2**20 + 1), "too_large"),
}


@pytest.mark.attack(29)
@pytest.mark.parametrize(("make", "code"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_refused_envelope_changes_nothing(node: HubNode, spoke: StandinSpoke, make: Any, code: str) -> None:
    status, body = await spoke.post(make(spoke))
    assert status == ENVELOPE_STATUS[code]
    assert f'"code":"{code}"'.encode() in body
    _, page = await node.call("GET", f"/api/v1/agents?spoke={spoke.id}")
    assert page["agents"] == []
    _, peer = await node.call("GET", f"/api/v1/peers/{spoke.id}")
    assert peer["lastContactAt"] is None


@pytest.mark.attack(34)
@pytest.mark.parametrize("state", ["pending", "suspended"])
async def test_a_spoke_that_is_not_active_says_nothing(node: HubNode, state: Any) -> None:
    async with StandinSpoke(node, registered=False) as spoke:
        node.add_peer(spoke.id, spoke.key.public, spoke.url, state)
        status, body = await spoke.post(spoke.seal_events(agent_status(new_id())))
        assert (status, b'"code":"connection_inactive"' in body) == (403, True)
        _, page = await node.call("GET", f"/api/v1/agents?spoke={spoke.id}")
        assert page["agents"] == []


async def test_a_revoked_spoke_is_a_stranger(node: HubNode, spoke: StandinSpoke) -> None:
    node.set_state(spoke.id, "revoked")
    status, body = await spoke.post(spoke.seal_events(agent_status(new_id())))
    assert (status, b'"code":"bad_signature"' in body) == (401, True)


async def test_a_compressed_or_mislabelled_body_is_not_read(node: HubNode, spoke: StandinSpoke) -> None:
    raw = spoke.seal_events(agent_status(new_id()))
    for headers in ({"Content-Encoding": "gzip"}, {"Content-Type": "application/json"}):
        status, body = await spoke.post(raw, **headers)
        assert (status, b"unsupported_media_type" in body) == (415, True)
