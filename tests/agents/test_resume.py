"""Agents whose API is told the whole conversation each time go on in their session when they are resumed."""

from __future__ import annotations

import pytest

from tests.agents.conftest import Rig
from tests.agents.model_api import Say

pytestmark = pytest.mark.agents


@pytest.mark.parametrize(
    ("program", "told"), [("aider", "messages"), ("codex", "input"), ("gemini", "contents"), ("opencode", "messages")]
)
async def test_resumed_it_goes_on_in_its_session(rig: Rig, program: str, told: str) -> None:
    async with rig(program, Say("Which greeting?"), Say("Then hello.")) as agents:
        agent_id = await agents.spawn("add a greeting")
        session = (await agents.ended(agent_id))["result"]["data"]["sessionId"]
        await agents.hub.ask(agents.node, agents.hub.about("resume", agent_id, text="a short one"))
        agent = await agents.ended(agent_id, attempt=2)
        assert agent["status"] == "completed", await agents.log(agent_id)
        assert agent["result"]["summary"].startswith("Then hello.")  # Aider adds what it did of it
        assert agent["result"]["data"]["sessionId"] == session
        conversation = str(agents.api.asked[-1][told])
        assert conversation.index("add a greeting") < conversation.index("Which greeting?")
        assert conversation.index("Which greeting?") < conversation.index("a short one")
