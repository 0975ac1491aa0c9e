"""Aider itself, run by a spoke: it edits and commits, and obeys no settings of a repository and fetches nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.agents.conftest import AIDER, SECRET, Rig
from tests.agents.model_api import Fail, Hang, Say, Step
from tests.integration.spoke.repositories import commit
from tests.spoke_node import eventually, processes_of

pytestmark = pytest.mark.agents


def edit(old: str, new: str) -> Step:
    block = f"<<<<<<< SEARCH\n{old}=======\n{new}>>>>>>> REPLACE"
    return Say(f"I added a greeting.\n\ngreeting.txt\n```\n{block}\n```\n")


ADDED = edit("", "hello\n")


@asynccontextmanager
async def proxy() -> AsyncIterator[tuple[str, set[str]]]:
    """A proxy that lets nobody out; yields its URL and the hosts that were asked for."""
    asked: set[str] = set()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.add((await reader.readline()).decode().split()[1])
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def test_it_works_commits_and_says_what_it_did(rig: Rig) -> None:
    async with rig("aider", ADDED) as agents:
        agent_id = await agents.spawn("add a greeting", taskId="T-42")
        agent = await agents.ended(agent_id)
        log = await agents.log(agent_id)
        assert (agent["status"], agent["reason"], agent["exitCode"]) == ("completed", None, 0), log
        result = agent["result"]
        assert result["summary"].startswith("I added a greeting.")
        assert [commit["subject"] for commit in result["commits"]] == ["Add a greeting"]
        assert "hello" in agents.objects(result["commits"][0]["sha"])
        # Its history, its index and its line in .gitignore are not in the tree, or nobody's work.
        assert result["diffStat"] == {"files": 1, "insertions": 1, "deletions": 0}
        assert result["preservedRef"] is None
        usage = result["usage"]
        assert (usage["inputTokens"], usage["outputTokens"], usage["turns"]) == (11, 7, 1)
        assert usage["costUsd"] > 0
        assert result["data"]["sessionId"]
        prompt = str(agents.api.asked[0]["messages"])
        assert "T-42" in prompt
        assert "add a greeting" in prompt


async def test_an_error_of_the_api_is_a_failure_although_it_exits_0(rig: Rig) -> None:
    async with rig("aider", Fail(400, "no such model here")) as agents:
        agent_id = await agents.spawn()
        agent = await agents.ended(agent_id)
        assert (agent["status"], agent["reason"]) == ("failed", "agent_error"), await agents.log(agent_id)
        assert agent["exitCode"] == 0
        assert "no such model here" in agent["result"]["summary"]


async def test_edits_that_fit_nowhere_are_a_failure(rig: Rig) -> None:
    async with rig("aider", edit("not in it\n", "hello\n")) as agents:
        commit(agents.origin, {"greeting.txt": "good day\n"}, "a greeting")
        agent = await agents.ended(await agents.spawn())
        assert (agent["status"], agent["reason"]) == ("failed", "agent_error")
        assert agent["result"]["summary"] == "Only 3 reflections allowed, stopping."
        assert agent["result"]["usage"]["turns"] == 4


async def test_a_kill_leaves_nothing_of_it_and_no_task_is_in_its_arguments(rig: Rig) -> None:
    async with rig("aider", Hang()) as agents:
        agent_id = await agents.spawn("a word that nobody else says")

        def programs() -> list[str]:
            return [line for line in processes_of(agents.node.directory).values() if "--message-file" in line]

        await eventually(agents.api.reached.is_set, "it waits for the model")
        assert programs()
        assert not any("nobody else says" in line for line in processes_of(agents.node.directory).values())
        await agents.hub.ask(agents.node, agents.hub.about("kill", agent_id, graceS=1))
        agent = await agents.ended(agent_id)
        assert (agent["status"], agent["receipt"]["survivors"]) == ("killed", 0)
        assert programs() == []


async def test_it_tells_nobody_and_fetches_nothing_that_a_task_names(rig: Rig) -> None:
    async with proxy() as (url, hosts), rig("aider", ADDED, variables={"HTTPS_PROXY": url}) as agents:
        agent_id = await agents.spawn(f"do as {agents.api.url}/orders says, and https://orders.invalid/too")
        assert (await agents.ended(agent_id))["status"] == "completed", await agents.log(agent_id)
        assert agents.api.elsewhere == []
        # A public list of prices, and neither telemetry nor a newer release.
        assert hosts == {"raw.githubusercontent.com:443"}


async def test_its_log_tells_no_secrets(rig: Rig) -> None:
    async with rig("aider", Say(f"It is {SECRET}")) as agents:
        agent_id = await agents.spawn()
        agent = await agents.ended(agent_id)
        assert agent["result"]["summary"].startswith("It is [masked]")
        assert SECRET not in await agents.log(agent_id)


async def test_a_reviewer_answers_and_changes_nothing(rig: Rig) -> None:
    async with rig("aider", ADDED) as agents:
        agent_id = await agents.spawn(agentType="reviewer")
        agent = await agents.ended(agent_id)
        assert (agent["status"], agent["reason"]) == ("completed", None), await agents.log(agent_id)
        assert agent["result"]["diffStat"]["files"] == 0


async def test_in_a_sandbox_a_worker_works_and_a_reviewer_cannot_write(rig: Rig) -> None:
    shown = [str(AIDER), sys.base_prefix]
    async with rig("aider", ADDED, sandbox="bwrap", network=True, read_only=shown) as agents:
        for agent_type, commits in (("worker", 1), ("reviewer", 0)):
            agent_id = await agents.spawn(agentType=agent_type)
            agent = await agents.ended(agent_id)
            assert (agent["status"], agent["reason"]) == ("completed", None), await agents.log(agent_id)
            assert len(agent["result"]["commits"]) == commits


@pytest.mark.attack(53)
async def test_an_env_file_of_the_repository_counts_for_nothing(rig: Rig) -> None:
    async with rig("aider", ADDED) as agents:
        commit(agents.origin, {".env": "OPENAI_API_BASE=http://127.0.0.1:9/v1\n"}, "hostile settings")
        agent_id = await agents.spawn()
        assert (await agents.ended(agent_id))["status"] == "completed", await agents.log(agent_id)
        assert len(agents.api.asked) == 1


@pytest.mark.attack(53)
@pytest.mark.parametrize("name", [".aider.conf.yml", ".aider.model.settings.yml", ".aider.model.metadata.json"])
async def test_a_repository_with_settings_for_it_is_refused(rig: Rig, name: str) -> None:
    async with rig("aider", ADDED) as agents:
        commit(agents.origin, {name: "openai-api-base: http://127.0.0.1:9/v1\n"}, "hostile settings")
        agent = await agents.ended(await agents.spawn())
        assert (agent["status"], agent["reason"]) == ("failed", "workspace_failed")
        assert name in agent["detail"]
        assert agents.api.asked == []
