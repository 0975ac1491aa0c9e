"""`hub kill`: one agent, or all of a task, of a spoke, or of the hub that have not ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from common.command_line import complain, print_json
from hub.cli.agents import check_agent_id
from hub.cli.completion import complete_agents, complete_spokes
from hub.cli.frame import check_spoke, confirmed, node_options
from hub.cli.output import invocation, show_text

if TYPE_CHECKING:
    from hub.answers import KillAsked, KilledMany


@click.command()
@click.argument("agent_id", metavar="[AGENT]", required=False, callback=check_agent_id, shell_complete=complete_agents)
@click.option("--task", help="All agents of this task that have not ended.")
@click.option(
    "--spoke",
    callback=check_spoke,
    shell_complete=complete_spokes,
    help="All agents of this spoke that have not ended.",
)
@click.option("--all", "everything", is_flag=True, help="All agents of this hub that have not ended.")
@click.option("--yes", is_flag=True, help="With --all: do not ask.")
@click.option("--grace", "grace_s", type=click.IntRange(0, 300), help="Seconds between SIGTERM and SIGKILL.")
@click.option("--reason", help="Why, for the agent's record.")
@node_options
def kill(agent_id: str | None, everything: bool, yes: bool, grace_s: int | None, **options: Any) -> None:
    """Stop AGENT, or all agents that fit; an agent that has ended is left as it is."""
    selector = {"task_id": options["task"], "spoke": options["spoke"], "everything": everything}
    selected = [each for each in selector.values() if each]
    if bool(selected) == (agent_id is not None) or (everything and len(selected) > 1):
        raise click.UsageError("name an AGENT; or --task, --spoke or both; or say --all")
    if agent_id is not None:
        _kill_one(agent_id, grace_s, options["reason"])
        return
    if everything and not confirmed("Stop every agent on every spoke?", yes=yes):
        raise click.Abort
    _kill_many({**selector, "grace_s": grace_s, "reason": options["reason"]})


def _kill_one(agent_id: str, grace_s: int | None, reason: str | None) -> None:
    from hub.cli.local import ask, client

    async def stop() -> KillAsked:
        async with client() as hub:
            return await hub.kill(agent_id, grace_s=grace_s, reason=reason)

    answer = ask(stop())
    if invocation().as_json:
        print_json(answer)
    elif answer["commandId"] is None:
        click.echo(f"{agent_id} has ended before: {show_text(answer['status'])}")
    else:
        click.echo(f"{agent_id} will be stopped; see hub wait {agent_id}")


def _kill_many(request: dict[str, Any]) -> None:
    from hub.cli.local import ask, client

    async def stop() -> KilledMany:
        async with client() as hub:
            return await hub.kill_many(**request)

    answer = ask(stop())
    if invocation().as_json:
        print_json(answer)
    for each in answer["agents"]:
        if "error" in each:
            named = f"{each['agentId']} on {each['spoke']}"
            complain(each["error"]["code"], f"{named}: {each['error']['detail']}")
        elif not invocation().as_json:
            click.echo(f"{each['agentId']} {show_text(each['spoke'])}")
    if not invocation().as_json:
        click.echo(f"{answer['accepted']} will be stopped, {answer['refused']} refused", err=True)
    if answer["refused"]:
        click.get_current_context().exit(1)
