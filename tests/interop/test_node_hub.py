"""A hub of a few lines of Node, written from the protocol page, works with our spoke: join, spawn, status, logs, kill.

The spoke is a real `spoke serve`, joined by the real `spoke join`; every signature the hub believes was verified by
npm's jose, and everything it sent was signed by it.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.envelopes import SPOKE_KEY, agent_status, claims, sign
from tests.integration.spoke.repositories import make_repository
from tests.interop.conftest import Node
from tests.spoke_node import SPOKE, SpokeNode, tables

HUB: Final = "hub-node"
GREETING: Final = "grüße from the agent"
RESULT: Final = {"summary": "said hello", "data": {"greetings": 1}}


@dataclass(frozen=True)
class Story:
    """What the hub printed, the kid of the spoke, and what a stranger's event got from the hub."""

    lines: list[dict[str, Any]]
    kid: str
    stranger: int

    def results(self, command: str) -> list[dict[str, Any]]:
        """Return the results of a command, in order."""
        return [line["result"] for line in self.lines if line.get("command") == command]

    def agents(self) -> list[str]:
        """Return the ids of the agents in the order of their spawns."""
        return [result["id"] for result in self.results("spawn")]

    def statuses(self, agent_id: str) -> list[dict[str, Any]]:
        """Return what the hub was told when it asked for an agent."""
        found = [result["agent"] for result in self.results("status")]
        return [agent for agent in found if agent["agentId"] == agent_id]

    def events(self, agent_id: str) -> list[dict[str, Any]]:
        """Return what the hub was told of an agent without asking."""
        return [line["event"] for line in self.lines if "event" in line and line["event"]["agentId"] == agent_id]


def read_line(hub: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the next line of the hub; a hub that hangs is ended by the test's own time limit."""
    assert hub.stdout is not None
    line = hub.stdout.readline()
    assert line, "the hub ended before its story"
    seen: dict[str, Any] = json.loads(line)
    return seen


def join(spoke: SpokeNode, invite: str) -> None:
    # A port that the system chose is known only now: the spoke tells the hub where it is reached.
    subprocess.run(
        [SPOKE, "--dir", spoke.directory, "join", "-"],
        env={**os.environ, "SPOKE_NODE__URL": spoke.url},
        input=invite,
        text=True,
        check=True,
        capture_output=True,
        timeout=30,
    )


async def kid_of(spoke: SpokeNode) -> str:
    shown = await spoke.spoke("keys", "show", "--json")
    kid: str = json.loads(shown.stdout)["kid"]
    return kid


async def post_as_stranger(url: str) -> int:
    """Post a good EVENT in the spoke's name, signed by a key that is not the spoke's."""
    now_s = int(time.time())
    told = {**claims(iss="build-1", aud=HUB, iat=now_s, exp=now_s + 60), "events": [{"agent": agent_status()}]}
    raw = sign(told, key=SPOKE_KEY, typ="event+jwt")
    headers = {"Content-Type": "application/jose"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/federation/v1/envelopes", data=raw, headers=headers) as response,
    ):
        return response.status


async def tell(tmp_path: Path, node: Node) -> Story:
    repository = make_repository(tmp_path / "repository")
    short = [f"print {GREETING}", f"result {json.dumps(RESULT)}"]
    hub = node("hub.mjs", repository.as_uri(), "main", json.dumps(short), json.dumps(["sleep 60"]))
    started = read_line(hub)
    # This hub serves no links, and would tell of each attempt.
    env = {"SPOKE_NODE__LINK": "never"}
    async with SpokeNode(tmp_path, toml=tables(policy={"repositories": [f"{tmp_path.as_uri()}/**"]}), env=env) as spoke:
        join(spoke, started["invite"])
        lines = []
        while (line := read_line(hub)) != {"done": True}:
            lines.append(line)
        stranger = await post_as_stranger(started["url"])
        lines.append(read_line(hub))
        output, _ = hub.communicate(timeout=20)
        assert (output, hub.returncode) == ("", 0)
        return Story(lines, await kid_of(spoke), stranger)


@pytest.mark.slow
async def test_a_hub_made_from_the_protocol_page_runs_and_kills_agents(tmp_path: Path, node: Node) -> None:
    story = await tell(tmp_path, node)
    short, long = story.agents()
    check_signatures(story)
    check_completed(story, short)
    check_killed(story, long)
    check_events(story, short, ["queued", "spawning", "running", "completed"])
    check_events(story, long, ["queued", "spawning", "running", "killed"])


def check_signatures(story: Story) -> None:
    signers = {line["kid"] for line in story.lines if "event" in line or "command" in line}
    assert signers == {story.kid}
    assert not [line for line in story.lines if "rejected" in line]
    # The one thing the hub refused is what was signed by somebody else.
    assert [line for line in story.lines if "refused" in line] == [
        {"refused": "/federation/v1/envelopes", "error": "ERR_JWS_SIGNATURE_VERIFICATION_FAILED"}
    ]
    assert story.stranger == 400


def check_completed(story: Story, agent_id: str) -> None:
    agent = story.statuses(agent_id)[-1]
    assert (agent["status"], agent["exitCode"], agent["reason"], agent["attempt"]) == ("completed", 0, None, 1)
    assert (agent["result"]["summary"], agent["result"]["data"]) == (RESULT["summary"], RESULT["data"])
    said = f"{GREETING}\n"
    size = len(said.encode())
    assert [result["log"] for result in story.results("logs")] == [
        {"offset": 0, "data": said, "nextOffset": size, "eof": True}
    ]
    assert agent["result"]["logBytes"] == size


def check_killed(story: Story, agent_id: str) -> None:
    agent = story.statuses(agent_id)[-1]
    assert (agent["status"], agent["reason"], agent["signal"]) == ("killed", "killed_by_peer", "SIGTERM")
    assert [signal["signal"] for signal in agent["receipt"]["signals"]] == ["SIGTERM"]
    assert agent["receipt"]["survivors"] == 0


def check_events(story: Story, agent_id: str, statuses: list[str]) -> None:
    events = story.events(agent_id)
    # At least once is the promise; here no answer was lost, so each came once.
    assert [(event["seq"], event["status"]) for event in events] == list(enumerate(statuses, start=1))
    assert events[-1] == story.statuses(agent_id)[-1]
