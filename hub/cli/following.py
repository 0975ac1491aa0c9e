"""Watching one agent from the command line: progress on stderr, the log on stdout, over restarts of the hub."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

import click

from common.errors import HubspokeError
from common.logs import escape
from hub.cli.output import show_text
from hub.client import HubClient, NodeUnreachable, Refused, shown
from hub.records import ENDED

_POLL_S: Final = 0.5
_PATIENCE: Final = 20
"""So many failures in a row are waited out: a hub that restarts, a spoke that is away for a moment."""
_AWAY: Final = frozenset({"unreachable", "unavailable", "bad_reply"})
_SPOKE_KNOWS: Final = frozenset({"workspace_failed", "spawn_failed", "attempts_exhausted", "lost", "tampered"})
"""Reasons whose details a spoke keeps to itself: they may tell of its machine."""


class AgentEnded(HubspokeError):
    """An agent ended otherwise than `completed`; its state is the code."""

    def __init__(self, agent: dict[str, Any]) -> None:
        error = agent["delivery"]["lastError"] or {}
        reason = agent["reason"] or f"{error.get('code', 'no reason')}: {error.get('detail', '')}".rstrip(": ")
        told = f"; its spoke's operator sees why: spoke agent show {agent['agentId']}" if reason in _SPOKE_KNOWS else ""
        super().__init__(f"agent {agent['agentId']}: {reason}{told}", code=shown(agent))


def check_completed(agent: dict[str, Any]) -> None:
    """Raise `AgentEnded` unless the agent completed."""
    if shown(agent) != "completed":
        raise AgentEnded(agent)


async def wait_for(hub: HubClient, agent_id: str) -> dict[str, Any]:
    """Return the agent once it has ended; writes each change of its state to stderr."""
    said, failures = "", 0
    while True:
        try:
            async for agent in hub.changes(agent_id):
                failures = 0
                if shown(agent) != said:
                    said = shown(agent)
                    click.echo(f"{agent_id} {said}", err=True)
                if said in ENDED:
                    return agent
        except NodeUnreachable:
            failures += 1
            if failures > _PATIENCE:
                raise
            await asyncio.sleep(_POLL_S)


async def print_log(hub: HubClient, agent_id: str, *, follow: bool, raw: bool = False) -> None:
    """Print the log from its beginning, with `follow` until the agent has ended."""
    offset, failures = 0, 0
    ended = not follow
    while True:
        try:
            piece = await hub.log(agent_id, offset)
            failures = 0
        except (NodeUnreachable, Refused) as error:
            failures += 1
            if not follow or failures > _PATIENCE or (isinstance(error, Refused) and error.code not in _AWAY):
                raise
            await asyncio.sleep(_POLL_S)
            continue
        _write(piece["data"], raw=raw)
        progressed = piece["nextOffset"] > offset
        offset = piece["nextOffset"]
        if progressed:
            continue
        if ended:
            return
        # Asked before the last look at the log: what was written up to the end is printed.
        ended = shown(await hub.agent(agent_id)) in ENDED
        if not ended:
            await asyncio.sleep(_POLL_S)


def _write(text: str, *, raw: bool) -> None:
    sys.stdout.write(text if raw else _escape_log(text))
    sys.stdout.flush()


def _escape_log(text: str) -> str:
    """Keep lines and tabs; what would steer a terminal is shown instead (attack row 56)."""
    return "\n".join("\t".join(map(escape, line.split("\t"))) for line in text.split("\n"))


async def wait_and_follow(hub: HubClient, agent_id: str) -> dict[str, Any]:
    """Print the log while it grows and return the agent once it has ended."""
    try:
        await print_log(hub, agent_id, follow=True)
    except Refused as error:
        click.echo(f"the log cannot be followed: {show_text(error.message)}", err=True)
    return await wait_for(hub, agent_id)
