"""Commands reach a spoke once and in order, over lost replies, refusals, absences and hostile answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from common.envelope import EnvelopeType, VerifiedEnvelope
from common.http import ENVELOPE_TYPE
from tests.envelopes import key_of, sign
from tests.integration.hub.hub_node import HubNode, spawn_request
from tests.integration.hub.standin_spoke import StandinSpoke, agent_status, error, new_id
from tests.spoke_node import eventually


async def test_a_spawn_reaches_the_spoke_as_it_was_asked(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id, taskId="T-42", priority=3, context={"skills": ["python"]})
    agent = await node.until_delivery(agent_id, "delivered")
    assert (agent["status"], agent["seq"], agent["taskId"], agent["spoke"]) == ("queued", 1, "T-42", spoke.id)
    assert agent["delivery"] == {"state": "delivered", "attempts": 1, "lastError": None}
    assert spoke.commands == [
        {
            "id": agent_id,
            "command": "spawn",
            "taskId": "T-42",
            "agentType": "worker",
            "context": {
                "repository": "https://git.example.org/team/app.git",
                "branch": "main",
                "workItems": ["fix the login redirect"],
                "skills": ["python"],
            },
            "priority": 3,
        }
    ]
    assert agent["context"] == spoke.commands[0]["context"]


async def test_what_gathers_while_an_envelope_is_under_way_leaves_together(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.next("hold")
    first = await node.spawn(spoke.id)
    await eventually(lambda: spoke.envelopes, "the first envelope")
    others = await asyncio.gather(*(node.spawn(spoke.id) for _ in range(100)))
    spoke.released.set()
    for agent_id in others:
        await node.until_delivery(agent_id, "delivered")
    assert len(spoke.envelopes) <= 3
    assert sorted(command["id"] for command in spoke.commands) == sorted([first, *others])


async def test_commands_of_one_spoke_go_in_the_order_they_came(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.next("hold")
    agents = [await node.spawn(spoke.id) for _ in range(8)]
    status, _ = await node.call("POST", f"/api/v1/agents/{agents[3]}/kill", {"graceS": 3, "reason": "superseded"})
    assert status == 202
    agents.append(await node.spawn(spoke.id))
    spoke.released.set()
    await node.until_delivery(agents[-1], "delivered")
    assert [command["id"] for command in spoke.commands if command["command"] == "spawn"] == agents
    kill = spoke.commands[-2]
    assert {name: kill[name] for name in ("command", "agentId", "graceS", "reason")} == {
        "command": "kill", "agentId": agents[3], "graceS": 3, "reason": "superseded",
    }  # fmt: skip
    killed = await node.agent(agents[3])
    assert (killed["status"], killed["kill"]["state"]) == ("killed", "delivered")


async def test_a_spoke_that_is_held_up_holds_up_no_other(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.next("hold")
    await node.spawn(spoke.id)
    async with StandinSpoke(node) as other:
        await node.until_delivery(await node.spawn(other.id), "delivered")


@pytest.mark.fault(3)
@pytest.mark.fault(15)
async def test_after_a_lost_reply_the_same_command_goes_again_in_a_fresh_envelope(
    node: HubNode, spoke: StandinSpoke
) -> None:
    spoke.next("drop", "drop")
    agent_id = await node.spawn(spoke.id)
    agent = await node.until_delivery(agent_id, "delivered")
    assert [command["id"] for command in spoke.commands] == [agent_id] * 3
    assert spoke.envelopes[0] == spoke.envelopes[1] == spoke.envelopes[2]
    assert len({claims.jti for claims in spoke.claims}) == 3
    assert agent["delivery"]["attempts"] == 3
    assert agent["status"] == "queued"


@pytest.mark.fault(15)
async def test_while_nobody_knows_the_agent_is_pending_and_says_why(node: HubNode, spoke: StandinSpoke) -> None:
    await spoke.down()
    agent_id = await node.spawn(spoke.id)

    async def tried() -> dict[str, Any] | None:
        agent = await node.agent(agent_id)
        return agent if agent["delivery"]["lastError"] else None

    agent = await eventually(tried, "a failed attempt")
    assert (agent["status"], agent["delivery"]["state"]) == ("pending", "pending")
    assert agent["delivery"]["lastError"]["code"] == "unavailable"
    _, peer = await node.call("GET", f"/api/v1/peers/{spoke.id}")
    assert peer["failures"] >= 1
    assert peer["pending"] == 1
    assert peer["nextAttemptAt"] is not None
    assert peer["lastError"]["code"] == "unavailable"
    assert (peer["lastAnswerAt"], peer["lastContactAt"]) == (None, None)
    assert peer["failingSince"] <= peer["lastAttemptAt"] <= peer["nextAttemptAt"]
    # Hearing from it is not reaching it: what waits has still not been answered.
    await spoke.report(agent_status(new_id()))
    _, heard = await node.call("GET", f"/api/v1/peers/{spoke.id}")
    assert heard["lastContactAt"] is not None
    assert (heard["failingSince"], heard["lastAnswerAt"]) == (peer["failingSince"], None)
    await spoke.up()
    await node.until_delivery(agent_id, "delivered")
    _, reached = await node.call("GET", f"/api/v1/peers/{spoke.id}")
    assert reached["lastAnswerAt"] >= peer["lastAttemptAt"]
    failing = ("failures", "failingSince", "nextAttemptAt", "lastError")
    assert [reached[name] for name in failing] == [0, None, None, None]


async def fail_often(node: HubNode, spoke: StandinSpoke, failures: int) -> str:
    """Let that many attempts fail, so that the next pause is longer than the test waits."""
    agent_id = await node.spawn(spoke.id)

    async def failed() -> bool:
        _, peer = await node.call("GET", f"/api/v1/peers/{spoke.id}")
        return bool(peer["failures"] >= failures)

    await eventually(failed, f"{failures} failures")
    return agent_id


@pytest.mark.fault(17)
async def test_pauses_grow_and_end_when_the_spoke_is_heard_of(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.next(*["connection_inactive"] * 4)
    agent_id = await fail_often(node, spoke, 4)
    gaps = [later - earlier for earlier, later in zip(spoke.times, spoke.times[1:], strict=False)]
    # Each pause is 0.5 s doubled, less at most half of it.
    assert all(gap >= 0.25 * 2**number for number, gap in enumerate(gaps))
    heard_at = time.monotonic()
    await spoke.report(agent_status(new_id(), "running", 3))
    await node.until_delivery(agent_id, "delivered")
    # The fifth attempt was 2 to 4 s away.
    assert time.monotonic() - heard_at < 1.5


@pytest.mark.fault(17)
async def test_the_operator_can_end_a_pause(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.next(*["bad_signature"] * 4)
    agent_id = await fail_often(node, spoke, 4)
    agent = await node.agent(agent_id)
    assert agent["delivery"]["lastError"]["code"] == "bad_signature"
    asked_at = time.monotonic()
    status, _ = await node.call("POST", f"/api/v1/peers/{spoke.id}/resume")
    assert status == 200
    await node.until_delivery(agent_id, "delivered")
    assert time.monotonic() - asked_at < 1.5


@pytest.mark.parametrize(
    "code",
    ["bad_signature", "connection_inactive", "wrong_audience", "expired", "not_yet_valid", "replayed", "rate_limited"],
)
async def test_a_refused_envelope_keeps_its_commands(node: HubNode, spoke: StandinSpoke, code: str) -> None:
    spoke.next(code)
    agent_id = await node.spawn(spoke.id)
    agent = await node.until_delivery(agent_id, "delivered")
    assert agent["delivery"]["attempts"] == 2
    assert node.log_lines("envelope.failed", peer=spoke.id, code=code)


async def test_one_command_that_a_spoke_cannot_read_is_found_and_refused(node: HubNode, spoke: StandinSpoke) -> None:
    guilty: list[str] = []

    async def read(envelope: VerifiedEnvelope) -> web.StreamResponse | bytes:
        spoke.next(read)
        if any(command["id"] in guilty for command in envelope.body.commands):  # type: ignore[union-attr]  # of COMMAND
            return web.json_response({"code": "malformed"}, status=400, content_type="application/problem+json")
        return spoke.reply(envelope)

    spoke.next("hold", read)
    agents = [await node.spawn(spoke.id) for _ in range(20)]
    guilty.append(agents[13])
    spoke.released.set()
    for agent_id in agents:
        await node.until_delivery(agent_id, "refused" if agent_id in guilty else "delivered")
    refused = await node.agent(guilty[0])
    assert refused["delivery"]["lastError"]["code"] == "malformed"
    assert refused["status"] == "pending"


async def test_a_command_refused_for_good_is_refused(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.answers["spawn"] = error("not_allowed", detail="repositories: no glob covers it")
    agent = await node.until_delivery(await node.spawn(spoke.id), "refused")
    assert agent["delivery"]["lastError"] == {
        "code": "not_allowed", "detail": "repositories: no glob covers it", "retryable": False,
    }  # fmt: skip
    assert (agent["status"], agent["seq"]) == ("pending", 0)
    _, page = await node.call("GET", f"/api/v1/agents?spoke={spoke.id}&status=refused")
    assert [found["agentId"] for found in page["agents"]] == [agent["agentId"]]
    _, page = await node.call("GET", f"/api/v1/agents?spoke={spoke.id}&status=pending")
    assert page["agents"] == []


@pytest.mark.parametrize("code", ["queue_full", "quota_exceeded", "frozen", "draining"])
async def test_a_command_refused_for_now_goes_again_later(node: HubNode, spoke: StandinSpoke, code: str) -> None:
    spoke.answers["spawn"] = error(code, retryable=True)
    agent_id = await node.spawn(spoke.id)

    async def refused() -> bool:
        agent = await node.agent(agent_id)
        return bool((agent["delivery"]["lastError"] or {}).get("code") == code)

    await eventually(refused, "the refusal is shown")
    assert (await node.agent(agent_id))["delivery"]["state"] == "pending"
    del spoke.answers["spawn"]
    agent = await node.until_delivery(agent_id, "delivered")
    assert agent["delivery"]["lastError"] is None


async def test_one_command_put_off_does_not_hold_up_the_others(node: HubNode, spoke: StandinSpoke) -> None:
    first = new_id()

    def put_off(command: dict[str, Any]) -> dict[str, Any]:
        if command["id"] == first:
            return error("quota_exceeded", retryable=True)(command)
        spoke.agents[command["id"]] = agent_status(command["id"])
        return {"id": command["id"], "agent": spoke.agents[command["id"]]}

    spoke.answers["spawn"] = put_off
    await node.spawn(spoke.id, agentId=first)
    await node.until_delivery(await node.spawn(spoke.id), "delivered")
    assert (await node.agent(first))["delivery"]["state"] == "pending"


@pytest.mark.fault(19)
async def test_a_kill_that_overtakes_its_spawn_is_shown(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.answers["spawn"] = error("queue_full", retryable=True)
    agent_id = await node.spawn(spoke.id)
    await eventually(lambda: spoke.sent(agent_id), "the spawn was put off")
    await node.call("POST", f"/api/v1/agents/{agent_id}/kill")
    spoke.answers["spawn"] = error("killed")
    agent = await node.until_delivery(agent_id, "refused")
    assert agent["delivery"]["lastError"]["code"] == "killed"
    assert agent["kill"]["state"] == "refused"
    assert agent["kill"]["lastError"]["code"] == "not_found"


async def test_one_kill_waits_however_often_it_is_asked_for(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    await spoke.down()
    answers = [await node.call("POST", f"/api/v1/agents/{agent_id}/kill") for _ in range(3)]
    assert len({answer["commandId"] for _, answer in answers}) == 1
    await spoke.up()
    await eventually(lambda: spoke.sent(agent_id, "kill"), "the kill")

    async def killed() -> bool:
        return bool((await node.agent(agent_id))["status"] == "killed")

    await eventually(killed, "the kill is recorded")
    assert spoke.sent(agent_id, "kill") == 1
    _, answer = await node.call("POST", f"/api/v1/agents/{agent_id}/kill")
    assert answer == {"agentId": agent_id, "status": "killed", "commandId": None}


# --- hostile answers


def _other_re(spoke: StandinSpoke, envelope: VerifiedEnvelope) -> bytes:
    return spoke.reply(envelope, re=new_id())


def _other_signature(spoke: StandinSpoke, envelope: VerifiedEnvelope) -> bytes:
    payload = {**spoke.claims_to_hub(), "re": envelope.claims.jti, "results": []}
    return sign(payload, key=key_of(77), typ=EnvelopeType.REPLY)


def _not_for_us(spoke: StandinSpoke, envelope: VerifiedEnvelope) -> bytes:
    return spoke.reply(envelope, aud="another-hub")


def _too_few(spoke: StandinSpoke, envelope: VerifiedEnvelope) -> bytes:
    return spoke.reply(envelope, results=[])


def _other_command(spoke: StandinSpoke, envelope: VerifiedEnvelope) -> bytes:
    command = envelope.body.commands[0]  # type: ignore[union-attr]  # of COMMAND
    return spoke.reply(envelope, results=[{"id": new_id(), "agent": agent_status(command["id"])}])


def _other_agent(spoke: StandinSpoke, envelope: VerifiedEnvelope) -> bytes:
    command = envelope.body.commands[0]  # type: ignore[union-attr]  # of COMMAND
    return spoke.reply(envelope, results=[{"id": command["id"], "agent": agent_status(new_id())}])


def _nothing(spoke: StandinSpoke, envelope: VerifiedEnvelope) -> bytes:
    command = envelope.body.commands[0]  # type: ignore[union-attr]  # of COMMAND
    return spoke.reply(envelope, results=[{"id": command["id"]}])


def _an_event(spoke: StandinSpoke, _envelope: VerifiedEnvelope) -> bytes:
    return spoke.seal_events(agent_status(new_id()))


def _gzip(spoke: StandinSpoke, envelope: VerifiedEnvelope) -> web.Response:
    return web.Response(body=spoke.reply(envelope), content_type=ENVELOPE_TYPE, headers={"Content-Encoding": "gzip"})


def _huge(_spoke: StandinSpoke, _envelope: VerifiedEnvelope) -> web.Response:
    return web.Response(body=b"a" * (8 * 1024 * 1024), content_type=ENVELOPE_TYPE)


def _page(_spoke: StandinSpoke, _envelope: VerifiedEnvelope) -> web.Response:
    return web.Response(text="<html>", content_type="text/html")


def _redirect(spoke: StandinSpoke, _envelope: VerifiedEnvelope) -> web.Response:
    return web.Response(status=307, headers={"Location": f"{spoke.url}/elsewhere"})


HOSTILE: dict[str, Callable[[StandinSpoke, VerifiedEnvelope], bytes | web.Response]] = {
    "other re": _other_re,
    "another's signature": _other_signature,
    "for another hub": _not_for_us,
    "too few results": _too_few,
    "about another command": _other_command,
    "about another agent": _other_agent,
    "says nothing": _nothing,
    "an event": _an_event,
    "gzip": _gzip,
    "eight megabytes": _huge,
    "a web page": _page,
    "a redirect": _redirect,
}


@pytest.mark.attack(49)
@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_answer_settles_nothing(
    node: HubNode,
    spoke: StandinSpoke,
    answer: Callable[[StandinSpoke, VerifiedEnvelope], bytes | web.Response],
) -> None:
    async def hostile(envelope: VerifiedEnvelope) -> web.StreamResponse | bytes:
        return answer(spoke, envelope)

    spoke.next(hostile, "hold")
    agent_id = await node.spawn(spoke.id)
    await eventually(lambda: len(spoke.envelopes) == 2, "the second attempt")
    agent = await node.agent(agent_id)
    assert (agent["status"], agent["delivery"]["state"]) == ("pending", "pending")
    assert agent["delivery"]["lastError"] is not None
    _, page = await node.call("GET", f"/api/v1/agents?spoke={spoke.id}")
    assert [found["agentId"] for found in page["agents"]] == [agent_id]
    spoke.released.set()
    await node.until_delivery(agent_id, "delivered")


@pytest.mark.attack(49)
async def test_an_answer_that_never_ends_is_cut_off(node: HubNode, spoke: StandinSpoke) -> None:
    cut = asyncio.Event()

    async def endless(request: VerifiedEnvelope) -> web.StreamResponse:
        async def drip() -> Any:
            try:
                while True:
                    yield b"a" * 65_536
                    await asyncio.sleep(0.01)
            finally:
                cut.set()

        return web.Response(body=drip(), content_type=ENVELOPE_TYPE)

    spoke.next(endless)
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    async with asyncio.timeout(5):
        await cut.wait()


# --- suspended, revoked


async def test_a_suspended_spoke_gets_nothing_and_loses_nothing(node: HubNode, spoke: StandinSpoke) -> None:
    await spoke.down()
    agent_id = await node.spawn(spoke.id)
    node.set_state(spoke.id, "suspended")
    await spoke.up()
    status, problem = await node.call("POST", "/api/v1/agents", spawn_request(spoke.id))
    assert (status, problem["code"]) == (409, "connection_inactive")
    # Another spoke's delivery shows that the hub has looked at its outboxes since.
    async with StandinSpoke(node) as other:
        await node.until_delivery(await node.spawn(other.id), "delivered")
    assert spoke.envelopes == []
    node.set_state(spoke.id, "active")
    await node.until_delivery(agent_id, "delivered")


@pytest.mark.attack(33)
async def test_what_waits_for_a_revoked_spoke_is_not_inherited(node: HubNode, spoke: StandinSpoke) -> None:
    delivered = await node.spawn(spoke.id)
    await node.until_delivery(delivered, "delivered")
    await spoke.down()
    waiting = await node.spawn(spoke.id)
    node.set_state(spoke.id, "revoked")
    node.add_peer(spoke.id, spoke.key.public, spoke.url)
    await spoke.up()
    agent = await node.until_delivery(waiting, "refused")
    assert agent["delivery"]["lastError"]["code"] == "connection_inactive"
    fresh = await node.spawn(spoke.id)
    await node.until_delivery(fresh, "delivered")
    assert spoke.sent(waiting) == 0
    (result,) = await spoke.report(spoke.advance(delivered, "running"))
    assert result["error"]["code"] == "not_allowed"
    assert (await node.agent(delivered))["status"] == "queued"
    status, problem = await node.call("POST", f"/api/v1/agents/{delivered}/kill")
    assert (status, problem["code"]) == (409, "connection_inactive")


# --- deadlines


async def test_a_spawn_that_nobody_took_in_time_expires(node: HubNode, spoke: StandinSpoke) -> None:
    await spoke.down()
    agent_id = await node.spawn(spoke.id, deadlineS=1)
    agent = await node.until_delivery(agent_id, "expired")
    assert agent["delivery"]["lastError"]["code"] == "expired"
    await spoke.up()
    await node.until_delivery(await node.spawn(spoke.id), "delivered")
    assert spoke.sent(agent_id) == 0


async def test_an_expired_spawn_that_had_arrived_after_all_is_shown_as_it_is(
    node: HubNode, spoke: StandinSpoke
) -> None:
    spoke.next("drop", *["expired"] * 20)
    agent_id = await node.spawn(spoke.id, deadlineS=1)
    await node.until_delivery(agent_id, "expired")
    await spoke.report(spoke.advance(agent_id, "running"))
    agent = await node.agent(agent_id)
    assert (agent["status"], agent["delivery"]["state"]) == ("running", "delivered")
