"""A real hub and a real spoke: frozen with what runs killed, thawed, many agents placed, all of them stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.integration.link.pair import Pair, linked
from tests.spoke_node import eventually, is_alive


async def until_frozen(pair: Pair, frozen: bool) -> dict[str, Any]:
    async def reached() -> dict[str, Any] | None:
        view = await pair.peer()
        is_so = view["frozen"] is frozen and view["freeze"]["state"] == "delivered"
        return view if is_so else None

    view: dict[str, Any] = await eventually(reached, f"frozen is {frozen}")
    return view


async def test_a_freeze_that_kills_and_a_thaw_by_the_command_line(tmp_path: Path) -> None:
    async with linked(tmp_path) as pair:
        running = await pair.spawn("sleep 60")
        await pair.until(running, "running")
        pid = await pair.spoke.started(running)
        done = await pair.hub.hub("freeze", pair.spoke.id, "--kill", "--reason", "runaway")
        assert done.returncode == 0, done.stderr
        assert (await until_frozen(pair, True))["freeze"]["killed"] == 1
        ended = await pair.until(running, "killed")
        assert (ended["reason"], ended["receipt"]["survivors"]) == ("killed_by_peer", 0)
        assert not is_alive(pid)
        late = await pair.spawn("print x")

        async def refused() -> bool:
            error = (await pair.hub.agent(late))["delivery"]["lastError"]
            return bool(error and error["code"] == "frozen")

        await eventually(refused, "the spoke refused it")
        await pair.spoke.kill9()
        await pair.spoke.restart()
        await pair.up()
        assert pair.spoke.executions(late) == []
        assert (await pair.hub.hub("thaw", "--all")).returncode == 0
        await until_frozen(pair, False)
        await pair.until(late, "completed")


async def test_many_are_placed_and_stopped(tmp_path: Path) -> None:
    async with linked(tmp_path) as pair:
        arguments = ("--repo", pair.repository.as_uri(), "--item", "sleep 60", "--task", "T-many")
        done = await pair.hub.hub("spawn", "--count", "3", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        agents = [each["agentId"] for each in json.loads(done.stdout)["agents"]]
        pids = [await pair.spoke.started(agent_id) for agent_id in agents]
        done = await pair.hub.hub("kill", "--task", "T-many", "--grace", "0")
        assert (done.returncode, len(done.stdout.splitlines())) == (0, 3), done.stderr
        for agent_id, pid in zip(agents, pids, strict=True):
            await pair.until(agent_id, "killed")
            assert not is_alive(pid)
        done = await pair.hub.hub("spawn", "--all", *arguments[:3], "print x", "--wait")
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("1 of 1 ended: ")
