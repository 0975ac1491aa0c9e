"""The page at `/`, asked as a browser would: who gets in, what is shown and done, and what is refused."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.clock import SystemClock
from hub.dashboard.attempts import PER_ADDRESS
from hub.scopes import SCOPES, Scope
from hub.tokens import TokenStore
from tests.integration.hub.hub_node import HubNode
from tests.integration.hub.standin_spoke import StandinSpoke, error, new_id
from tests.integration.hub.visitor import Visitor
from tests.spoke_node import eventually

NEEDS: dict[tuple[str, str], Scope] = {
    ("GET", "/"): "read",
    ("GET", "/agents"): "read",
    ("GET", "/agents/{id}"): "read",
    ("GET", "/agents/{id}/changes"): "operate",
    ("GET", "/agents/{id}/log"): "operate",
    ("GET", "/agents/{id}/log/more"): "operate",
    ("GET", "/invite"): "admin",
    ("GET", "/spawn"): "operate",
    ("GET", "/spokes/{id}"): "read",
    ("POST", "/agents/{id}/kill"): "operate",
    ("POST", "/agents/{id}/resume"): "operate",
    ("POST", "/agents/{id}/send"): "operate",
    ("POST", "/invite"): "admin",
    ("POST", "/logout"): "read",
    ("POST", "/spawn"): "operate",
    ("POST", "/spokes/{id}/approve"): "admin",
    ("POST", "/spokes/{id}/freeze"): "operate",
    ("POST", "/spokes/{id}/resume"): "admin",
    ("POST", "/spokes/{id}/revoke"): "admin",
    ("POST", "/spokes/{id}/suspend"): "admin",
    ("POST", "/spokes/{id}/thaw"): "operate",
}
"""What each page takes; those of `/live` are below."""
DEEDS = [path for method, path in NEEDS if method == "POST"]
LIVE = ["/live/overview", "/live/agents", "/live/agents/{id}"]
FIELDS = {
    "taskId": "T-7",
    "agentType": "worker",
    "repository": "https://git.example.org/team/app.git",
    "branch": "main",
    "workItems": "first\nmore of it\r\n\r\nsecond",
    "skills": "python, sql",
    "priority": "3",
}


@pytest.fixture
async def visitor(node: HubNode) -> AsyncIterator[Visitor]:
    """An admin, logged in."""
    async with Visitor(node.url) as admin:
        await admin.log_in(node.token)
        yield admin


@pytest.fixture
def tokens(node: HubNode) -> Iterator[TokenStore]:
    """The hub's tokens, opened beside it as the command line does."""
    store = TokenStore(node.place.trust_file, lambda _event, _fields: None)
    yield store
    for token in store.list():
        store.revoke(token.name)
    store.close()


def make(tokens: TokenStore, scope: Scope) -> str:
    return tokens.create(f"page-{scope}", scope, SystemClock().now_ms() // 1000)


async def states(node: HubNode) -> list[tuple[str, str]]:
    _, document = await node.call("GET", "/api/v1/peers")
    return [(peer["id"], peer["state"]) for peer in document["peers"]]


async def last_of_audit(node: HubNode, event: str) -> dict[str, Any]:
    done = await node.hub("audit", "show", "--json")
    return [line for line in map(_parse, done.stdout.splitlines()) if line.get("event") == event][-1]


def _parse(line: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(line)
    return value


# --- who gets in


@pytest.mark.parametrize("path", [path for method, path in NEEDS if method == "GET"] + LIVE)
async def test_whoever_is_not_logged_in_is_sent_to_the_login(node: HubNode, path: str) -> None:
    async with Visitor(node.url) as nobody:
        answer = await nobody.look(path.format(id=new_id()))
        assert (answer.status, answer.path.partition("?")[0]) == (200, "/login")
        assert 'name="token"' in answer.text
        part = await nobody.ask("GET", path.format(id=new_id()), headers={"HX-Request": "true"})
        assert (part.status, part.headers["HX-Refresh"]) == (401, "true")


async def test_a_login_leads_to_where_one_wanted_to_go(node: HubNode) -> None:
    async with Visitor(node.url) as visitor:
        asked = await visitor.look("/agents?status=failed")
        assert asked.path == "/login?next=/agents?status%3Dfailed"
        assert 'value="/agents?status=failed"' in asked.text
        assert (await visitor.log_in(node.token, "/agents?status=failed")).path == "/agents?status=failed"
    for elsewhere in ("https://evil.example/", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/\nx"):
        async with Visitor(node.url) as visitor:
            assert (await visitor.log_in(node.token, elsewhere)).path == "/"


@pytest.mark.attack(58)
async def test_a_wrong_token_opens_nothing_and_few_are_tried(tmp_path: Path) -> None:
    with HubNode(tmp_path) as node:
        async with Visitor(node.url) as visitor:
            for _ in range(PER_ADDRESS):
                answer = await visitor.log_in("wrong")
                assert answer.status in {401, 429}
                assert "HttpOnly" not in answer.headers.get("Set-Cookie", "")
            # At most one new minute may have begun meanwhile.
            while (answer := await visitor.log_in("wrong")).status == 401:
                pass
            assert answer.status == 429
            assert "too many failed logins" in answer.text
            assert (await visitor.look("/")).path == "/login"


async def test_the_cookie_is_for_this_hub_and_no_script(node: HubNode) -> None:
    async with Visitor(node.url) as visitor:
        answer = await visitor.post("/login", {"token": f" {node.token} "}, follow=False)
        assert (answer.status, answer.headers["Location"]) == (303, "/")
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith(f"hub-{node.id}=")
        assert {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"} <= set(cookie.split("; "))
        assert node.token not in cookie
    opened = await last_of_audit(node, "session.opened")
    assert (opened["by"], opened["scope"]) == ("admin.token", "admin")


async def test_behind_tls_the_cookie_is_bound_to_the_host(tmp_path: Path) -> None:
    with HubNode(tmp_path, toml='url = "https://hub.example.org"\n') as node:
        async with Visitor(node.url) as visitor:
            answer = await visitor.post("/login", {"token": node.token}, follow=False)
            cookie = answer.headers["Set-Cookie"]
            assert cookie.startswith(f"__Host-hub-{node.id}=")
            assert "Secure" in cookie.split("; ")
            assert "Domain" not in cookie
            assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


@pytest.mark.attack(36)
async def test_a_cookie_opens_no_api_and_a_bearer_token_no_page(node: HubNode, visitor: Visitor) -> None:
    assert (await visitor.look("/api/v1/agents")).status == 401
    async with Visitor(node.url) as nobody:
        answer = await nobody.look("/", Authorization=f"Bearer {node.token}")
        assert answer.path == "/login"


@pytest.mark.attack(58)
async def test_a_session_ends_with_its_token_and_with_the_logout(node: HubNode, tokens: TokenStore) -> None:
    async with Visitor(node.url) as visitor:
        await visitor.log_in(make(tokens, "read"))
        assert (await visitor.look("/agents")).path == "/agents"
        tokens.revoke("page-read")
        assert (await visitor.look("/")).path == "/login"
        await visitor.log_in(node.token)
        kept = "; ".join(f"{cookie.key}={cookie.value}" for cookie in visitor.session.cookie_jar)
        assert (await visitor.send("/logout")).path == "/login"
        # The cookie was taken back, and would open nothing any more.
        assert (await visitor.look("/", Cookie=kept)).path == "/login"


# --- other sites


@pytest.mark.parametrize("path", DEEDS)
@pytest.mark.parametrize(
    ("headers", "csrf"),
    [
        ({"Origin": "https://evil.example"}, True),
        ({"Origin": "null"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({}, False),
    ],
    ids=["other origin", "no origin", "cross-site", "same-site", "no token"],
)
async def test_a_form_of_another_site_does_nothing(
    node: HubNode, visitor: Visitor, spoke: StandinSpoke, path: str, headers: dict[str, str], csrf: bool
) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    before = await states(node)
    known = {"csrf": (await visitor.look("/agents")).csrf} if csrf else {"csrf": "wrong"}
    target = path.format(id=agent_id if path.startswith("/agents") else spoke.id)
    answer = await visitor.post(target, {**known, **FIELDS, "spoke": spoke.id}, headers)
    assert answer.status == 403
    assert "foreign_form" in answer.text
    assert await states(node) == before
    assert [command["command"] for command in spoke.commands] == ["spawn"]
    assert (await visitor.look("/")).path == "/"


async def test_another_site_cannot_log_somebody_in(node: HubNode) -> None:
    async with Visitor(node.url) as visitor:
        answer = await visitor.post("/login", {"token": node.token}, {"Origin": "https://evil.example"})
        assert answer.status == 403
        assert "Set-Cookie" not in answer.headers


async def test_a_form_is_bounded_and_is_a_form(visitor: Visitor) -> None:
    csrf = (await visitor.look("/agents")).csrf
    many = {"csrf": csrf, **{f"f{number}": "x" for number in range(100)}}
    assert (await visitor.post("/spawn", many)).status == 400
    assert (await visitor.ask("POST", "/spawn", json={"csrf": csrf})).status == 415
    large = {"csrf": csrf, "workItems": "x" * 5_000_000}
    assert (await visitor.post("/spawn", large)).status == 413


async def test_every_page_gives_the_browser_its_orders(visitor: Visitor, spoke: StandinSpoke) -> None:
    for path in ("/", "/agents", "/spawn", "/invite", "/login", f"/spokes/{spoke.id}", "/spokes/nobody"):
        answer = await visitor.look(path)
        policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        # Nothing of a page runs or is styled but by a file from here.
        assert not re.search(r"<script(?! src=\"/static/)|<style|\sstyle=|\son\w+=|javascript:", answer.text)
        assert not re.search(r"(?:src|href|action)=\"(?!/|#main)", answer.text)


async def test_files_are_kept_by_browsers_until_they_change(visitor: Visitor) -> None:
    page = await visitor.look("/login")
    urls = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    assert len(urls) >= 5
    for url in urls:
        answer = await visitor.look(url)
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")
    answer = await visitor.look("/static/0/page.css")
    assert (answer.headers["Content-Type"], answer.headers["Cache-Control"]) == ("text/css; charset=utf-8", "no-cache")
    assert (await visitor.look("/static/0/sources.json")).status == 404
    assert (await visitor.look("/static/0/..%2Fpages.py")).status == 404


# --- scopes


@pytest.mark.attack(36)
@pytest.mark.parametrize(("method", "path"), NEEDS)
async def test_a_page_opens_to_its_scope_and_those_above(
    node: HubNode, tokens: TokenStore, method: str, path: str
) -> None:
    found: dict[str, bool] = {}
    for scope in SCOPES:
        async with Visitor(node.url) as visitor:
            await visitor.log_in(make(tokens, scope))
            # Nobody of this id: whoever is let in finds nothing, so that nothing happens.
            target = path.format(id=new_id())
            answer = await (visitor.look(target) if method == "GET" else visitor.send(target, {"hours": "0"}))
            found[scope] = not (answer.status == 403 and "forbidden" in answer.text)
    needed = SCOPES.index(NEEDS[method, path])
    assert found == {scope: SCOPES.index(scope) >= needed for scope in SCOPES}


async def test_what_one_may_not_do_is_not_offered(node: HubNode, tokens: TokenStore, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    offers = {}
    for scope in SCOPES:
        async with Visitor(node.url) as visitor:
            await visitor.log_in(make(tokens, scope))
            pages = [await visitor.look(path) for path in ("/", f"/spokes/{spoke.id}", f"/agents/{agent_id}")]
            text = "".join(page.text for page in pages)
            named = ("/spawn", "/invite", "/kill", "/send", "/changes", "/freeze", "/suspend", "/revoke", "/log/more")
            offers[scope] = {name for name in named if re.search(rf'(?:action|href|hx-get)="[^"]*{name}["?]', text)}
    assert offers["read"] == set()
    assert offers["operate"] == {"/spawn", "/kill", "/send", "/changes", "/freeze", "/log/more"}
    assert offers["admin"] == offers["operate"] | {"/invite", "/suspend", "/revoke"}


# --- what is done


async def test_an_agent_is_spawned_once_however_often_the_form_is_sent(
    node: HubNode, visitor: Visitor, spoke: StandinSpoke
) -> None:
    page = await visitor.look(f"/spawn?spoke={spoke.id}")
    assert f"<option selected>{spoke.id}</option>" in page.text
    agent_id = re.findall(r'name="agentId" value="([^"]+)"', page.text)[0]
    for _ in range(2):
        answer = await visitor.send("/spawn", {**FIELDS, "spoke": spoke.id, "agentId": agent_id})
        assert answer.path == f"/agents/{agent_id}"
        assert "Taken: it goes to" in answer.text
    assert "Taken: it goes to" not in (await visitor.look(answer.path)).text
    await node.until_delivery(agent_id, "delivered")
    (command,) = spoke.commands
    assert command["context"] == {
        "repository": FIELDS["repository"],
        "branch": "main",
        "workItems": ["first\nmore of it", "second"],
        "skills": ["python", "sql"],
    }
    assert command["priority"] == 3
    decided = await last_of_audit(node, "spawn.decided")
    assert decided["by"] == "admin.token"
    like = await visitor.look(f"/spawn?like={agent_id}")
    assert "first\nmore of it\n\nsecond</textarea>" in like.text
    assert agent_id not in like.text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"repository": "no repository"}, "repository"),
        ({"workItems": " "}, "Work items"),
        ({"priority": "eleven"}, "priority"),
        ({"taskId": "a b"}, "Task"),
        ({"spoke": "nobody"}, "there is no spoke nobody here"),
        ({"agentId": "mine"}, "agentId"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_wrong_form_comes_back_with_what_was_typed(
    node: HubNode, visitor: Visitor, spoke: StandinSpoke, changed: dict[str, str], said: str
) -> None:
    fields = {**FIELDS, "spoke": spoke.id, "branch": "feature/typed", "agentId": new_id(), **changed}
    answer = await visitor.send("/spawn", fields)
    assert 400 <= answer.status < 500
    assert said in answer.text
    assert 'value="feature/typed"' in answer.text
    assert await node.agent(fields["agentId"]) == {}


async def test_an_agent_is_killed(node: HubNode, visitor: Visitor, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    answer = await visitor.send(f"/agents/{agent_id}/kill", {"reason": "superseded"})
    assert (answer.path, "The kill is on its way." in answer.text) == (f"/agents/{agent_id}", True)
    await eventually(lambda: spoke.sent(agent_id, "kill"), "the kill comes")
    assert spoke.commands[-1]["reason"] == "superseded"

    async def is_killed() -> bool:
        return "killed_by_peer" in (await visitor.look(f"/agents/{agent_id}")).text

    await eventually(is_killed, "the page says so")
    assert "characters" in (await visitor.send(f"/agents/{agent_id}/kill", {"reason": "x" * 20_000})).text
    again = await visitor.send(f"/agents/{agent_id}/kill")
    assert "It had ended already: killed." in again.text
    assert (await last_of_audit(node, "kill.decided"))["by"] == "admin.token"
    missing = await visitor.send(f"/agents/{new_id()}/kill")
    assert missing.status == 404


async def test_an_agent_is_sent_a_message_and_resumed(node: HubNode, visitor: Visitor, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    await spoke.report(spoke.advance(agent_id, "running"))
    sent = await visitor.send(f"/agents/{agent_id}/send", {"text": "look at the logs\r\nfirst"})
    assert (sent.path, "It has your message." in sent.text) == (f"/agents/{agent_id}", True)
    assert list(spoke.told.values()) == ["look at the logs\nfirst"]
    assert "at least 1 character" in (await visitor.send(f"/agents/{agent_id}/send", {"text": ""})).text
    await spoke.report(spoke.advance(agent_id, "failed", reason="agent_error"))
    gone_on = await visitor.send(f"/agents/{agent_id}/resume", {"text": " "})
    assert (gone_on.path, "It goes on." in gone_on.text) == (f"/agents/{agent_id}", True)
    assert list(spoke.told.values()) == ["look at the logs\nfirst", ""]
    assert '<span class="state queued">' in gone_on.text
    spoke.answers["resume"] = error("not_allowed", detail="only an agent that has ended can be resumed")
    refused = await visitor.send(f"/agents/{agent_id}/resume", {"text": "more"})
    assert "only an agent that has ended can be resumed" in refused.text


async def test_its_changes_are_shown_in_colour_and_never_as_markup(
    node: HubNode, visitor: Visitor, spoke: StandinSpoke
) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    assert "changed nothing so far" in (await visitor.look(f"/agents/{agent_id}/changes")).text
    spoke.log = b"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-old\n+<b>new\x1b[2J</b>\n"
    text = (await visitor.look(f"/agents/{agent_id}/changes")).text
    for shown in ('<span class="file">diff --git a/x b/x</span>', '<span class="hunk">@@ -1 +1 @@</span>',
                  '<span class="minus">-old</span>', "+&lt;b&gt;new"):  # fmt: skip
        assert shown in text, shown
    assert "\x1b" not in text
    spoke.log = b"+" + b"x" * (2 * 1024 * 1024)
    assert "This is the beginning." in (await visitor.look(f"/agents/{agent_id}/changes")).text
    spoke.answers["diff"] = error("not_found", detail="this agent's patch is gone")
    assert "patch is gone" in (await visitor.look(f"/agents/{agent_id}/changes")).text


async def test_the_receipt_and_the_result_are_shown(node: HubNode, visitor: Visitor, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    receipt = {"signals": [{"signal": "SIGTERM", "at": "2026-11-22T08:00:01.000Z"}], "survivors": 0}
    result = {
        "summary": "two lines\nof summary", "data": {"answer": 42}, "branch": "agent/x", "logBytes": 0,
        "commits": [{"sha": "0123456789abcdef", "subject": "fix it"}], "preservedRef": None,
        "diffStat": {"files": 2, "insertions": 30, "deletions": 4}, "usage": None,
    }  # fmt: skip
    spoke.answers["kill"] = error("not_found")
    status = spoke.advance(agent_id, "killed", reason="killed_by_peer", receipt=receipt, result=result)
    await spoke.report(status)
    text = (await visitor.look(f"/agents/{agent_id}")).text
    for shown in ("SIGTERM", "0 processes survived", "two lines\nof summary", "&#34;answer&#34;: 42", "0123456789",
                  "fix it", "2 files", "+30", "agent/x"):  # fmt: skip
        assert shown in text, shown


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ({"summary": "and nothing else"}, "and nothing else"),
        ({"summary": ["no text"], "commits": 5}, "&#34;no text&#34;"),
        ({"summary": None, "diffStat": {"files": "many"}, "commits": [{"sha": 7}]}, "&#34;many&#34;"),
    ],
    ids=["members missing", "other types", "other types within"],
)
async def test_the_page_of_an_agent_opens_whatever_its_spoke_tells(
    node: HubNode, visitor: Visitor, spoke: StandinSpoke, result: dict[str, Any], shown: str
) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    times = {"queuedAt": "<yesterday>", "startedAt": "2026-11-22T08:00:00", "finishedAt": "2026-11-22T08:00:02.000Z"}
    await spoke.report(spoke.advance(agent_id, "completed", result=result, **times))
    answer = await visitor.look(f"/agents/{agent_id}")
    assert answer.status == 200
    for text in (shown, "&lt;yesterday&gt;", "Ran 2.0 s"):
        assert text in answer.text


async def test_a_spoke_is_frozen_and_thawed_suspended_resumed_and_revoked(
    node: HubNode, visitor: Visitor, spoke: StandinSpoke
) -> None:
    for latch in ("freeze", "thaw"):
        spoke.answers[latch] = lambda command: {
            "id": command["id"],
            "connection": {"frozen": command["command"] == "freeze", "killed": 0},
        }
    at = f"/spokes/{spoke.id}"
    assert "on its way" in (await visitor.send(f"{at}/freeze", {"reason": "strange load", "kill": "on"})).text

    async def says(word: str) -> bool:
        return word in (await visitor.look(at)).text

    await eventually(lambda: says("is frozen: it starts nothing"), "it is frozen")
    assert (spoke.commands[-1]["reason"], spoke.commands[-1]["killAgents"]) == ("strange load", True)
    assert "is frozen: it starts nothing" in (await visitor.look("/")).text
    assert "on its way" in (await visitor.send(f"{at}/thaw")).text
    await eventually(lambda: says("/freeze"), "it is thawed")
    for deed, state in (("suspend", "suspended"), ("resume", "active"), ("revoke", "revoked")):
        answer = await visitor.send(f"{at}/{deed}")
        assert (answer.path, answer.status) == (at, 200)
        assert (spoke.id, state) in await states(node)
    refused = await visitor.send(f"{at}/resume")
    assert "cannot become active" in refused.text
    assert "cannot become" not in (await visitor.look(at)).text
    assert (await last_of_audit(node, "peer.changed"))["by"] == "admin.token"


async def test_a_spoke_is_approved_only_with_the_fingerprint_that_was_shown(node: HubNode, visitor: Visitor) -> None:
    pending = StandinSpoke(node)
    node.add_peer(pending.id, pending.key.public, None, "pending")
    at, fingerprint = f"/spokes/{pending.id}", pending.key.public.fingerprint
    page = await visitor.look(at)
    assert page.text.count(fingerprint) == 3  # to read, in the form, and among the facts
    assert "asks to join" in (await visitor.look("/")).text
    for wrong in (StandinSpoke(node).key.public.fingerprint, "SHA256:x", ""):
        await visitor.send(f"{at}/approve", {"fingerprint": wrong})
        assert (pending.id, "pending") in await states(node)
    assert "pending: approve it with its fingerprint" in (await visitor.send(f"{at}/resume")).text
    answer = await visitor.send(f"{at}/approve", {"fingerprint": fingerprint})
    assert "is approved" in answer.text
    assert (pending.id, "active") in await states(node)
    node.set_state(pending.id, "revoked")


async def test_an_invite_is_shown_once(visitor: Visitor) -> None:
    answer = await visitor.send("/invite", {"hours": "2", "labels": "zone=eu gpu=yes"})
    assert answer.status == 200
    assert re.search(r"spoke join hubspoke1\.[A-Za-z0-9_-]+", answer.text)
    assert "hubspoke1." not in (await visitor.look("/invite")).text
    for wrong in ({"hours": "0"}, {"hours": "many"}, {"hours": "1", "labels": "not/ok!=1"}):
        refused = await visitor.send("/invite", wrong)
        assert "hubspoke1." not in refused.text
        assert 'role="alert"' in refused.text


# --- what is shown


async def test_agents_are_found_by_what_they_are(node: HubNode, visitor: Visitor, spoke: StandinSpoke) -> None:
    ids = [await node.spawn(spoke.id, taskId=f"find-{number}") for number in range(52)]
    for agent_id in ids:
        await node.until_delivery(agent_id, "delivered")
    dead = spoke.advance(ids[0], "failed", reason="attempts_exhausted")
    await spoke.report(dead)

    async def tasks(query: str) -> list[str]:
        return re.findall(r"<bdi>(find-\d+)</bdi>", (await visitor.look(f"/agents?{query}")).text)

    assert len(await tasks(f"spoke={spoke.id}&status=&taskId=&reason=")) == 50
    page = await visitor.look(f"/agents?spoke={spoke.id}")
    (older,) = re.findall(r'href="(/agents\?[^"]+cursor=[^"]+)"', page.text)
    assert await tasks(older.replace("&amp;", "&").partition("?")[2]) == ["find-1", "find-0"]
    assert await tasks("taskId=find-7") == ["find-7"]
    assert await tasks(f"spoke={spoke.id}&reason=attempts_exhausted") == ["find-0"]
    assert await tasks(f"spoke={spoke.id}&status=failed") == ["find-0"]
    assert "No agent is like that" in (await visitor.look("/agents?taskId=nothing")).text
    assert "dead letters" in (await visitor.look("/")).text
    _, found = await node.call("GET", f"/api/v1/agents?spoke={spoke.id}&reason=attempts_exhausted")
    assert [agent["agentId"] for agent in found["agents"]] == [ids[0]]
    assert (await visitor.look("/agents?nonsense=1")).status == 400


async def test_a_spoke_that_does_not_answer_stands_first(node: HubNode, visitor: Visitor, spoke: StandinSpoke) -> None:
    await spoke.down()
    await node.spawn(spoke.id)

    async def says() -> bool:
        text = (await visitor.look("/")).text
        return bool(re.search(rf"{spoke.id}</a> does not answer; waiting for it: 1", text))

    await eventually(says, "the overview says that it does not answer")
    text = (await visitor.look("/")).text
    assert text.index("does not answer") < text.index('id="spokes"')


@pytest.mark.attack(57)
async def test_what_others_write_is_text(node: HubNode, visitor: Visitor, spoke: StandinSpoke) -> None:
    evil = "<script>alert(1)</script>\u202e\x1b[31m"
    agent_id = await node.spawn(spoke.id, context={"workItems": [evil]})
    await node.until_delivery(agent_id, "delivered")
    spoke.log = evil.encode()
    result = {"summary": evil, "data": {evil: evil}, "branch": evil, "logBytes": len(spoke.log), "preservedRef": evil,
              "commits": [{"sha": evil, "subject": evil}], "diffStat": None, "usage": None}  # fmt: skip
    await spoke.report(spoke.advance(agent_id, "failed", reason="exit_nonzero", signal=evil, result=result))
    for path in (f"/agents/{agent_id}", f"/agents/{agent_id}/log", f"/agents/{agent_id}/log/more", "/agents"):
        text = (await visitor.look(path)).text
        assert "<script>alert" not in text
        assert "\u202e" not in text
        assert "\x1b" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e\\x1b[31m" in (await visitor.look(f"/agents/{agent_id}")).text


# --- logs


async def test_the_log_is_shown_from_its_end_and_followed(node: HubNode, visitor: Visitor, spoke: StandinSpoke) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    spoke.log = b"x" * 300_000 + b"\nthe last <line>\n"
    at = f"/agents/{agent_id}/log"
    first = (await visitor.look(f"{at}/more")).text
    assert "the last &lt;line&gt;" in first
    assert "229 KiB before this" in first
    (offset,) = re.findall(rf'hx-get="{at}/more\?offset=(\d+)"', first)
    assert int(offset) == len(spoke.log)
    spoke.log += b"added"
    second = (await visitor.look(f"{at}/more?offset={offset}")).text
    assert "added" in second
    assert "last" not in second
    await spoke.report(spoke.advance(agent_id, "completed", result={"logBytes": len(spoke.log)}))
    end = (await visitor.look(f"{at}/more?offset={len(spoke.log)}")).text
    assert "the end" in end
    assert "hx-get" not in end
    whole = await visitor.look(at)
    assert "added</pre>" in whole.text


async def test_a_log_that_cannot_be_had_now_is_asked_for_again(
    node: HubNode, visitor: Visitor, spoke: StandinSpoke
) -> None:
    agent_id = await node.spawn(spoke.id)
    await node.until_delivery(agent_id, "delivered")
    await spoke.down()
    text = (await visitor.look(f"/agents/{agent_id}/log/more?offset=5")).text
    assert "cannot be reached now" in text
    assert re.search(r'hx-get="[^"]+offset=5" hx-trigger="load delay:5s"', text)
    assert (await visitor.look(f"/agents/{agent_id}/log")).status == 504


# --- live


async def test_a_list_is_live(node: HubNode, visitor: Visitor, spoke: StandinSpoke) -> None:
    async with visitor.watch(f"/live/agents?spoke={spoke.id}") as messages:
        assert "No agent is like that" in await anext(messages)
        agent_id = await node.spawn(spoke.id, taskId="live-1")
        async for text in messages:
            if "live-1" in text and "queued" in text:
                break
    async with visitor.watch(f"/live/agents/{agent_id}") as messages:
        assert "live-1" in await anext(messages)
        await spoke.report(spoke.advance(agent_id, "running"))
        async for text in messages:
            if 'class="state running"' in text:
                break
    async with visitor.watch("/live/overview") as messages:
        assert spoke.id in await anext(messages)
    async with visitor.watch(f"/live/agents/{new_id()}"):
        pass


async def test_what_is_live_ends_with_the_session(node: HubNode, visitor: Visitor, spoke: StandinSpoke) -> None:
    async with visitor.watch("/live/agents") as messages:
        await anext(messages)
        await visitor.send("/logout")
        await node.spawn(spoke.id)
        async with asyncio.timeout(20):
            assert [text async for text in messages if "login" in text] == []
