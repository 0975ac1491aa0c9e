"""`spoke peer policy`: rules of one hub, in force at once on a running node, and tried without running anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.peer import HubPeer
from tests.spoke_node import SpokeNode, run_in_process

NewHub = Callable[[SpokeNode], HubPeer]


def policy(node: SpokeNode, hub: HubPeer, *arguments: str) -> Any:
    return json.loads(run_in_process(node.directory, "peer", "policy", hub.id, "--json", *arguments))


def rules(directory: Path, text: str, name: str = "rules") -> str:
    file = directory / name
    file.write_text(text)
    return str(file)


@pytest.mark.attack(39)
async def test_rules_of_one_hub_are_in_force_at_once_and_leave_the_others_alone(
    tmp_path: Path, new_hub: NewHub, origin: Path
) -> None:
    async with SpokeNode(tmp_path) as node:
        hub, other = new_hub(node), new_hub(node)
        await node.call("POST", "/queue/pause", {"on": True})
        assert "agent" in await hub.ask(node, hub.spawn(origin))
        own = rules(
            tmp_path,
            f'[policy]\ncommands = ["spawn"]\nagent_types = ["worker"]\nrepositories = ["file://{origin}"]\n'
            'branches = ["main"]\nskills = []\nbest_priority = 7\nmax_timeout_s = 60\nmax_attempts = 2\nqueued = 3\n',
        )
        shown = policy(node, hub, "--set", own)
        assert (shown["own"], shown["best_priority"]) == (True, 7)
        asked = hub.spawn(origin, priority=1, timeoutS=3600, maxAttempts=9)
        first = (await hub.ask(node, asked))["agent"]
        assert first["granted"] == {"priority": 7, "timeoutS": 60, "maxAttempts": 2}
        policy(node, hub, "--set", rules(tmp_path, json.dumps({**_open(origin), "queued": 3}), "wider"))
        same = (await hub.ask(node, asked))["agent"]
        assert (same["agentId"], same["granted"]) == (first["agentId"], first["granted"])
        policy(node, hub, "--set", rules(tmp_path, "commands = []", "closed"))
        same = (await hub.ask(node, asked))["agent"]
        assert (same["agentId"], same["granted"]) == (first["agentId"], first["granted"])
        assert (await hub.ask(node, {**asked, "taskId": "T-2"}))["error"]["code"] == "not_allowed"
        policy(node, hub, "--set", own)
        refused = {
            "policy.commands": hub.about("status", asked["id"]),
            "policy.agent_types": hub.spawn(origin, agentType="tester"),
            "policy.repositories": hub.spawn(f"file://{origin}2"),
            "policy.branches": hub.spawn(origin, branch="other"),
            "policy.skills": _with_skill(hub.spawn(origin)),
        }
        for rule, command in refused.items():
            error = (await hub.ask(node, command))["error"]
            assert (error["code"], error["detail"].split()[0]) == ("not_allowed", rule)
        assert "agent" in await hub.ask(node, hub.spawn(origin))
        full = (await hub.ask(node, hub.spawn(origin)))["error"]
        assert (full["code"], full["detail"].split(":")[0]) == ("quota_exceeded", "policy.queued")
        free = (await other.ask(node, other.spawn(origin, priority=1)))["agent"]
        assert free["granted"]["priority"] == 1
        assert policy(node, hub, "--clear")["own"] is False
        assert "agent" in await hub.ask(node, hub.about("status", asked["id"]))


def _open(origin: Path) -> dict[str, Any]:
    return {"commands": ["spawn"], "agent_types": ["worker"], "repositories": [f"file://{origin}"]}


def _with_skill(spawn: dict[str, Any]) -> dict[str, Any]:
    return {**spawn, "context": {**spawn["context"], "skills": ["python"]}}


async def test_an_agent_is_ended_by_the_time_that_was_granted(tmp_path: Path, new_hub: NewHub, origin: Path) -> None:
    async with SpokeNode(tmp_path) as node:
        hub = new_hub(node)
        policy(node, hub, "--set", rules(tmp_path, json.dumps({**_open(origin), "max_timeout_s": 1})))
        spawn = hub.spawn(origin, "sleep 60", timeoutS=3600)
        assert (await hub.ask(node, spawn))["agent"]["granted"]["timeoutS"] == 1
        ended = await node.until_ended(spawn["id"])
        assert (ended["status"], ended["reason"]) == ("failed", "timeout")


@pytest.mark.attack(39)
async def test_a_spawn_is_tried_without_running_anything(tmp_path: Path, new_hub: NewHub) -> None:
    node = SpokeNode(tmp_path)
    hub = new_hub(node)
    spawn = hub.spawn("https://git.example.org/team/app.git", branch="main", priority=2)
    asked = rules(tmp_path, json.dumps(spawn))
    refused = policy(node, hub, "--explain", asked)
    assert (refused["code"], refused["detail"].split()[0]) == ("not_allowed", "policy.repositories")
    text = await node.spoke("peer", "policy", hub.id, "--explain", asked)
    assert "policy.repositories" in text.stdout
    assert "refused: not_allowed" in text.stdout
    more = tmp_path / "more.json"
    more.write_text(json.dumps({**_open(Path("/")), "repositories": ["https://git.example.org/team/*"]}))
    policy(node, hub, "--set", str(more))
    accepted = policy(node, hub, "--explain", asked)
    assert (accepted["outcome"], accepted["granted"]["priority"]) == ("accepted", 2)
    assert "accepted" in (await node.spoke("peer", "policy", hub.id, "--explain", asked)).stdout
    piped = await node.spoke("peer", "policy", hub.id, "--explain", "-", stdin=json.dumps(spawn))
    assert piped.returncode == 0, piped.stderr
    assert not node.record.exists()
    assert not (node.directory / "valkey").exists()


WRONG: dict[str, tuple[str, str]] = {
    "neither JSON nor TOML": ("][", "policy"),
    "an unknown rule": ('repos = ["**"]', "policy"),
    "an unknown table": ("[polcy]\n", "policy"),
    "a damaged JSON": ("{", "policy"),
}


@pytest.mark.parametrize(("text", "code"), WRONG.values(), ids=WRONG)
async def test_rules_that_cannot_be_read_change_nothing(tmp_path: Path, new_hub: NewHub, text: str, code: str) -> None:
    node = SpokeNode(tmp_path)
    hub = new_hub(node)
    refused = await node.spoke("peer", "policy", hub.id, "--set", rules(tmp_path, text))
    assert (refused.returncode, refused.stderr.split(": ")[1]) == (1, code)
    assert policy(node, hub)["own"] is False


async def test_a_file_that_is_not_there_and_two_wishes_at_once(tmp_path: Path, new_hub: NewHub) -> None:
    node = SpokeNode(tmp_path)
    hub = new_hub(node)
    missing = await node.spoke("peer", "policy", hub.id, "--set", str(tmp_path / "missing"))
    assert (missing.returncode, missing.stderr.split(": ")[1]) == (1, "file")
    assert (await node.spoke("peer", "policy", hub.id, "--clear", "--set", "x")).returncode == 2
    assert (await node.spoke("peer", "policy", "nobody")).returncode == 1
