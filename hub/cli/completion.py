"""`hub completion SHELL`, and what is completed beside commands and options: the ids of agents and spokes.

The ids come from the running hub; where none answers, or not at once, nothing is offered and nothing is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

import click

from common.command_line import SHELLS, completion_script

if TYPE_CHECKING:
    from hub.client import HubClient

_PATIENCE_S: Final = 2.0
_MOST: Final = 50


def complete_agents(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Return the newest agents whose ids begin so."""

    async def find(hub: HubClient) -> list[str]:
        return [agent["agentId"] for agent in (await hub.agents(limit=_MOST))["agents"]]

    return _offered(context, find, begun)


def complete_spokes(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Return the spokes whose ids begin so."""

    async def find(hub: HubClient) -> list[str]:
        return [peer["id"] for peer in await hub.peers()]

    return _offered(context, find, begun)


def _offered(
    context: click.Context, find: Callable[[HubClient], Coroutine[Any, Any, list[str]]], begun: str
) -> list[str]:
    from hub.cli.local import client

    async def ask() -> list[str]:
        async with asyncio.timeout(_PATIENCE_S), client() as hub:
            return await find(hub)

    try:
        with context:
            return [name for name in asyncio.run(ask()) if name.startswith(begun)]
    except Exception:  # amid a line that somebody types there is no place for an error
        return []


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands, options and ids: eval "$(hub completion bash)"."""
    click.echo(completion_script("hub", shell))
