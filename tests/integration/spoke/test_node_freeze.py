"""A hub that freezes itself at a running spoke: nothing new starts until it thaws, also after a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.peer import HubPeer, new_id
from tests.spoke_node import Go, SpokeNode, eventually, is_alive, tables

NewHub = Callable[[SpokeNode], HubPeer]


def freeze(**members: Any) -> dict[str, Any]:
    return {"id": new_id(), "command": "freeze", **members}


def thaw() -> dict[str, Any]:
    return {"id": new_id(), "command": "thaw"}


async def test_frozen_nothing_starts_until_the_thaw_also_after_a_kill_of_the_node(
    tmp_path: Path, new_hub: NewHub, origin: Path, go: Go
) -> None:
    async with SpokeNode(tmp_path, toml=tables(limits={"agents": 1})) as node:
        hub, other = new_hub(node), new_hub(node)
        running, waiting, late = hub.spawn(origin, f"wait {go}"), hub.spawn(origin), hub.spawn(origin)
        await hub.send(node, running, waiting)
        await node.started(running["id"])
        asked = freeze(reason="budget spent")
        first, again, refused = await hub.send(node, asked, freeze(), late)
        assert first == {"id": asked["id"], "connection": {"frozen": True, "killed": 0}}
        assert again["connection"] == {"frozen": True, "killed": 0}
        assert (refused["error"]["code"], refused["error"]["retryable"]) == ("frozen", True)
        await node.kill9()
        await node.restart()
        assert (await hub.ask(node, late))["error"]["code"] == "frozen"
        go.now()
        assert (await node.until_ended(running["id"]))["status"] == "completed"
        foreign = other.spawn(origin)
        assert (await other.ask(node, foreign))["agent"]["status"] == "queued"
        await node.until_ended(foreign["id"])
        assert (await node.agent(waiting["id"]))["queue"] == {"position": 1, "waitingFor": "paused"}
        answer, taken = await hub.send(node, thaw(), late)
        assert (answer["connection"], taken["agent"]["status"]) == ({"frozen": False}, "queued")
        for agent in (waiting, late):
            assert (await node.until_ended(agent["id"]))["status"] == "completed"


async def test_a_freeze_that_kills_leaves_nothing_of_this_hub_and_all_of_the_others(
    tmp_path: Path, new_hub: NewHub, origin: Path
) -> None:
    async with SpokeNode(tmp_path, toml=tables(limits={"agents": 2})) as node:
        hub, other = new_hub(node), new_hub(node)
        running, waiting, foreign = hub.spawn(origin, "sleep 60"), hub.spawn(origin), other.spawn(origin, "sleep 60")
        await other.send(node, foreign)
        await hub.send(node, running, waiting)
        pids = [await node.started(running["id"]), await node.started(foreign["id"])]
        answer = await hub.ask(node, freeze(killAgents=True, reason="runaway"))
        assert answer["connection"] == {"frozen": True, "killed": 2}
        assert (await node.agent(waiting["id"]))["status"] == "killed"
        ended = await node.until_ended(running["id"])
        assert (ended["status"], ended["reason"], ended["receipt"]["survivors"]) == ("killed", "killed_by_peer", 0)
        await eventually(lambda: not is_alive(pids[0]), "its process has gone")
        assert is_alive(pids[1])


LISTED: dict[str, tuple[list[str], bool]] = {
    "kill": (["kill"], True),
    "the commands themselves": (["freeze", "thaw"], True),
    "neither": (["spawn", "status", "logs"], False),
}


@pytest.mark.attack(39)
@pytest.mark.parametrize(("commands", "allowed"), LISTED.values(), ids=LISTED.keys())
async def test_who_may_kill_may_freeze(tmp_path: Path, new_hub: NewHub, commands: list[str], allowed: bool) -> None:
    async with SpokeNode(tmp_path, toml=tables(policy={"commands": commands})) as node:
        hub = new_hub(node)
        answers = await hub.send(node, freeze(), thaw())
        assert [answer.get("connection", {}).get("frozen") for answer in answers] == (
            [True, False] if allowed else [None, None]
        )
        if not allowed:
            for answer in answers:
                assert answer["error"]["code"] == "not_allowed"
                assert answer["error"]["detail"].startswith("policy.commands does not list ")
