"""OpenCode itself, run by a spoke."""

from __future__ import annotations

import pytest

from tests.agents.conftest import Rig
from tests.agents.model_api import Fail, Say, Use

pytestmark = pytest.mark.agents
COMMIT = "echo hello > greeting.txt && git add -A && git commit -qm 'Add a greeting'"


async def test_it_works_and_says_what_it_did(rig: Rig) -> None:
    script = (Use("bash", {"command": COMMIT, "description": "commit"}), Say("I added a greeting."))
    async with rig("opencode", *script) as agents:
        agent_id = await agents.spawn("add a greeting")
        agent = await agents.ended(agent_id)
        assert (agent["status"], agent["reason"]) == ("completed", None), await agents.log(agent_id)
        result = agent["result"]
        assert result["summary"] == "I added a greeting."
        assert [commit["subject"] for commit in result["commits"]] == ["Add a greeting"]
        assert (result["usage"]["inputTokens"], result["usage"]["outputTokens"]) == (22, 14)
        assert result["data"]["sessionId"].startswith("ses_")
        assert "add a greeting" in str(agents.api.asked[0]["messages"])


async def test_an_error_of_the_api_is_a_failure(rig: Rig) -> None:
    async with rig("opencode", Fail(400, "no such model here")) as agents:
        agent_id = await agents.spawn()
        agent = await agents.ended(agent_id)
        assert (agent["status"], agent["reason"]) == ("failed", "agent_error"), await agents.log(agent_id)
        assert "no such model here" in agent["result"]["summary"]
