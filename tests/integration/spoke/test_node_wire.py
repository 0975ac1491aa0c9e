"""A running spoke as its hubs see it: commands over HTTP, real agents, and what they may not do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from common.commands import MAX_COMMANDS
from tests.integration.spoke.repositories import git
from tests.peer import HubPeer, new_id
from tests.spoke_node import Go, SpokeNode, arguments_of, eventually, is_alive, run_in_process, tables

NewHub = Callable[[SpokeNode], HubPeer]


async def log_of(hub: HubPeer, node: SpokeNode, agent_id: str) -> str:
    """The whole log as its hub reads it, piece by piece."""
    text, offset, ended = "", 0, False
    while not ended:
        piece = (await hub.ask(node, hub.about("logs", agent_id, offset=offset, limit=1000)))["log"]
        assert piece["offset"] == offset
        text, offset, ended = text + piece["data"], piece["nextOffset"], piece["eof"]
    return text


async def test_spawn_status_and_logs(shared: SpokeNode, hub: HubPeer, origin: Path) -> None:
    spawn = hub.spawn(origin, "print hällo", "commit new.txt", "write left.txt", 'result {"summary":"did it"}')
    spawned = (await hub.ask(shared, spawn))["agent"]
    assert (spawned["agentId"], spawned["status"], spawned["seq"]) == (spawn["id"], "queued", 1)
    assert spawned["queue"] == {"position": 1, "waitingFor": "slot"}
    await shared.until_ended(spawn["id"])
    agent = (await hub.ask(shared, hub.about("status", spawn["id"])))["agent"]
    assert (agent["status"], agent["seq"], agent["attempt"], agent["exitCode"]) == ("completed", 4, 1, 0)
    assert agent["queuedAt"] <= agent["startedAt"] <= agent["finishedAt"]
    result = agent["result"]
    assert (result["summary"], result["diffStat"]) == ("did it", {"files": 2, "insertions": 2, "deletions": 0})
    assert [commit["subject"] for commit in result["commits"]] == ["add new.txt"]
    assert result["preservedRef"], "what was not committed is kept"
    assert await log_of(hub, shared, spawn["id"]) == "hällo\n"
    assert len(shared.executions(spawn["id"])) == 1


async def test_the_workspace_goes_and_the_work_stays_in_the_mirror(
    shared: SpokeNode, hub: HubPeer, origin: Path
) -> None:
    spawn = hub.spawn(origin, "commit new.txt")
    await hub.ask(shared, spawn)
    ended = await shared.until_ended(spawn["id"])
    (sha,) = [commit["sha"] for commit in ended["result"]["commits"]]
    trees = f"workspaces/agents/*/{spawn['id']}/tree"
    await eventually(lambda: not list(shared.directory.glob(trees)), "it is removed")
    (mirror,) = shared.directory.glob(f"workspaces/mirrors/{hub.id}_*/*.git")
    assert "new.txt" in git(mirror, "show", "--stat", sha)


@pytest.mark.attack(22)
async def test_the_same_command_in_a_fresh_envelope_is_the_same_agent_and_one_process(
    shared: SpokeNode, hub: HubPeer, origin: Path, go: Go
) -> None:
    spawn = hub.spawn(origin, f"wait {go}")
    for _ in range(3):
        assert (await hub.ask(shared, spawn))["agent"]["agentId"] == spawn["id"]
    running = await shared.until(spawn["id"], "running")
    assert (await hub.ask(shared, spawn))["agent"]["seq"] == running["seq"] == 3
    go.now()
    await shared.until_ended(spawn["id"])
    assert (await hub.ask(shared, spawn))["agent"]["status"] == "completed"
    assert len(shared.executions(spawn["id"])) == 1


@pytest.mark.attack(23)
async def test_an_id_with_other_content_is_a_conflict(shared: SpokeNode, hub: HubPeer, origin: Path) -> None:
    spawn = hub.spawn(origin)
    await hub.ask(shared, spawn)
    error = (await hub.ask(shared, {**spawn, "taskId": "other"}))["error"]
    assert (error["code"], error["retryable"]) == ("conflict", False)
    assert (await shared.until_ended(spawn["id"]))["taskId"] == "T-1"


@pytest.mark.attack(24)
async def test_an_id_older_than_the_spokes_memory_is_stale(shared: SpokeNode, hub: HubPeer, origin: Path) -> None:
    old = "0170a000-0000-7000-8000-000000000001"
    assert (await hub.ask(shared, {**hub.spawn(origin), "id": old}))["error"]["code"] == "stale"
    assert await shared.agent(old) == {}


async def test_a_kill_ends_the_agent_and_says_how(shared: SpokeNode, hub: HubPeer, origin: Path) -> None:
    spawn = hub.spawn(origin, "ignore SIGTERM", "print ignoring", "sleep 60")
    await hub.ask(shared, spawn)
    await eventually(lambda: "ignoring" in _raw_log(shared, spawn["id"]), "the agent ignores SIGTERM")
    await hub.ask(shared, hub.about("kill", spawn["id"], graceS=0, reason="superseded"))
    killed = await shared.until_ended(spawn["id"])
    assert (killed["status"], killed["reason"], killed["signal"]) == ("killed", "killed_by_peer", "SIGKILL")
    assert killed["receipt"]["survivors"] == 0
    assert [sent["signal"] for sent in killed["receipt"]["signals"]][-1] == "SIGKILL"
    (start,) = shared.executions(spawn["id"])
    assert not is_alive(start["pid"])


def _raw_log(node: SpokeNode, agent_id: str) -> str:
    return "".join(path.read_text() for path in node.directory.glob(f"runs/*/{agent_id}/*/log"))


@pytest.mark.fault(19)
async def test_a_kill_before_its_spawn(shared: SpokeNode, hub: HubPeer, origin: Path) -> None:
    spawn = hub.spawn(origin)
    assert (await hub.ask(shared, hub.about("kill", spawn["id"])))["error"]["code"] == "not_found"
    assert (await hub.ask(shared, spawn))["error"]["code"] == "killed"
    assert await shared.agent(spawn["id"]) == {}


@pytest.mark.parametrize(
    ("items", "changes", "expected"),
    [
        (["exit 3"], {}, {"status": "failed", "reason": "exit_nonzero", "exitCode": 3}),
        (["signal SIGKILL"], {}, {"status": "failed", "reason": "exit_nonzero", "signal": "SIGKILL"}),
        (["sleep 60"], {"timeoutS": 1}, {"status": "failed", "reason": "timeout", "signal": "SIGTERM"}),
        ([], {"agentType": "tester"}, {"status": "failed", "reason": "spawn_failed"}),
        ([], {"branch": "missing"}, {"status": "failed", "reason": "workspace_failed"}),
    ],
    ids=["exit code", "signal", "timeout", "no such program", "no such branch"],
)
async def test_how_agents_fail(
    shared: SpokeNode, hub: HubPeer, origin: Path, items: list[str], changes: Any, expected: dict[str, Any]
) -> None:
    spawn = hub.spawn(origin, *items, **changes)
    await hub.ask(shared, spawn)
    ended = await shared.until_ended(spawn["id"])
    assert {name: ended[name] for name in expected} == expected
    idle = {"queued": 0, "active": 0, "paused": False, "draining": False}

    async def is_idle() -> bool:
        return (await shared.call("GET", "/queue"))[1] == idle

    await eventually(is_idle, "nothing of it is counted any more, nor of the test before")


async def test_a_repository_that_is_not_there(shared: SpokeNode, hub: HubPeer, tmp_path: Path) -> None:
    spawn = hub.spawn(tmp_path / "nowhere")
    await hub.ask(shared, spawn)
    ended = await shared.until_ended(spawn["id"])
    assert (ended["status"], ended["reason"]) == ("failed", "workspace_failed")
    assert shared.executions(spawn["id"]) == []


SECRET = "s3cret-value-of-the-spoke"


@pytest.mark.attack(53)
@pytest.mark.attack(63)
async def test_an_agent_sees_a_listed_environment_and_nothing_of_the_spokes(tmp_path: Path, origin: Path) -> None:
    of_spoke = {"ANTHROPIC_API_KEY": SECRET, "LD_PRELOAD_": SECRET, "GIT_SSH_COMMAND": "true", "SSH_AUTH_SOCK": "/x"}
    async with SpokeNode(tmp_path, env=of_spoke) as node:
        hub = HubPeer()
        hub.register(node)
        items = ["LD_PRELOAD=/tmp/evil.so", "environment"]
        spawn = hub.spawn(origin, *items)
        await hub.ask(node, spawn)
        await node.until_ended(spawn["id"])
        environment = json.loads(await log_of(hub, node, spawn["id"]))
        assert {*environment, "LC_CTYPE"} == {
            "PATH", "LANG", "TERM", "HOME", "TMPDIR", "GIT_TERMINAL_PROMPT", "GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL",
            "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "HUBSPOKE_AGENT_ID", "HUBSPOKE_AGENT_TYPE",
            "HUBSPOKE_TASK_ID", "HUBSPOKE_BRANCH", "HUBSPOKE_TASK_FILE", "HUBSPOKE_RESULT_FILE", "HUBSPOKE_RUN",
            "RECORD", "LC_CTYPE",
        }  # fmt: skip
        # LC_CTYPE is set by the agent's own Python, which finds a C locale.
        kept = [SECRET, node.token, (node.directory / "keys" / f"{node.id}.key").read_text().splitlines()[1]]
        assert not [secret for secret in kept if secret in json.dumps(environment) + node.log()]


@pytest.mark.attack(54)
async def test_work_items_are_data_on_stdin_and_no_arguments(shared: SpokeNode, hub: HubPeer, origin: Path) -> None:
    items = [
        "--dangerously-skip-permissions", "@/etc/passwd", "-c import os", "$(touch pwned)", "`touch pwned`",
        "\u202e\x1b[31m", "x" * 10_000, "a\x00b",
    ]  # fmt: skip
    spawn = hub.spawn(origin, *items, "input", "sleep 60")
    await hub.ask(shared, spawn)
    await eventually(lambda: _raw_log(shared, spawn["id"]).endswith("\n\n"), "the agent has written its input")
    (start,) = shared.executions(spawn["id"])
    arguments = arguments_of(start["pid"])
    assert b"dangerously" not in arguments
    assert b"passwd" not in arguments
    assert json.loads(_raw_log(shared, spawn["id"]))["context"]["workItems"] == [*items, "input", "sleep 60"]
    await hub.ask(shared, hub.about("kill", spawn["id"], graceS=0))
    assert (await shared.until_ended(spawn["id"]))["result"]["diffStat"]["files"] == 0


# --- policy and connection


NARROW = {
    "commands": ["spawn", "status", "logs"],
    "agent_types": ["worker"],
    "repositories": ["https://git.example.org/team/**"],
}


@pytest.mark.attack(39)
@pytest.mark.attack(50)
@pytest.mark.attack(51)
async def test_what_the_policy_does_not_allow_is_refused_with_its_rule(tmp_path: Path) -> None:
    async with SpokeNode(tmp_path, toml=tables(policy=NARROW, limits={"agents": 0})) as node:
        hub = HubPeer()
        hub.register(node)
        good = "https://git.example.org/team/app.git"
        cases: dict[str, tuple[dict[str, Any], str, str]] = {
            "type": (hub.spawn(good, agentType="tester"), "not_allowed", "policy.agent_types"),
            "other": (hub.spawn("https://git.example.org/other/app"), "not_allowed", "policy.repositories"),
            "file": (hub.spawn("file:///etc"), "not_allowed", "policy.repositories"),
            "ext": (hub.spawn("ext::sh -c touch% /tmp/pwned"), "not_allowed", "repository"),
            "local": (hub.spawn("/etc/passwd"), "not_allowed", "repository"),
            "dots": (hub.spawn("https://git.example.org/team/../other/app"), "invalid", "repository"),
            "option": (hub.spawn("--upload-pack=touch /tmp/pwned"), "invalid", "repository"),
            "branch": (hub.spawn(good, branch="--upload-pack=x"), "invalid", "branch"),
            "kill": (hub.about("kill", new_id()), "not_allowed", "policy.commands does not list kill"),
            "diff": (hub.about("diff", new_id(), offset=0, limit=10), "not_allowed", "policy.commands"),
            "freeze": ({"id": new_id(), "command": "freeze", "killAgents": True, "reason": "x"}, "not_allowed", "pol"),
        }
        results = await hub.send(node, *(command for command, _, _ in cases.values()), hub.spawn(good))
        for (name, (_, code, rule)), result in zip(cases.items(), results, strict=False):
            assert result["error"]["code"] == code, name
            assert rule in result["error"]["detail"], name
        assert results[-1]["agent"]["status"] == "queued", "a refusal touches no other command"
        assert [agent["agentId"] for agent in await node.agents()] == [results[-1]["id"]]


@pytest.mark.attack(39)
async def test_a_policy_that_says_nothing_allows_nothing(tmp_path: Path, origin: Path) -> None:
    toml = "[limits]\nagents = 0\n"
    async with SpokeNode(tmp_path, toml=toml) as node:
        hub = HubPeer()
        hub.register(node)
        for command in (hub.spawn(origin), hub.about("status", new_id()), hub.about("kill", new_id())):
            assert (await hub.ask(node, command))["error"]["code"] == "not_allowed"
        assert await node.agents() == []


@pytest.mark.attack(34)
@pytest.mark.attack(35)
@pytest.mark.parametrize(
    ("steps", "code"),
    [(["suspend"], "connection_inactive"), (["revoke"], "bad_signature"), (["suspend", "resume"], "accepted")],
    ids=["suspended", "revoked", "resumed"],
)
async def test_a_peer_that_is_not_active_changes_nothing(
    shared: SpokeNode, hub: HubPeer, origin: Path, steps: list[str], code: str
) -> None:
    for step in steps:
        run_in_process(shared.directory, "peer", step, hub.id)
    spawn = hub.spawn(origin)
    answer = await hub.post(shared, hub.seal(shared, spawn))
    assert answer.code == code
    assert bool(await shared.agent(spawn["id"])) == (code == "accepted")


@pytest.mark.attack(34)
async def test_a_stranger_is_no_peer(shared: SpokeNode, origin: Path) -> None:
    stranger = HubPeer("hub-stranger", seed=9)
    spawn = stranger.spawn(origin)
    assert (await stranger.post(shared, stranger.seal(shared, spawn))).code == "bad_signature"
    assert await shared.agent(spawn["id"]) == {}


@pytest.mark.attack(33)
async def test_a_peer_that_joins_again_after_its_revocation_inherits_nothing(
    shared: SpokeNode, hub: HubPeer, origin: Path, go: Go
) -> None:
    spawn = hub.spawn(origin, f"wait {go}")
    raw = hub.seal(shared, spawn)
    assert (await hub.post(shared, raw)).code == "accepted"
    await shared.until(spawn["id"], "running")
    run_in_process(shared.directory, "peer", "revoke", hub.id)
    hub.register(shared)
    results = await hub.send(shared, *(hub.about(name, spawn["id"]) for name in ("status", "logs", "kill")))
    assert [result["error"]["code"] for result in results] == ["not_found"] * 3
    assert (await hub.post(shared, raw)).code == "replayed"
    go.now()
    # The spoke itself ends what a revoked peer has here, within a second: it may be faster than we are.
    reason = (await shared.until_ended(spawn["id"]))["reason"]
    assert reason in {None, "killed_by_operator"}, "nothing of the new one reached it"
    assert len(shared.executions(spawn["id"])) == 1


@pytest.mark.attack(37)
async def test_another_hubs_agent_is_not_there(
    shared: SpokeNode, hub: HubPeer, new_hub: NewHub, origin: Path, go: Go
) -> None:
    spawn = hub.spawn(origin, f"wait {go}")
    await hub.ask(shared, spawn)
    await shared.until(spawn["id"], "running")
    other = new_hub(shared)
    codes = {}
    for name in ("status", "logs", "diff", "send", "resume", "kill"):
        more = {"text": "hello"} if name in {"send", "resume"} else {}
        asked = [other.about(name, agent_id, **more) for agent_id in (new_id(), spawn["id"])]
        absent, foreign = await other.send(shared, *asked)
        assert {**foreign, "id": ""} == {**absent, "id": ""}
        codes[name] = absent["error"]["code"]
    # The policy of these tests has three of them; what it does not allow is no way to find out either.
    assert set(codes.values()) == {"not_found", "not_allowed"}
    assert [codes[name] for name in ("status", "logs", "kill")] == ["not_found"] * 3
    go.now()
    assert (await shared.until_ended(spawn["id"]))["status"] == "completed"


async def test_two_hubs_may_use_the_same_id(shared: SpokeNode, hub: HubPeer, new_hub: NewHub, origin: Path) -> None:
    other = new_hub(shared)
    spawn = hub.spawn(origin, "print one")
    await hub.ask(shared, spawn)
    await other.ask(shared, {**other.spawn(origin, "print two"), "id": spawn["id"]})
    await eventually(lambda: len(shared.executions(spawn["id"])) == 2, "both run")

    async def both_ended() -> bool:
        found = [agent for agent in await shared.agents() if agent["agentId"] == spawn["id"]]
        return [agent["status"] for agent in found] == ["completed", "completed"]

    await eventually(both_ended, "both end")
    assert (await log_of(hub, shared, spawn["id"]), await log_of(other, shared, spawn["id"])) == ("one\n", "two\n")
    status, problem = await shared.call("GET", f"/agents/{spawn['id']}/status")
    assert (status, problem["code"]) == (400, "invalid")
    _, mine = await shared.call("GET", f"/agents/{spawn['id']}/status?peer={other.id}")
    assert mine["peer"] == other.id


# --- limits


async def test_the_largest_envelope_of_commands_gets_all_its_answers(shared: SpokeNode, hub: HubPeer) -> None:
    results = await hub.send(shared, *(hub.about("status", new_id()) for _ in range(MAX_COMMANDS)))
    assert {result["error"]["code"] for result in results} == {"not_found"}


@pytest.mark.attack(40)
async def test_a_quota_holds_when_many_come_at_once(tmp_path: Path, origin: Path) -> None:
    async with SpokeNode(tmp_path, toml=tables(policy={"queued": 7}, limits={"agents": 0})) as node:
        hub = HubPeer()
        hub.register(node)
        results = await asyncio.gather(*(hub.ask(node, hub.spawn(origin)) for _ in range(24)))
        codes = [result.get("error", {}).get("code") for result in results]
        assert (codes.count(None), codes.count("quota_exceeded")) == (7, 17)
        assert (await node.call("GET", "/queue"))[1] == {"queued": 7, "active": 0, "paused": False, "draining": False}


async def test_over_its_rate_a_peer_is_told_to_come_back(tmp_path: Path) -> None:
    async with SpokeNode(tmp_path, toml=tables(policy={"rate_per_s": 2})) as node:
        hub = HubPeer()
        hub.register(node)
        raws = [hub.seal(node, hub.about("status", new_id())) for _ in range(12)]
        answers = await asyncio.gather(*(hub.post(node, raw) for raw in raws))
        refused = [answer for answer in answers if answer.status != 200]
        assert refused
        assert {(answer.status, answer.code, answer.headers["Retry-After"]) for answer in refused} == {
            (429, "rate_limited", "1")
        }
        metrics = await metrics_of(node)
        assert f'hubspoke_spoke_envelopes_refused_total{{code="rate_limited"}} {float(len(refused))}' in metrics


async def metrics_of(node: SpokeNode) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{node.url}/metrics") as response:
        return await response.text()


async def test_identity_is_signed_by_the_key_it_names(shared: SpokeNode, hub: HubPeer) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{shared.url}/federation/v1/identity") as response:
        assert (response.status, response.content_type) == (200, "application/jose")
        envelope = hub.open(shared, await response.read())
    assert (envelope.typ, envelope.claims.aud) == ("identity+jwt", "any")
    identity = json.loads(envelope.body.model_dump_json(by_alias=True))["identity"]
    assert (identity["instance"], identity["kind"], identity["url"]) == (shared.id, "spoke", None)
    assert identity["keys"][0]["kty"] == "OKP"
