"""A real hub has a real spoke resume an agent: what its admin sees, and what is asked for again after a cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.integration.link.pair import Pair, linked
from tests.spoke_node import tables

FAKE = {"agents.worker": {"profile": "fake"}, "policy": {"commands": ["spawn", "status", "kill", "logs", "resume"]}}


async def attempt(pair: Pair, agent_id: str, number: int) -> dict[str, Any]:
    """The agent once that attempt is over, by `hub wait`."""
    while True:
        done = await pair.hub.hub("wait", agent_id, "--json")
        agent: dict[str, Any] = json.loads(done.stdout)
        if agent["attempt"] == number:
            return agent


async def test_spawn_wait_resume_wait(tmp_path: Path) -> None:
    async with linked(tmp_path, tables(**FAKE)) as pair:
        agent_id = await pair.spawn("commit a.txt", "fail out of ideas")
        ended = await attempt(pair, agent_id, 1)
        assert (ended["status"], ended["reason"]) == ("failed", "agent_error")
        done = await pair.hub.hub("resume", agent_id, "commit b.txt", "--json")
        assert done.returncode == 0, done.stderr
        ended = await attempt(pair, agent_id, 2)
        assert (ended["status"], ended["reason"], ended["attempt"]) == ("completed", None, 2)
        assert [commit["subject"] for commit in ended["result"]["commits"]] == ["Add a.txt", "Add b.txt"]
        log = (await pair.hub.hub("logs", agent_id)).stdout
        assert "resumed after 1" in log
        assert ended["seq"] == 8
