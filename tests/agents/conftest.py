"""Real agent programs, run by a real spoke against a stand-in for their models: no account, no network.

`make test-agents` installs them below `build/agents`; without them these tests fail.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.agents.model_api import ModelApi, Step, serving
from tests.integration.spoke.repositories import commit, make_repository
from tests.peer import HubPeer
from tests.spoke_node import SpokeNode, tables

_GEMINI_SETTINGS: Final = '{"security": {"auth": {"selectedType": "gemini-api-key"}}}'
_BUILD: Final = Path(__file__).parents[2] / "build" / "agents"
AIDER: Final = _BUILD / "aider"
PROGRAMS: Final = f"{_BUILD / 'node_modules' / '.bin'}:{AIDER / 'bin'}"
SECRET: Final = "sk-ant-nobody-may-see-this"

Rig = Callable[..., AbstractAsyncContextManager["AgentRig"]]


class AgentRig:
    """A spoke whose workers are a real program, the model it talks to, and a hub."""

    def __init__(self, node: SpokeNode, hub: HubPeer, api: ModelApi, origin: Path) -> None:
        self.node = node
        self.hub = hub
        self.api = api
        self.origin = origin

    async def spawn(self, *work_items: str, **changes: Any) -> str:
        """Spawn an agent and return its id."""
        spawn = self.hub.spawn(self.origin, *work_items, **changes)
        assert "agent" in await self.hub.ask(self.node, spawn)
        agent_id: str = spawn["id"]
        return agent_id

    async def ended(self, agent_id: str, *, attempt: int = 1) -> dict[str, Any]:
        """Wait for its end and return its status; it ends in this attempt."""
        agent = await self.node.until_ended(agent_id)
        assert agent["attempt"] == attempt, await self.log(agent_id)
        return agent

    async def log(self, agent_id: str) -> str:
        """Return the whole log as the hub reads it."""
        text, offset, ended = "", 0, False
        while not ended:
            piece = (await self.hub.ask(self.node, self.hub.about("logs", agent_id, offset=offset)))["log"]
            text, offset, ended = text + piece["data"], piece["nextOffset"], piece["eof"]
        return text

    def objects(self, spec: str) -> str:
        """Return what `git show` says of something in the spoke's mirror of the repository."""
        from tests.integration.spoke.repositories import git

        (mirror,) = self.node.directory.glob(f"workspaces/mirrors/{self.hub.id}_*/*.git")
        return git(mirror, "show", spec)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """Return a maker of rigs: `async with rig("claude", Say("hello")) as agents`."""

    @asynccontextmanager
    async def make(
        profile: str,
        *script: Step,
        skills: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
        **config: Any,
    ) -> AsyncIterator[AgentRig]:
        program = shutil.which(profile, path=PROGRAMS)
        assert program, f"there is no {profile} in {PROGRAMS}; run the tests by `make test-agents`"
        origin = make_repository(tmp_path / "origin" / "app")
        if profile == "gemini":
            commit(origin, {".gemini/settings.json": _GEMINI_SETTINGS}, "how Gemini logs in")
        async with serving(*script) as api:
            environment = {
                "PATH": f"{Path(program).parent}:{os.environ['PATH']}",
                "ANTHROPIC_BASE_URL": api.url,
                "ANTHROPIC_API_KEY": SECRET,
                "OPENAI_API_KEY": SECRET,
                "OPENAI_API_BASE": f"{api.url}/v1",
                **(variables or {}),
            }
            environment |= {"GEMINI_API_KEY": SECRET, "GOOGLE_GEMINI_BASE_URL": api.url}
            model = {"npm": "@ai-sdk/anthropic", "options": {"baseURL": f"{api.url}/v1"}, "models": {"m": {}}}
            environment["OPENCODE_CONFIG_CONTENT"] = json.dumps({"provider": {"stub": model}, "share": "disabled"})
            provider = f'{{name="stub", base_url="{api.url}/v1", env_key="OPENAI_API_KEY", wire_api="responses"}}'
            extra: dict[str, dict[str, Any]] = {
                "aider": {"env": ["OPENAI_API_BASE", *(variables or {})], "model": "openai/gpt-4o"},
                "claude": {"env": ["ANTHROPIC_BASE_URL"]},
                "codex": {
                    "arguments": [
                        *("-c", 'model_provider="stub"', "-c", f"model_providers.stub={provider}"),
                        *("-c", 'sandbox_mode="danger-full-access"'),
                    ],
                    "model": "gpt-5.1-codex",
                },
                "gemini": {"env": ["GOOGLE_GEMINI_BASE_URL"], "model": "stub-m"},
                "opencode": {"env": ["OPENCODE_CONFIG_CONTENT"], "model": "stub/m"},
            }
            agent = {"profile": profile, **extra[profile], **config}
            policy = {"commands": ["spawn", "status", "kill", "logs", "diff", "send", "resume"]}
            toml = tables(**{"agents.worker": agent, "agents.reviewer": agent, "policy": policy})
            for name, text in (skills or {}).items():
                place = tmp_path / "build-1" / "skills" / name
                place.mkdir(parents=True)
                (place / "SKILL.md").write_text(text)
            async with SpokeNode(tmp_path, toml=toml, env=environment) as node:
                hub = HubPeer()
                hub.register(node)
                yield AgentRig(node, hub, api, origin)

    return make
