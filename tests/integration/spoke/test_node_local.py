"""The spoke's HTTP for its own machine: the coordinator's spawn, the token, and what an operator may see and do."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.peer import HubPeer, new_id
from tests.spoke_node import Go, SpokeNode, eventually

NewHub = Callable[[SpokeNode], HubPeer]


def request(origin: Path, *items: str, **members: Any) -> dict[str, Any]:
    context = {"repository": f"file://{origin}", "branch": "main", "workItems": list(items) or ["-"]}
    return {"taskId": "local-1", "agentType": "worker", "context": context, **members}


async def test_a_local_spawn_runs_like_any_other(shared: SpokeNode, origin: Path) -> None:
    status, spawned = await shared.call("POST", "/agents/spawn", request(origin, "print hello", "commit new.txt"))
    assert (status, sorted(spawned)) == (201, ["agentId", "status"])
    assert spawned["status"] in {"queued", "spawning"}
    agent = await shared.until_ended(spawned["agentId"])
    assert (agent["status"], agent["taskId"], agent["peer"]) == ("completed", "local-1", shared.id)
    assert agent["granted"] == {"priority": 5, "timeoutS": 3600, "maxAttempts": 3}
    _, log = await shared.call("GET", f"/agents/{spawned['agentId']}/logs")
    assert (log["data"], log["eof"]) == ("hello\n", True)


async def test_all_members_of_a_spawn_are_taken(shared: SpokeNode, origin: Path) -> None:
    body = request(origin, priority=9, timeoutS=77, maxAttempts=1)
    body["context"]["skills"] = ["python"]
    status, spawned = await shared.call("POST", "/agents/spawn", body)
    assert status == 201
    agent = await shared.until_ended(spawned["agentId"])
    assert agent["granted"] == {"priority": 9, "timeoutS": 77, "maxAttempts": 1}


@pytest.mark.attack(22)
async def test_with_an_id_of_ones_own_a_repeated_request_is_harmless(shared: SpokeNode, origin: Path) -> None:
    body = request(origin, agentId=new_id())
    answers = await asyncio.gather(*(shared.call("POST", "/agents/spawn", body) for _ in range(8)))
    assert {status for status, _ in answers} == {201}
    await shared.until_ended(body["agentId"])
    status, answer = await shared.call("POST", "/agents/spawn", body)
    assert (status, answer) == (201, {"agentId": body["agentId"], "status": "completed"})
    status, problem = await shared.call("POST", "/agents/spawn", {**body, "taskId": "other"})
    assert (status, problem["code"]) == (409, "conflict")
    assert len(shared.executions(body["agentId"])) == 1


def without(body: dict[str, Any], *path: str) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(body))
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    del holder[path[-1]]
    return changed


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"taskId": 5}, ["taskId"]),
        ({"taskId": "a b"}, ["taskId"]),
        ({"agentType": "boss"}, ["agentType"]),
        ({"priority": 0}, ["priority"]),
        ({"priority": "5"}, ["priority"]),
        ({"timeoutS": True}, ["timeoutS"]),
        ({"maxAttempts": 11}, ["maxAttempts"]),
        ({"agentId": "0170A000-0000-7000-8000-000000000001"}, ["agentId"]),
        ({"unknown": 1}, ["unknown"]),
        ({"context": {"workItems": []}}, ["context.branch", "context.repository", "context.workItems"]),
        ({"taskId": "", "agentType": None, "priority": 11}, ["agentType", "priority", "taskId"]),
    ],
    ids=str,
)
async def test_each_wrong_field_is_named(
    shared: SpokeNode, origin: Path, change: dict[str, Any], fields: list[str]
) -> None:
    before = await shared.agents()
    status, problem = await shared.call("POST", "/agents/spawn", {**request(origin), **change})
    assert (status, problem["code"], problem["title"]) == (400, "invalid", "Bad Request")
    assert sorted(error["field"] for error in problem["errors"]) == fields
    assert all(field in problem["detail"] for field in fields)
    assert await shared.agents() == before


@pytest.mark.parametrize("path", [("taskId",), ("agentType",), ("context",), ("context", "branch")], ids=str)
async def test_each_missing_field_is_named(shared: SpokeNode, origin: Path, path: tuple[str, ...]) -> None:
    status, problem = await shared.call("POST", "/agents/spawn", without(request(origin), *path))
    assert (status, [error["field"] for error in problem["errors"]]) == (400, [".".join(path)])


@pytest.mark.attack(50)
@pytest.mark.attack(51)
@pytest.mark.parametrize(
    ("repository", "branch", "code"),
    [
        ("ext::sh -c id", "main", "not_allowed"),
        ("/etc", "main", "not_allowed"),
        ("--upload-pack=id", "main", "invalid"),
        ("https://git.example.org/app", "-h", "invalid"),
    ],
)
async def test_git_is_given_nothing_dangerous(shared: SpokeNode, repository: str, branch: str, code: str) -> None:
    body = request(Path("/x"))
    body["context"] |= {"repository": repository, "branch": branch}
    status, problem = await shared.call("POST", "/agents/spawn", body)
    assert (status, problem["code"]) == ({"not_allowed": 403, "invalid": 400}[code], code)


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"{", {}, "invalid"),
        (b"", {}, "invalid"),
        (b'{"taskId":"a","taskId":"b"}', {}, "invalid"),
        (b"[" * 5000, {}, "invalid"),
        (b"{}", {"Content-Type": "text/plain"}, "unsupported_media_type"),
        (b"{}", {"Content-Encoding": "gzip"}, "unsupported_media_type"),
        (b" " * (2**20 + 1), {}, "too_large"),
    ],
    ids=["cut", "empty", "twice", "deep", "text", "gzip", "large"],
)
async def test_bodies_that_are_no_request(shared: SpokeNode, body: bytes, headers: dict[str, str], code: str) -> None:
    sent = {"Authorization": f"Bearer {shared.token}", "Content-Type": "application/json", **headers}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{shared.url}/agents/spawn", data=io.BytesIO(body), headers=sent) as response,
    ):
        problem = json.loads(await response.read())
    assert problem["code"] == code
    assert response.status == {"invalid": 400, "unsupported_media_type": 415, "too_large": 413}[code]


ROUTES = [
    ("POST", "/agents/spawn"),
    ("GET", "/agents"),
    ("GET", f"/agents/{new_id()}/status"),
    ("GET", f"/agents/{new_id()}/logs"),
    ("POST", f"/agents/{new_id()}/kill"),
    ("GET", "/queue"),
    ("POST", "/queue/drain"),
    ("POST", "/queue/pause"),
]


@pytest.mark.attack(36)
@pytest.mark.attack(58)
@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda value: value.rpartition("/")[2])
async def test_nothing_without_the_token(shared: SpokeNode, hub: HubPeer, method: str, path: str) -> None:
    token = shared.token
    wrong = [
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {token[:-1]}",
        f"Bearer {token}x",
        f"Basic {token}",
        token,
        "Bearer \u00fc",
    ]
    headers: list[dict[str, str]] = [{}, *({"Authorization": value} for value in wrong)]
    for sent in headers:
        status, problem = await shared.call(method, path, {"on": True}, headers=sent)
        assert (status, problem["code"]) == (401, "unauthorized"), sent
    # A peer's signature opens no door of the operator.
    raw = hub.seal(shared, hub.about("status", new_id()))
    answer = await hub.post(shared, raw, path=path) if method == "POST" else None
    assert answer is None or answer.status == 401
    assert (await shared.call("GET", "/queue"))[0] == 200


async def test_health_and_metrics_need_no_token_on_this_machine(shared: SpokeNode) -> None:
    assert await shared.call("GET", "/healthz", headers={}) == (200, {"status": "ok"})
    assert (await shared.call("GET", "/readyz", headers={}))[0] == 200
    async with aiohttp.ClientSession() as session, session.get(f"{shared.url}/metrics") as response:
        assert response.content_type == "text/plain"
        text = await response.text()
    assert 'hubspoke_spoke_agents{state="active"}' in text
    assert shared.token not in text


async def test_what_is_not_there_and_what_is_no_id(shared: SpokeNode) -> None:
    for agent_id in (new_id(), "x", "..", "%2e%2e", "*", "0" * 36, "a\u00fc"):
        status, problem = await shared.call("GET", f"/agents/{agent_id}/status")
        assert (status, problem["code"]) == (404, "not_found")
    assert (await shared.call("GET", "/nothing"))[1]["code"] == "not_found"
    assert (await shared.call("DELETE", "/agents"))[0] == 405


async def test_the_operator_sees_all_agents_and_kills_any(shared: SpokeNode, hub: HubPeer, origin: Path) -> None:
    await hub.ask(shared, spawn := hub.spawn(origin, "sleep 60"))
    await shared.started(spawn["id"])
    newest, *_ = await shared.agents()
    assert (newest["agentId"], newest["peer"], newest["status"]) == (spawn["id"], hub.id, "running")
    for body in ({"graceS": -1}, {"graceS": 301}, {"reason": 5}, {"grace": 1}):
        assert (await shared.call("POST", f"/agents/{spawn['id']}/kill", body))[0] == 400
    assert (await shared.call("POST", f"/agents/{spawn['id']}/kill", {"graceS": 0}))[0] == 200
    assert (await shared.until_ended(spawn["id"]))["reason"] == "killed_by_operator"


async def test_the_document_names_every_route_and_needs_the_token(shared: SpokeNode) -> None:
    status, document = await shared.call("GET", "/openapi.json")
    assert (status, document["openapi"]) == (200, "3.1.0")
    assert {f"{method} {path}" for path, methods in document["paths"].items() for method in methods} == {
        "post /agents/spawn",
        "get /agents",
        "get /agents/{agentId}/status",
        "get /agents/{agentId}/logs",
        "post /agents/{agentId}/kill",
        "post /agents/{agentId}/requeue",
        "get /healthz",
        "get /readyz",
        "get /metrics",
        "get /problems",
        "get /problems/{code}",
        "get /machines",
        "get /queue",
        "post /queue/drain",
        "post /queue/pause",
        "post /sweep",
    }
    assert (await shared.call("GET", "/openapi.json", headers={}))[0] == 401
    assert (await shared.call("GET", "/problems/expired", headers={}))[0] == 200


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "limit=1.5", "limit=٣", f"limit={'9' * 40}", "nonsense=1"])
async def test_numbers_in_a_query_are_numbers(shared: SpokeNode, query: str) -> None:
    status, problem = await shared.call("GET", f"/agents?{query}")
    assert (status, problem["code"]) == (400, "invalid")


@pytest.mark.fault(33)
async def test_draining_and_pausing(node: SpokeNode, new_hub: NewHub, origin: Path, go: Go) -> None:
    hub = new_hub(node)
    await hub.ask(node, running := hub.spawn(origin, f"wait {go}"))
    await node.started(running["id"])
    assert (await node.call("POST", "/queue/pause", {"on": True}))[0] == 200
    await hub.ask(node, waiting := hub.spawn(origin))
    assert (await hub.ask(node, hub.about("status", waiting["id"])))["agent"]["queue"]["waitingFor"] == "paused"
    assert (await node.call("POST", "/queue/drain", {"on": True}))[0] == 200
    assert (await hub.ask(node, hub.spawn(origin)))["error"]["code"] == "draining"
    status, problem = await node.call("POST", "/agents/spawn", request(origin))
    assert (status, problem["code"]) == (409, "draining")
    go.now()
    await node.until(running["id"], "completed")
    assert (await node.agent(waiting["id"]))["status"] == "queued"
    for flag in ("pause", "drain"):
        assert (await node.call("POST", f"/queue/{flag}", {"on": False}))[0] == 200
    await node.until(waiting["id"], "completed")
    await eventually(lambda: len(node.executions()) == 2, "both ran once")
