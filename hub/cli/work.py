"""`hub diff`, `hub send` and `hub resume`: what an agent made, telling it more, and having it go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from common.command_line import print_facts, print_json
from hub.cli.agents import agent_argument
from hub.cli.frame import node_options
from hub.cli.output import invocation

if TYPE_CHECKING:
    from hub.answers import Resumed, Sent


@click.command()
@agent_argument
@click.option("--raw", is_flag=True, help="Control characters as they are: for git apply, not for a terminal.")
@node_options
def diff(agent_id: str, raw: bool) -> None:
    """Print what an agent changed so far, as a git patch from where it began."""
    import sys

    from hub.cli.following import write
    from hub.cli.local import ask, client

    async def read() -> None:
        async with client() as hub:
            async for piece in hub.diff(agent_id):
                # What goes into a file is for git, which needs every byte.
                write(piece, raw=raw or not sys.stdout.isatty())

    ask(read())


@click.command()
@agent_argument
@click.argument("text", metavar="TEXT")
@click.option("--id", "command_id", metavar="UUID", help="Of your own, so that it may be sent again (a UUIDv7).")
@node_options
def send(agent_id: str, text: str, command_id: str | None) -> None:
    """Give a running agent a message, where its program takes any."""
    from hub.cli.local import ask, client

    async def tell() -> Sent:
        async with client() as hub:
            return await hub.send(agent_id, text, command_id=command_id)

    sent = ask(tell())
    if invocation().as_json:
        print_json(sent)
    else:
        print_facts({"agent": sent["agentId"], "message": sent["commandId"]})


@click.command()
@agent_argument
@click.argument("text", metavar="[TEXT]", required=False)
@click.option("--id", "command_id", metavar="UUID", help="Of your own, so that it may be asked again (a UUIDv7).")
@node_options
def resume(agent_id: str, text: str | None, command_id: str | None) -> None:
    """Have an agent that has ended go on: in the same workspace and, where its program has one, session."""
    from hub.cli.local import ask, client

    async def go_on() -> Resumed:
        async with client() as hub:
            return await hub.resume(agent_id, text, command_id=command_id)

    resumed = ask(go_on())
    if invocation().as_json:
        print_json(resumed)
    else:
        print_facts({"agent": resumed["agentId"], "status": resumed["status"], "resume": resumed["commandId"]})
