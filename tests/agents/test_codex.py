"""Codex itself, run by a spoke."""

from __future__ import annotations

import pytest

from tests.agents.conftest import Rig
from tests.agents.model_api import Fail, Say, Use

pytestmark = pytest.mark.agents


async def test_it_works_and_says_what_it_did(rig: Rig) -> None:
    command = "echo hello > greeting.txt && git add -A && git commit -qm 'Add a greeting'"
    async with rig("codex", Use("exec_command", {"cmd": command}), Say("I added a greeting.")) as agents:
        agent_id = await agents.spawn("add a greeting")
        agent = await agents.ended(agent_id)
        assert (agent["status"], agent["reason"]) == ("completed", None), await agents.log(agent_id)
        result = agent["result"]
        assert result["summary"] == "I added a greeting."
        assert [commit["subject"] for commit in result["commits"]] == ["Add a greeting"]
        assert result["usage"] == {"inputTokens": 22, "outputTokens": 14, "costUsd": None, "turns": 1}
        assert result["data"]["sessionId"]
        assert "add a greeting" in str(agents.api.asked[0]["input"])


async def test_an_error_of_the_api_is_a_failure(rig: Rig) -> None:
    async with rig("codex", Fail(400, "no such model here")) as agents:
        agent = await agents.ended(await agents.spawn())
        assert (agent["status"], agent["reason"]) == ("failed", "agent_error")
        assert "no such model here" in agent["result"]["summary"]
