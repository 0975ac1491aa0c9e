"""The admin's side is closed to everybody without the token, whatever else they bring."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.integration.hub.hub_node import HubNode, spawn_request
from tests.integration.hub.standin_spoke import StandinSpoke, agent_status, new_id

ROUTES = [
    ("POST", "/api/v1/agents"),
    ("GET", "/api/v1/agents"),
    ("GET", "/api/v1/agents/{id}"),
    ("POST", "/api/v1/agents/{id}/kill"),
    ("GET", "/api/v1/agents/{id}/logs"),
    ("GET", "/api/v1/agents/{id}/diff"),
    ("POST", "/api/v1/agents/{id}/send"),
    ("GET", "/api/v1/agents/{id}/logs/stream"),
    ("POST", "/api/v1/agents/{id}/resume"),
    ("GET", "/api/v1/events"),
    ("GET", "/api/v1/peers"),
    ("GET", "/api/v1/peers/{spoke}"),
    ("POST", "/api/v1/peers/{spoke}/approve"),
    ("POST", "/api/v1/peers/{spoke}/suspend"),
    ("POST", "/api/v1/peers/{spoke}/resume"),
    ("POST", "/api/v1/peers/{spoke}/revoke"),
    ("POST", "/api/v1/invites"),
    ("GET", "/api/v1/openapi.json"),
    ("GET", "/api/v1/no-such-route"),
    ("GET", "/no-such-page"),
]

TOKENS: dict[str, Callable[[str], dict[str, str]]] = {
    "none": lambda token: {},
    "empty": lambda token: {"Authorization": "Bearer "},
    "wrong": lambda token: {"Authorization": "Bearer " + "x" * len(token)},
    "prefix": lambda token: {"Authorization": "Bearer " + token[:-1]},
    "longer": lambda token: {"Authorization": f"Bearer {token}x"},
    "other case": lambda token: {"Authorization": f"Bearer {token.swapcase()}"},
    "other scheme": lambda token: {"Authorization": f"Basic {token}"},
    "no scheme": lambda token: {"Authorization": token},
    "in the query only": lambda token: {"X-Token": token},
}


@pytest.mark.attack(36)
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_no_route_opens_without_the_token(node: HubNode, spoke: StandinSpoke, method: str, path: str) -> None:
    path = path.format(id=new_id(), spoke=spoke.id)
    for headers in ({}, {"Authorization": f"Bearer {spoke.seal_events(agent_status(new_id())).decode()}"}):
        status, problem = await node.call(method, path, headers=headers)
        assert (status, problem["code"]) == (401, "unauthorized")
    _, peer = await node.call("GET", f"/api/v1/peers/{spoke.id}")
    assert peer["state"] == "active"


@pytest.mark.parametrize("path", ["/problems", "/problems/expired"])
async def test_what_a_problem_means_is_open_to_everybody(node: HubNode, path: str) -> None:
    for headers in ({}, {"X-Forwarded-For": "203.0.113.9"}, {"Authorization": "Bearer wrong"}):
        assert (await node.call("GET", path, headers=headers))[0] == 200
    assert (await node.call("GET", "/problems-of-others", headers={}))[0] == 401


@pytest.mark.attack(58)
@pytest.mark.parametrize("headers", TOKENS.values(), ids=TOKENS.keys())
async def test_only_the_token_itself_opens(
    node: HubNode, spoke: StandinSpoke, headers: Callable[[str], dict[str, str]]
) -> None:
    path = f"/api/v1/agents?token={node.token}"
    status, problem = await node.call("POST", path, spawn_request(spoke.id), headers=headers(node.token))
    assert (status, problem["code"]) == (401, "unauthorized")
    assert node.token not in str(problem)
    _, page = await node.call("GET", f"/api/v1/agents?spoke={spoke.id}")
    assert page["agents"] == []


@pytest.mark.attack(36)
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
async def test_what_comes_through_a_proxy_is_not_local(node: HubNode, path: str, header: str) -> None:
    status, problem = await node.call("GET", path, headers={header: "203.0.113.9"})
    assert (status, problem["code"]) == (401, "unauthorized")


@pytest.mark.attack(36)
async def test_the_token_opens_nothing_of_the_federation(node: HubNode) -> None:
    headers = {"Authorization": f"Bearer {node.token}", "Content-Type": "application/jose"}
    for path in ("envelopes", "join"):
        status, problem = await node.call("POST", f"/federation/v1/{path}", None, headers=headers)
        assert (status, problem["code"]) == (400, "malformed")
