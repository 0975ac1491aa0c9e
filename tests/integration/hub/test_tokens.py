"""Tokens of a scope: each opens what its scope reaches and nothing more, until it expires or is revoked."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from common.clock import SystemClock
from hub.scopes import SCOPES, Scope
from hub.tokens import PREFIX, TokenRefused, TokenStore
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke, agent_status, new_id
from tests.integration.hub.visitor import Visitor

NEEDS: dict[tuple[str, str], Scope] = {
    ("GET", "/api/v1/agents"): "read",
    ("POST", "/api/v1/agents"): "operate",
    ("POST", "/api/v1/agents/place"): "operate",
    ("POST", "/api/v1/agents/kill"): "operate",
    ("GET", "/api/v1/agents/{id}"): "read",
    ("POST", "/api/v1/agents/{id}/kill"): "operate",
    ("GET", "/api/v1/agents/{id}/logs"): "operate",
    ("GET", "/api/v1/events"): "read",
    ("GET", "/api/v1/peers"): "read",
    ("GET", "/api/v1/peers/{id}"): "read",
    ("GET", "/api/v1/agents/{id}/diff"): "operate",
    ("POST", "/api/v1/agents/{id}/send"): "operate",
    ("GET", "/api/v1/agents/{id}/logs/stream"): "operate",
    ("POST", "/api/v1/agents/{id}/resume"): "operate",
    ("POST", "/api/v1/peers/{id}/approve"): "admin",
    ("POST", "/api/v1/peers/{id}/suspend"): "admin",
    ("POST", "/api/v1/peers/{id}/resume"): "admin",
    ("POST", "/api/v1/peers/{id}/revoke"): "admin",
    ("POST", "/api/v1/peers/{id}/freeze"): "operate",
    ("POST", "/api/v1/peers/{id}/thaw"): "operate",
    ("POST", "/api/v1/invites"): "admin",
    ("POST", "/api/v1/webhooks"): "admin",
    ("GET", "/api/v1/webhooks"): "admin",
    ("GET", "/api/v1/webhooks/{id}"): "admin",
    ("DELETE", "/api/v1/webhooks/{id}"): "admin",
    ("POST", "/api/v1/webhooks/{id}/test"): "admin",
    ("POST", "/api/v1/webhooks/{id}/resume"): "admin",
    ("POST", "/api/v1/webhooks/{id}/rotate"): "admin",
}
"""What each route of the hub takes. A route that is missing here fails the first test: decide, then add it."""


@pytest.fixture
def tokens(node: HubNode) -> Iterator[TokenStore]:
    """The hub's tokens, opened beside it as the command line does."""
    store = TokenStore(node.place.trust_file, lambda _event, _fields: None)
    yield store
    for token in store.list():
        store.revoke(token.name)
    store.close()


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def now_s() -> int:
    return SystemClock().now_ms() // 1000


async def test_every_route_is_in_the_table(node: HubNode) -> None:
    _, document = await node.call("GET", "/api/v1/openapi.json")
    routes = {
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "security" not in operation  # what is open, to all or on this machine: test_auth
    }
    assert routes == set(NEEDS)


@pytest.mark.attack(36)
@pytest.mark.parametrize(("method", "path"), NEEDS)
async def test_a_route_opens_to_its_scope_and_those_above(
    node: HubNode, tokens: TokenStore, method: str, path: str
) -> None:
    # Nobody of this id: whoever is let in finds nothing, so that nothing happens.
    asked = path.format(id=new_id()) if method == "POST" or "{id}" in path else f"{path}?nonsense=1"
    secrets: dict[str, str] = {scope: tokens.create(f"{scope}-1", scope, now_s()) for scope in SCOPES}
    found = {}
    for scope, secret in secrets.items():
        status, problem = await node.call(method, asked, None if method == "GET" else {"no": 1}, bearer(secret))
        found[scope] = "forbidden" if status == 403 and problem["code"] == "forbidden" else "let in"
        assert status in {400, 403, 404, 415} or path in {"/api/v1/peers", "/api/v1/webhooks"}, problem
    needed = SCOPES.index(NEEDS[method, path])
    assert found == {scope: "let in" if SCOPES.index(scope) >= needed else "forbidden" for scope in SCOPES}


@pytest.mark.attack(36)
@pytest.mark.parametrize(("method", "path"), NEEDS)
async def test_a_route_does_not_open_to_a_peer_or_to_nobody(
    node: HubNode, spoke: StandinSpoke, method: str, path: str
) -> None:
    envelope = spoke.seal_events(agent_status(new_id())).decode()
    for headers in ({}, bearer(envelope), bearer(f"{PREFIX}{'x' * 43}")):
        status, problem = await node.call(method, path.format(id=spoke.id), None, headers)
        assert (status, problem["code"]) == (401, "unauthorized")


def test_a_token_that_expired_long_ago_is_forgotten_when_the_next_is_made(tokens: TokenStore) -> None:
    for name, ago_days in (("long-ago", 40), ("lately", 20)):
        tokens.create(name, "read", now_s() - ago_days * 86_400, 3600)
    tokens.create("for-ever", "read", now_s() - 400 * 86_400)
    tokens.create("new", "read", now_s(), 3600)
    assert [token.name for token in tokens.list()] == ["for-ever", "lately", "new"]


@pytest.mark.attack(58)
async def test_a_token_that_expired_or_was_revoked_opens_nothing_from_then_on(
    node: HubNode, tokens: TokenStore
) -> None:
    async def opens(secret: str) -> bool:
        status, _ = await node.call("GET", "/api/v1/peers", headers=bearer(secret))
        assert status in {200, 401}
        return status == 200

    revoked, expiring = tokens.create("revoked", "read", now_s()), tokens.create("expiring", "read", now_s(), 3600)
    assert await opens(revoked)
    assert await opens(expiring)
    tokens.revoke("revoked")
    assert not await opens(revoked)
    assert not await opens(tokens.create("expired", "read", now_s() - 3600, 3600))
    assert await opens(expiring)


@pytest.mark.attack(58)
async def test_near_misses_open_nothing(node: HubNode, tokens: TokenStore) -> None:
    secret = tokens.create("near", "admin", now_s())
    for wrong in (secret[:-1], secret + "x", secret.swapcase(), secret.removeprefix(PREFIX), "near", PREFIX):
        status, _ = await node.call("GET", "/api/v1/peers", headers=bearer(wrong))
        assert status == 401


@pytest.mark.attack(63)
async def test_the_file_does_not_hold_what_opens_the_hub(node: HubNode, tokens: TokenStore) -> None:
    secret = tokens.create("secret", "admin", now_s())
    kept = b"".join(path.read_bytes() for path in node.directory.glob("trust.db*"))
    assert b"secret" in kept
    assert secret.encode() not in kept
    assert secret.removeprefix(PREFIX).encode() not in kept
    assert stat.S_IMODE(node.place.trust_file.stat().st_mode) == 0o600


async def test_an_unknown_path_is_not_found_for_whoever_has_a_token(node: HubNode, tokens: TokenStore) -> None:
    secret = tokens.create("lost", "read", now_s())
    status, problem = await node.call("GET", "/api/v1/no-such-route", headers=bearer(secret))
    assert (status, problem["code"]) == (404, "not_found")
    status, problem = await node.call("PUT", "/api/v1/agents", headers=bearer(secret))
    assert (status, problem["code"]) == (405, "method_not_allowed")


async def test_whoever_decided_is_named_in_the_audit(node: HubNode, tokens: TokenStore) -> None:
    secret = tokens.create("ops", "operate", now_s())
    wish = {"spoke": "nobody", "taskId": "T-1", "agentType": "worker"}
    context = {"repository": "https://git.example.org/a.git", "branch": "main", "workItems": ["x"]}
    status, _ = await node.call("POST", "/api/v1/agents", {**wish, "context": context}, bearer(secret))
    assert status == 404
    done = await node.hub("audit", "show", "--by", "token:ops", "--json")
    asked, decided = (json.loads(line) for line in done.stdout.splitlines())
    assert (asked["event"], asked["spokes"], asked["count"]) == ("spawn.asked", ["nobody"], 1)
    assert decided["decisions"] == [{"peer": "nobody", "outcome": "not_found", "agents": ["none"]}]
    assert (await node.hub("audit", "verify")).returncode == 0


class TestCommandLine:
    async def test_from_making_one_to_taking_it_back(self, node: HubNode) -> None:
        made = await node.hub("token", "create", "ci", "--scope", "read", "--ttl", "30d")
        secret = made.stdout.strip()
        assert (await node.call("GET", "/api/v1/peers", headers=bearer(secret)))[0] == 200
        listed = await node.hub("token", "list", "--json")
        (view,) = (view for view in json.loads(listed.stdout) if view["name"] == "ci")
        assert view["scope"] == "read"
        assert view["expiresAt"] > time.strftime("%Y-%m-%d")
        assert secret not in listed.stdout + (await node.hub("token", "list")).stdout
        assert (await node.hub("token", "revoke", "ci")).returncode == 0
        assert (await node.call("GET", "/api/v1/peers", headers=bearer(secret)))[0] == 401
        again = await node.hub("token", "revoke", "ci")
        assert (again.returncode, again.stderr.split(": ")[1]) == (1, "token_refused")
        shown = await node.hub("audit", "show", "--event", "token.revoked")
        assert "token=ci" in shown.stdout
        assert secret not in (await node.hub("audit", "show", "--limit", "100000")).stdout

    async def test_usage(self, node: HubNode) -> None:
        for arguments in (
            ["create", "x"],
            ["create", "x", "--scope", "root"],
            ["create", "x", "--scope", "read", "--ttl", "-1"],
        ):
            assert (await node.hub("token", *arguments)).returncode == 2


class TestStore:
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[TokenStore]:
        found = TokenStore(tmp_path / "trust.db", lambda _event, _fields: None)
        yield found
        found.close()

    @pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a b", "a\n", "x" * 65, "../a"])
    def test_names(self, store: TokenStore, name: str) -> None:
        with pytest.raises(TokenRefused):
            store.create(name, "read", 0)
        assert store.list() == ()

    def test_a_name_is_taken_once(self, store: TokenStore) -> None:
        first = store.create("a", "read", 0)
        with pytest.raises(TokenRefused, match="already"):
            store.create("a", "admin", 0)
        assert [token.scope for token in store.list()] == ["read"]
        store.revoke("a")
        second = store.create("a", "admin", 0)
        assert first != second
        assert store.find(first, 1) is None

    def test_it_lives_for_its_time(self, store: TokenStore) -> None:
        secret = store.create("a", "read", 100, 10)
        assert store.find(secret, 109.9) is not None
        assert store.find(secret, 110) is None
        assert [token.name for token in store.list()] == ["a"]

    def test_a_token_that_cannot_be_written_down_is_none(self, tmp_path: Path) -> None:
        def refuse(_event: str, _fields: object) -> None:
            raise TokenRefused("the audit is full")

        store = TokenStore(tmp_path / "trust.db", refuse)
        with pytest.raises(TokenRefused, match="the audit is full"):
            store.create("a", "read", 0)
        assert store.list() == ()
        store.close()


@pytest.mark.attack(58)
@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_a_stream_of_events_ends_with_its_token_and_tells_nothing_after_it(
    node: HubNode, tokens: TokenStore, spoke: StandinSpoke, end: str
) -> None:
    name = f"watch-{end}"
    secret = tokens.create(name, "read", now_s(), 2 if end == "expired" else None)
    url = f"{node.url}/api/v1/events?spoke={spoke.id}"
    async with ClientSession() as session, session.get(url, headers=bearer(secret)) as stream:
        told = [await stream.content.readuntil(b"\n\n"), await stream.content.readuntil(b"\n\n")]
        if end == "revoked":
            tokens.revoke(name)
            await node.spawn(spoke.id)
        async with asyncio.timeout(10):
            rest = await stream.content.read()
    assert b"id: " in told[0]
    assert b"event: agent" not in b"".join(told) + rest


@pytest.mark.attack(58)
async def test_a_part_of_the_page_ends_with_the_token_of_its_session(node: HubNode, tokens: TokenStore) -> None:
    secret = tokens.create("page-live", "read", now_s())
    async with Visitor(node.url) as visitor:
        await visitor.log_in(secret)
        async with visitor.session.get(f"{node.url}/live/overview") as stream:
            await stream.content.readuntil(b"\n\n")
            tokens.revoke("page-live")
            async with asyncio.timeout(15):
                await stream.content.read()
