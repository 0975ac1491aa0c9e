"""Watching one agent from the command line: progress on stderr, the log on stdout, over restarts of the hub."""

from __future__ import annotations

import sys
from typing import Final

import click

from common.agent_output import Rendering
from common.errors import HubspokeError
from common.logs import escape
from hub.answers import Agent, shown
from hub.cli.output import show_text
from hub.client import HubClient, Refused

_SPOKE_KNOWS: Final = frozenset({"workspace_failed", "spawn_failed", "attempts_exhausted", "lost", "tampered"})
"""Reasons whose details a spoke keeps to itself: they may tell of its machine."""


class AgentEnded(HubspokeError):
    """An agent ended otherwise than `completed`; its state is the code."""

    def __init__(self, agent: Agent) -> None:
        error = agent["delivery"]["lastError"]
        reason = agent["reason"] or ("no reason" if error is None else f"{error['code']}: {error['detail']}")
        told = f"; its spoke's operator sees why: spoke agent show {agent['agentId']}" if reason in _SPOKE_KNOWS else ""
        super().__init__(f"agent {agent['agentId']}: {reason}{told}", code=shown(agent))


def check_completed(agent: Agent) -> None:
    """Raise `AgentEnded` unless the agent completed."""
    if shown(agent) != "completed":
        raise AgentEnded(agent)


async def wait_for(hub: HubClient, agent_id: str) -> Agent:
    """Return the agent once it has ended; writes each change of its state to stderr."""
    said = ""
    async for agent in hub.watch(agent_id):
        if shown(agent) != said:
            said = shown(agent)
            click.echo(f"{agent_id} {said}", err=True)
    return agent


async def print_log(hub: HubClient, agent_id: str, *, follow: bool, raw: bool = False) -> None:
    """Print the log from its beginning, with `follow` until the agent has ended; rendered for people unless `raw`."""
    rendering = Rendering()
    async for piece in hub.logs(agent_id, follow=follow):
        write(piece if raw else rendering.feed(piece.encode()), raw=raw)
    write(rendering.flush(), raw=raw)


def write(text: str, *, raw: bool) -> None:
    """Print a piece of what an agent wrote, escaped unless `raw`."""
    sys.stdout.write(text if raw else _escape_log(text))
    sys.stdout.flush()


def _escape_log(text: str) -> str:
    """Keep lines and tabs; what would steer a terminal is shown instead (attack row 56)."""
    return "\n".join("\t".join(map(escape, line.split("\t"))) for line in text.split("\n"))


async def wait_and_follow(hub: HubClient, agent_id: str) -> Agent:
    """Print the log while it grows and return the agent once it has ended."""
    try:
        await print_log(hub, agent_id, follow=True)
    except Refused as error:
        click.echo(f"the log cannot be followed: {show_text(error.message)}", err=True)
    return await wait_for(hub, agent_id)
