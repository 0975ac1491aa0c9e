"""The admin API: spawn one and many, list, look, kill, logs, peers, its own description."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from hub.api.models import AgentPage, AgentView, LogView, PeerList, ResumedView, SentView, SpawnedView, SpawnManyView
from tests.envelopes import key_of
from tests.integration.hub.hub_node import HubNode, spawn_request
from tests.integration.hub.standin_spoke import StandinSpoke, agent_status, error, new_id
from tests.spoke_node import eventually

AGENTS = "/api/v1/agents"


def conforms(model: Any, value: Any) -> None:
    """Assert that an answer is what the OpenAPI document says, with nothing left out."""
    assert json.loads(model.model_validate(value).model_dump_json(by_alias=True)) == value


async def test_a_spawn_is_answered_with_its_id_at_once(node: HubNode, spoke: StandinSpoke) -> None:
    await spoke.down()
    status, answer = await node.call("POST", AGENTS, spawn_request(spoke.id))
    assert (status, answer["spoke"], answer["status"]) == (202, spoke.id, "pending")
    conforms(SpawnedView, answer)
    agent = await node.agent(answer["agentId"])
    conforms(AgentView, agent)
    assert agent["context"]["workItems"] == ["fix the login redirect"]


async def test_the_same_request_again_is_the_same_agent(node: HubNode, spoke: StandinSpoke) -> None:
    request = spawn_request(spoke.id, agentId=new_id())
    answers = await asyncio.gather(*(node.call("POST", AGENTS, request) for _ in range(10)))
    assert {status for status, _ in answers} == {202}
    assert {answer["agentId"] for _, answer in answers} == {request["agentId"]}
    await node.until_delivery(request["agentId"], "delivered")
    assert spoke.sent(request["agentId"]) == 1
    # What is left out and what is given with its default are the same content.
    _, answer = await node.call("POST", AGENTS, {**request, "priority": 5})
    assert answer == {"agentId": request["agentId"], "spoke": spoke.id, "status": "queued"}


OTHER_CONTENT: dict[str, dict[str, Any]] = {
    "task": {"taskId": "T-2"},
    "priority": {"priority": 4},
    "type": {"agentType": "tester"},
    "work": {"context": {"workItems": ["something else"]}},
}


@pytest.mark.attack(23)
@pytest.mark.parametrize("change", OTHER_CONTENT.values(), ids=OTHER_CONTENT.keys())
async def test_the_same_id_with_other_content_is_a_conflict(
    node: HubNode, spoke: StandinSpoke, change: dict[str, Any]
) -> None:
    agent_id = new_id()
    await node.spawn(spoke.id, agentId=agent_id)
    before = await node.until_delivery(agent_id, "delivered")
    status, problem = await node.call("POST", AGENTS, spawn_request(spoke.id, agentId=agent_id, **change))
    assert (status, problem["code"]) == (409, "conflict")
    assert await node.agent(agent_id) == before
    assert spoke.sent(agent_id) == 1


@pytest.mark.attack(23)
async def test_the_same_id_for_another_spoke_is_a_conflict(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    async with StandinSpoke(node) as other:
        status, problem = await node.call("POST", AGENTS, spawn_request(other.id, agentId=agent_id))
        assert (status, problem["code"]) == (409, "conflict")
        _, page = await node.call("GET", f"{AGENTS}?spoke={other.id}")
        assert page["agents"] == []


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "unknown member": ({"color": "red"}, 400, "invalid"),
    "no task": ({"taskId": None}, 400, "invalid"),
    "number as text": ({"priority": "5"}, 400, "invalid"),
    "true for a number": ({"timeoutS": True}, 400, "invalid"),
    "float for a number": ({"maxAttempts": 1.0}, 400, "invalid"),
    "priority out of range": ({"priority": 11}, 400, "invalid"),
    "no such type": ({"agentType": "manager"}, 400, "invalid"),
    "no UUIDv7": ({"agentId": "0199"}, 400, "invalid"),
    "deadline zero": ({"deadlineS": 0}, 400, "invalid"),
    "a spoke that is no id": ({"spoke": "Build 1"}, 400, "invalid"),
    "an unknown spoke": ({"spoke": "nobody"}, 404, "not_found"),
    "an option as branch": ({"context": {"branch": "-h"}}, 400, "invalid"),
    "an option as repository": ({"context": {"repository": "--upload-pack=x"}}, 400, "invalid"),
    "another transport": ({"context": {"repository": "ext::sh -c id"}}, 403, "not_allowed"),
    "a password": ({"context": {"repository": "https://me:secret@git.example.org/a"}}, 400, "invalid"),
    "no work": ({"context": {"workItems": []}}, 400, "invalid"),
    "a megabyte of work": ({"context": {"workItems": ["ä" * 10_000] * 100}}, 413, "too_large"),
}


@pytest.mark.attack(46)
@pytest.mark.attack(51)
@pytest.mark.parametrize(("change", "status", "code"), WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_request_takes_nothing(
    node: HubNode, spoke: StandinSpoke, change: dict[str, Any], status: int, code: str
) -> None:
    request = spawn_request(**{"spoke": spoke.id, **change})
    answered, problem = await node.call("POST", AGENTS, request)
    assert (answered, problem["code"]) == (status, code)
    assert "secret" not in problem["detail"]
    _, page = await node.call("GET", f"{AGENTS}?spoke={spoke.id}")
    assert page["agents"] == []
    assert spoke.envelopes == []


async def test_a_problem_names_each_wrong_field(node: HubNode) -> None:
    wrong = {"spoke": "a", "agentType": "x", "context": {"repository": 1}}
    _, problem = await node.call("POST", AGENTS, wrong)
    fields = {error["field"] for error in problem["errors"]}
    assert fields == {"taskId", "agentType", "context.repository", "context.branch", "context.workItems"}


@pytest.mark.attack(13)
async def test_a_member_twice_is_refused(node: HubNode) -> None:
    raw = b'{"spoke":"a","spoke":"b"}'
    headers = {"Authorization": f"Bearer {node.token}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession() as session, session.post(node.url + AGENTS, data=raw, headers=headers) as answer:
        assert answer.status == 400
        assert "twice" in (await answer.json(content_type=None))["detail"]


async def test_many_at_once_each_with_its_own_answer(node: HubNode, spoke: StandinSpoke) -> None:
    taken = await node.spawn(spoke.id)
    wishes = [
        spawn_request(spoke.id),
        spawn_request("nobody"),
        {"spoke": spoke.id},
        spawn_request(spoke.id, agentId=taken, taskId="other"),
        spawn_request(spoke.id),
    ]
    status, answer = await node.call("POST", AGENTS, {"agents": wishes})
    assert (status, answer["accepted"], answer["refused"]) == (202, 2, 3)
    SpawnManyView.model_validate(answer)
    outcomes = answer["agents"]
    assert [outcome["index"] for outcome in outcomes] == [0, 1, 2, 3, 4]
    assert [outcome.get("error", {}).get("code") for outcome in outcomes] == [
        None, "not_found", "invalid", "conflict", None,
    ]  # fmt: skip
    for index in (0, 4):
        await node.until_delivery(outcomes[index]["agentId"], "delivered")


async def test_many_of_which_none_is_taken_are_a_problem(node: HubNode) -> None:
    status, problem = await node.call("POST", AGENTS, {"agents": [spawn_request("nobody"), {}]})
    assert (status, problem["code"], problem["accepted"]) == (409, "all_refused", 0)
    assert [outcome["error"]["code"] for outcome in problem["agents"]] == ["not_found", "invalid"]


async def test_a_thousand_at_once_are_two_envelopes_at_most(node: HubNode, spoke: StandinSpoke) -> None:
    status, answer = await node.call("POST", AGENTS, {"agents": [spawn_request(spoke.id)] * 1000})
    assert (status, answer["accepted"]) == (202, 1000)
    await eventually(lambda: len(spoke.agents) == 1000, "all are there")
    assert len(spoke.envelopes) <= 2
    assert [command["id"] for command in spoke.commands] == [agent["agentId"] for agent in answer["agents"]]


async def test_large_commands_are_split_over_envelopes(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.next("hold")
    await node.spawn(spoke.id)
    wish = spawn_request(spoke.id, context={"workItems": ["x" * 10_000] * 30})
    await node.call("POST", AGENTS, {"agents": [wish] * 6})
    spoke.released.set()
    await eventually(lambda: len(spoke.agents) == 7, "all are there")
    assert [len(envelope) for envelope in spoke.envelopes] == [1, 2, 2, 2]


# --- listing


async def test_listing_newest_first_page_by_page(node: HubNode, spoke: StandinSpoke) -> None:
    agents = [await node.spawn(spoke.id, taskId=f"T-{number % 2}") for number in range(7)]
    found: list[str] = []
    cursor = ""
    while True:
        status, page = await node.call("GET", f"{AGENTS}?spoke={spoke.id}&limit=3&cursor={cursor}")
        assert status == 200
        conforms(AgentPage, page)
        found += [agent["agentId"] for agent in page["agents"]]
        cursor = page["cursor"]
        if not cursor:
            break
    assert found == sorted(agents, reverse=True)


async def test_filters_can_be_combined(node: HubNode, spoke: StandinSpoke) -> None:
    task = f"T-{new_id()}"
    one, two, other = [await node.spawn(spoke.id, taskId=name) for name in (task, task, "another")]
    for agent_id in (one, two, other):
        await node.until_delivery(agent_id, "delivered")
    await spoke.report(spoke.advance(two, "running"), spoke.advance(other, "running"))

    async def ids(**query: str) -> set[str]:
        _, page = await node.call("GET", f"{AGENTS}?" + "&".join(f"{name}={text}" for name, text in query.items()))
        return {agent["agentId"] for agent in page["agents"]}

    assert await ids(taskId=task) == {one, two}
    assert await ids(taskId=task, status="running") == {two}
    assert await ids(spoke=spoke.id, status="running") == {two, other}
    assert await ids(spoke=spoke.id, status="running", taskId="another") == {other}
    assert await ids(spoke="nobody") == set()


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "status=asleep", "cursor=abc", "color=red"])
async def test_a_wrong_query_is_refused(node: HubNode, query: str) -> None:
    status, problem = await node.call("GET", f"{AGENTS}?{query}")
    assert (status, problem["code"]) == (400, "invalid")


@pytest.mark.parametrize("query", ["offset=-1", f"offset={2**53}", "limit=0", "limit=262145"])
async def test_a_piece_of_a_log_that_no_envelope_can_ask_for_is_refused_here(
    node: HubNode, spoke: StandinSpoke, query: str
) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    status, problem = await node.call("GET", f"{AGENTS}/{agent_id}/logs?{query}")
    assert (status, problem["code"]) == (400, "invalid")
    assert spoke.sent(agent_id, "logs") == 0


@pytest.mark.attack(55)
@pytest.mark.attack(59)
@pytest.mark.parametrize("agent_id", ["0199", "..%2f..", "%00", "*", "KEYS%20*", "A" * 4000])
async def test_an_id_that_is_none_is_not_found(node: HubNode, agent_id: str) -> None:
    for method, tail in (("GET", ""), ("POST", "/kill"), ("GET", "/logs")):
        status, problem = await node.call(method, f"{AGENTS}/{agent_id}{tail}")
        assert (status, problem["code"]) == (404, "not_found")


async def test_an_agent_that_was_never_asked_for_is_not_found(node: HubNode) -> None:
    for method, tail in (("GET", ""), ("GET", "?live=true"), ("POST", "/kill"), ("GET", "/logs")):
        status, problem = await node.call(method, f"{AGENTS}/{new_id()}{tail}")
        assert (status, problem["code"]) == (404, "not_found")


# --- questions to the spoke


async def test_live_asks_the_spoke_and_records_the_answer(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    spoke.advance(agent_id, "running")
    assert (await node.agent(agent_id))["status"] == "queued"
    _, agent = await node.call("GET", f"{AGENTS}/{agent_id}?live=true")
    assert (agent["status"], agent["seq"]) == ("running", 2)
    assert (await node.agent(agent_id))["status"] == "running"


async def test_live_shows_where_a_queued_agent_stands_now(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    spoke.agents[agent_id]["queue"] = {"position": 3, "waitingFor": "slot"}
    _, agent = await node.call("GET", f"{AGENTS}/{agent_id}?live=true")
    assert agent["queue"] == {"position": 3, "waitingFor": "slot"}


async def test_the_log_comes_from_the_spoke_piece_by_piece(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.log = b"first\nsecond\n"
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    _, piece = await node.call("GET", f"{AGENTS}/{agent_id}/logs?limit=6")
    conforms(LogView, piece)
    assert piece == {"offset": 0, "data": "first\n", "nextOffset": 6, "eof": False}
    _, piece = await node.call("GET", f"{AGENTS}/{agent_id}/logs?offset=6")
    assert piece == {"offset": 6, "data": "second\n", "nextOffset": 13, "eof": True}


async def test_the_patch_comes_from_the_spoke_piece_by_piece(node: HubNode, spoke: StandinSpoke) -> None:
    spoke.log = b"diff --git\n+new\n"
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    _, piece = await node.call("GET", f"{AGENTS}/{agent_id}/diff?limit=11")
    conforms(LogView, piece)
    assert piece == {"offset": 0, "data": "diff --git\n", "nextOffset": 11, "eof": False}
    _, piece = await node.call("GET", f"{AGENTS}/{agent_id}/diff?offset=11")
    assert piece == {"offset": 11, "data": "+new\n", "nextOffset": 16, "eof": True}
    spoke.answers["diff"] = lambda command: {"id": command["id"], "log": piece}
    status, problem = await node.call("GET", f"{AGENTS}/{agent_id}/diff")
    assert (status, problem["code"]) == (502, "bad_reply")


async def test_a_message_goes_to_the_spoke_under_the_caller_s_id(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id, command_id = await node.spawn(spoke.id), new_id()
    await node.until_delivery(agent_id, "delivered")
    for _ in range(2):
        status, sent = await node.call("POST", f"{AGENTS}/{agent_id}/send", {"text": "more", "commandId": command_id})
        assert (status, sent) == (200, {"agentId": agent_id, "commandId": command_id})
        conforms(SentView, sent)
    assert spoke.told == {command_id: "more"}
    _, sent = await node.call("POST", f"{AGENTS}/{agent_id}/send", {"text": "again"})
    assert spoke.told == {command_id: "more", sent["commandId"]: "again"}


async def test_a_message_that_cannot_be_passed_on_is_refused(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    path = f"{AGENTS}/{agent_id}/send"
    for body in ({}, {"text": ""}, {"text": "x" * 10_001}, {"text": "x", "commandId": "1"}, {"text": "x", "more": 1}):
        status, problem = await node.call("POST", path, body)
        assert (status, problem["code"]) == (400, "invalid")
    spoke.answers["send"] = error("not_allowed")
    status, problem = await node.call("POST", path, {"text": "x"})
    assert (status, problem["code"]) == (403, "not_allowed")
    spoke.answers["send"] = lambda command: {"id": command["id"], "agent": agent_status(new_id())}
    status, problem = await node.call("POST", path, {"text": "x"})
    assert (status, problem["code"]) == (502, "bad_reply")
    await spoke.down()
    status, problem = await node.call("POST", path, {"text": "x"})
    assert (status, problem["code"]) == (504, "unreachable")
    waiting = await node.spawn(spoke.id)
    status, problem = await node.call("POST", f"{AGENTS}/{waiting}/send", {"text": "x"})
    assert (status, problem["code"]) == (409, "not_delivered")
    assert spoke.told == {}


async def test_a_resume_goes_to_the_spoke_under_the_caller_s_id(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id, command_id = await node.spawn(spoke.id), new_id()
    await node.until_delivery(agent_id, "delivered")
    await spoke.report(spoke.advance(agent_id, "completed", result={"summary": "done"}))
    path = f"{AGENTS}/{agent_id}/resume"
    for _ in range(2):
        status, resumed = await node.call("POST", path, {"text": "more", "commandId": command_id})
        assert (status, resumed) == (
            200, {"agentId": agent_id, "commandId": command_id, "status": "queued", "attempt": 1},
        )  # fmt: skip
        conforms(ResumedView, resumed)
    assert spoke.told == {command_id: "more"}
    agent = await node.agent(agent_id)
    assert (agent["status"], agent["result"]) == ("queued", None)
    await spoke.report(spoke.advance(agent_id, "completed", attempt=2))
    assert (await node.agent(agent_id))["attempt"] == 2
    _, resumed = await node.call("POST", path)  # without a body it is a resume without a message
    assert spoke.told == {command_id: "more", resumed["commandId"]: ""}
    audit = "".join(path.read_text() for path in (node.directory / "audit").iterdir() if path.is_file())
    asked = [line for line in audit.splitlines() if "resume.asked" in line and agent_id in line]
    assert len(asked) == 3


async def test_a_resume_that_was_not_taken_changes_nothing(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    path = f"{AGENTS}/{agent_id}/resume"
    for body in ({"text": ""}, {"text": "x" * 10_001}, {"commandId": "1"}, {"more": 1}):
        status, problem = await node.call("POST", path, body)
        assert (status, problem["code"]) == (400, "invalid")
    done = spoke.advance(agent_id, "completed")
    await spoke.report(done)
    spoke.answers["resume"] = error("not_allowed")
    status, problem = await node.call("POST", path)
    assert (status, problem["code"]) == (403, "not_allowed")
    await spoke.report({**done, "status": "running", "seq": 9})  # refused, its end is final again
    assert (await node.agent(agent_id))["status"] == "completed"
    spoke.answers["resume"] = lambda command: {"id": command["id"], "agent": agent_status(new_id())}
    status, problem = await node.call("POST", path)
    assert (status, problem["code"]) == (502, "bad_reply")
    await spoke.down()
    status, problem = await node.call("POST", path)
    assert (status, problem["code"]) == (504, "unreachable")
    waiting = await node.spawn(spoke.id)
    status, problem = await node.call("POST", f"{AGENTS}/{waiting}/resume")
    assert (status, problem["code"]) == (409, "not_delivered")
    assert (await node.call("POST", f"{AGENTS}/{new_id()}/resume"))[0] == 404


async def test_an_agent_that_waits_has_an_empty_log(node: HubNode, spoke: StandinSpoke) -> None:
    await spoke.down()
    _, piece = await node.call("GET", f"{AGENTS}/{await node.spawn(spoke.id)}/logs")
    assert piece == {"offset": 0, "data": "", "nextOffset": 0, "eof": False}


async def test_a_spoke_that_is_away_is_504_and_one_that_answers_badly_502(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    spoke.next("bad_signature")
    status, problem = await node.call("GET", f"{AGENTS}/{agent_id}/logs")
    assert (status, problem["code"]) == (502, "bad_signature")
    spoke.answers["status"] = lambda command: {"id": command["id"], "agent": agent_status(new_id())}
    status, problem = await node.call("GET", f"{AGENTS}/{agent_id}?live=true")
    assert (status, problem["code"]) == (502, "bad_reply")
    spoke.answers["logs"] = error("not_allowed")
    status, problem = await node.call("GET", f"{AGENTS}/{agent_id}/logs")
    assert (status, problem["code"]) == (403, "not_allowed")
    await spoke.down()
    for path in (f"{AGENTS}/{agent_id}/logs", f"{AGENTS}/{agent_id}?live=true"):
        status, problem = await node.call("GET", path)
        assert (status, problem["code"]) == (504, "unreachable")
    assert (await node.agent(agent_id))["status"] == "queued"


# --- peers


async def test_peers_are_listed_with_their_delivery(node: HubNode, spoke: StandinSpoke) -> None:
    await node.until_delivery(await node.spawn(spoke.id), "delivered")
    status, listed = await node.call("GET", "/api/v1/peers")
    assert status == 200
    conforms(PeerList, listed)
    (view,) = [peer for peer in listed["peers"] if peer["id"] == spoke.id]
    assert (view["state"], view["fingerprint"]) == ("active", spoke.key.public.fingerprint)
    assert (view["pending"], view["failures"], view["lastError"]) == (0, 0, None)
    assert view["lastContactAt"] is not None


async def test_a_connection_goes_through_its_states(node: HubNode, spoke: StandinSpoke) -> None:
    path = f"/api/v1/peers/{spoke.id}"
    for action, state in (("suspend", "suspended"), ("resume", "active"), ("revoke", "revoked"), ("revoke", "revoked")):
        status, peer = await node.call("POST", f"{path}/{action}")
        assert (status, peer["state"]) == (200, state)
    for action in ("resume", "suspend"):
        status, problem = await node.call("POST", f"{path}/{action}")
        assert (status, problem["code"]) == (409, "peer_refused")
    status, problem = await node.call("POST", AGENTS, spawn_request(spoke.id))
    assert (status, problem["code"]) == (409, "connection_inactive")


@pytest.mark.parametrize("action", ["approve", "suspend", "resume", "revoke"])
async def test_an_unknown_peer_is_not_found(node: HubNode, action: str) -> None:
    body = {"fingerprint": key_of(1).public.fingerprint} if action == "approve" else None
    status, problem = await node.call("POST", f"/api/v1/peers/nobody/{action}", body)
    assert (status, problem["code"]) == (404, "not_found")


# --- its own description


async def test_the_description_has_every_route_and_no_dangling_reference(node: HubNode) -> None:
    status, document = await node.call("GET", "/api/v1/openapi.json")
    assert (status, document["openapi"]) == (200, "3.1.0")
    assert set(document["paths"]) == {
        "/healthz",
        "/readyz",
        "/metrics",
        "/problems",
        "/problems/{code}",
        "/api/v1/agents",
        "/api/v1/agents/place",
        "/api/v1/agents/kill",
        "/api/v1/agents/{id}",
        "/api/v1/agents/{id}/kill",
        "/api/v1/agents/{id}/logs",
        "/api/v1/agents/{id}/diff",
        "/api/v1/agents/{id}/send",
        "/api/v1/agents/{id}/logs/stream",
        "/api/v1/agents/{id}/resume",
        "/api/v1/events",
        "/api/v1/peers",
        "/api/v1/peers/{id}",
        "/api/v1/peers/{id}/approve",
        "/api/v1/peers/{id}/suspend",
        "/api/v1/peers/{id}/resume",
        "/api/v1/peers/{id}/revoke",
        "/api/v1/peers/{id}/freeze",
        "/api/v1/peers/{id}/thaw",
        "/api/v1/invites",
        "/api/v1/webhooks",
        "/api/v1/webhooks/{id}",
        "/api/v1/webhooks/{id}/test",
        "/api/v1/webhooks/{id}/resume",
        "/api/v1/webhooks/{id}/rotate",
    }
    text = json.dumps(document)
    defined = document["components"]["schemas"]
    referred = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert referred <= set(defined)
    identifiers = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(identifiers) == len(set(identifiers))


async def test_health_readiness_and_metrics_need_no_token_on_loopback(node: HubNode, spoke: StandinSpoke) -> None:
    await node.until_delivery(await node.spawn(spoke.id), "delivered")
    assert await node.call("GET", "/healthz", headers={}) == (200, {"status": "ok"})
    assert await node.call("GET", "/readyz", headers={}) == (200, {"status": "ready"})
    async with aiohttp.ClientSession() as session, session.get(f"{node.url}/metrics") as response:
        text = await response.text()
    assert response.content_type == "text/plain"
    assert 'hubspoke_hub_commands_settled_total{outcome="delivered"}' in text
    assert f'hubspoke_hub_outbox_pending{{spoke="{spoke.id}"}} 0.0' in text


async def test_a_request_is_one_line_in_the_log(node: HubNode) -> None:
    agent_id = new_id()
    await node.call("GET", f"{AGENTS}/{agent_id}")
    (line,) = node.log_lines("request.answered", id=agent_id)
    assert (line["route"], line["status"]) == ("GET /api/v1/agents/{id}", 404)
    assert line["duration_ms"] >= 0


async def test_a_command_is_one_line_in_the_log(node: HubNode, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    (line,) = await eventually(lambda: node.log_lines("command.delivered", agent_id=agent_id), "the line")
    assert (line["command_id"], line["peer"], line["outcome"], line["command"]) == (
        agent_id, spoke.id, "delivered", "spawn",
    )  # fmt: skip
