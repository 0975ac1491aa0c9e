"""`hub status`, `list`, `logs`, `wait`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from common.command_line import print_facts, print_json, print_table
from hub.cli.completion import complete_agents
from hub.cli.frame import node_options
from hub.cli.output import invocation, show_text, show_time
from hub.cli.result import print_result

if TYPE_CHECKING:
    from hub.answers import Agent, AgentPage


def check_agent_id(_context: click.Context, _parameter: click.Parameter, agent_id: str | None) -> str | None:
    """Refuse what is no agent's id."""
    from common.ids import is_uuid7

    if agent_id is not None and not is_uuid7(agent_id):
        # It becomes part of a path: `../peers` would ask for something else.
        raise click.BadParameter("an agent's id is a UUIDv7 in lower case; see hub list")
    return agent_id


agent_argument = click.argument("agent_id", metavar="AGENT", callback=check_agent_id, shell_complete=complete_agents)


@click.command()
@agent_argument
@click.option("--live", is_flag=True, help="Ask the spoke first.")
@node_options
def status(agent_id: str, live: bool) -> None:
    """Show one agent."""
    from hub.cli.local import ask, client

    async def find() -> Agent:
        async with client() as hub:
            return await hub.agent(agent_id, live=live)

    print_agent(ask(find()))


@click.command()
@click.option("--spoke", default="", help="Only agents of this spoke.")
@click.option("--status", default="", help="Only agents in this state; also pending, refused, expired.")
@click.option("--task", "task_id", default="", help="Only agents of this task.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000), help="At most so many.")
@click.option("--cursor", default="", help="Where the page before ended.")
@node_options
def list_agents(**query: Any) -> None:
    """List agents, newest first."""
    from hub.answers import shown
    from hub.cli.local import ask, client

    async def find() -> AgentPage:
        async with client() as hub:
            return await hub.agents(**query)

    page = ask(find())
    if invocation().as_json:
        print_json(page)
        return
    rows = [
        [
            agent["agentId"],
            show_text(agent["spoke"]),
            show_text(agent["taskId"]),
            agent["agentType"],
            shown(agent),
            show_text(agent["reason"]),
            show_time(agent["createdAt"]),
        ]
        for agent in page["agents"]
    ]
    print_table(["AGENT", "SPOKE", "TASK", "TYPE", "STATUS", "REASON", "CREATED"], rows)
    if page["cursor"]:
        click.echo(f"more: --cursor {page['cursor']}", err=True)


@click.command()
@agent_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the agent has ended.")
@click.option("--raw", is_flag=True, help="As the agent printed it, control characters too; for files and programs.")
@node_options
def logs(agent_id: str, follow: bool, raw: bool) -> None:
    """Print an agent's log."""
    from hub.cli.following import print_log
    from hub.cli.local import ask, client

    async def read() -> None:
        async with client() as hub:
            await print_log(hub, agent_id, follow=follow, raw=raw)

    ask(read())


@click.command()
@agent_argument
@node_options
def wait(agent_id: str) -> None:
    """Wait until an agent has ended; exit 0 when it completed, else 1."""
    from hub.cli.following import wait_for
    from hub.cli.local import ask, client

    async def follow() -> Agent:
        async with client() as hub:
            return await wait_for(hub, agent_id)

    finish(ask(follow()))


def finish(agent: Agent) -> None:
    """Print an agent that has ended, and raise `AgentEnded` unless it completed."""
    from hub.cli.following import check_completed

    print_agent(agent)
    check_completed(agent)


def print_agent(agent: Agent) -> None:
    """Print one agent."""
    if invocation().as_json:
        print_json(agent)
        return
    facts = _facts(agent)
    print_facts({name: value for name, value in facts.items() if value != "-"})
    print_result(agent["result"])


def _facts(agent: Agent) -> dict[str, str]:
    from hub.answers import shown

    context, delivery, kill_state = agent["context"] or {}, agent["delivery"], agent["kill"]
    error = delivery["lastError"]
    place = agent["queue"] and f"position {agent['queue']['position']}, waiting for {agent['queue']['waitingFor']}"
    return {
        "agent": agent["agentId"],
        "status": shown(agent),
        "reason": show_text(agent["reason"]),
        "spoke": show_text(agent["spoke"]),
        "task": show_text(agent["taskId"]),
        "type": agent["agentType"],
        "repository": show_text(context.get("repository")),
        "branch": show_text(context.get("branch")),
        "attempt": show_text(agent["attempt"] or None),
        "queue": show_text(place),
        "created": show_time(agent["createdAt"]),
        "started": show_time(agent["startedAt"]),
        "finished": show_time(agent["finishedAt"]),
        "exit code": show_text(agent["exitCode"]),
        "signal": show_text(agent["signal"]),
        "delivery": f"{delivery['state']}, {delivery['attempts']} attempts",
        "last error": "-" if error is None else show_text(f"{error['code']}: {error['detail']}"),
        "kill": "-" if kill_state is None else kill_state["state"],
        "receipt": _receipt(agent["receipt"]),
    }


def _receipt(receipt: dict[str, Any] | None) -> str:
    """Return what was sent to end an agent, and what of it was left."""
    if receipt is None:
        return "-"
    sent = ", ".join(f"{each['signal']} at {each['at']}" for each in receipt["signals"])
    return show_text(f"{sent or 'no signal'}; {receipt['survivors']} survivors")
