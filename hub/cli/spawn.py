"""`hub spawn`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from common.command_line import print_json
from hub.cli.completion import complete_spokes
from hub.cli.frame import node_options
from hub.cli.output import invocation

if TYPE_CHECKING:
    from hub.answers import Agent
    from hub.work import Work


@click.command()
@click.argument("spoke", metavar="[SPOKE]", required=False, shell_complete=complete_spokes)
@click.option("--all", "everywhere", is_flag=True, help="One agent on every active spoke.")
@click.option("--label", "labels", metavar="KEY=VALUE", multiple=True,
              help="One on every active spoke with this label, or --count on those; may be repeated.")  # fmt: skip
@click.option("--count", type=click.IntRange(1, 1000), help="So many, where there is least to do.")
@click.option("--type", "agent_type", type=click.Choice(["worker", "reviewer", "tester"]), default="worker",
              show_default=True, help="What kind of agent.")  # fmt: skip
@click.option("--repo", required=True, help="https://, ssh://, user@host:path or file://.")
@click.option("--branch", default="main", show_default=True, help="Where the agent begins.")
@click.option("--item", "items", metavar="TEXT", multiple=True, required=True, help="What to do; may be repeated.")
@click.option("--skill", "skills", metavar="S", multiple=True, help="A skill the agent gets; may be repeated.")
@click.option("--task", metavar="ID", help="Your name for the task; default: the agent's id.")
@click.option("--priority", type=click.IntRange(1, 10), default=5, show_default=True, help="1 is first.")
@click.option("--timeout-s", type=click.IntRange(1, 86_400), default=3600, show_default=True, help="For one attempt.")
@click.option("--max-attempts", type=click.IntRange(1, 10), default=3, show_default=True,
              help="Starts after faults of the infrastructure.")  # fmt: skip
@click.option("--deadline-s", type=click.IntRange(min=1), help="Give up if the spoke has not answered by then.")
@click.option("--agent-id", metavar="UUID", help="Choose the id; the same request again is then harmless.")
@click.option("--wait", is_flag=True, help="Show progress until the end; exit by the outcome.")
@click.option("--follow", is_flag=True, help="Print the log until the end; exit by the outcome.")
@node_options
def spawn(wait: bool, follow: bool, **options: Any) -> None:
    """Start an agent on SPOKE, or on many spokes; prints its id as soon as it cannot be lost any more."""
    from hub.cli.agents import finish
    from hub.cli.local import ask

    if options["everywhere"] or options["labels"] or options["count"] is not None:
        _check_many(options, follow=follow)
        _spawn_many(options, wait=wait)
        return
    if options["spoke"] is None:
        raise click.UsageError("name a SPOKE; or say --all, --label or --count")
    ended = ask(_spawn(options, wait=wait, follow=follow))
    if ended is not None:
        finish(ended)


def _check_many(options: dict[str, Any], *, follow: bool) -> None:
    if options["spoke"] is not None and (options["everywhere"] or options["labels"]):
        raise click.UsageError("name a SPOKE, or choose spokes by --all or --label")
    if options["everywhere"] and options["count"] is not None:
        raise click.UsageError("--all is one agent on every spoke; --count alone chooses among all")
    if follow or options["agent_id"] is not None:
        raise click.UsageError("--follow and --agent-id are for one agent")


def _spawn_many(options: dict[str, Any], *, wait: bool) -> None:
    from hub.cli.local import ask
    from hub.cli.placing import place

    where = {
        "spoke": options["spoke"],
        "labels": dict(map(_label, options["labels"])),
        "count": options["count"],
        "deadline_s": options["deadline_s"],
    }
    if not ask(place(_work(options), wait=wait, **where)):
        click.get_current_context().exit(1)


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.UsageError("a label is KEY=VALUE")
    return name, value


def _work(options: dict[str, Any]) -> Work:
    from hub.work import Work

    return Work(
        repository=options["repo"],
        work_items=options["items"],
        branch=options["branch"],
        skills=options["skills"],
        agent_type=options["agent_type"],
        task_id=options["task"],
        priority=options["priority"],
        timeout_s=options["timeout_s"],
        max_attempts=options["max_attempts"],
    )


async def _spawn(options: dict[str, Any], *, wait: bool, follow: bool) -> Agent | None:
    from hub.cli.following import wait_and_follow, wait_for
    from hub.cli.local import client

    async with client() as hub:
        chosen = {"agent_id": options["agent_id"], "deadline_s": options["deadline_s"]}
        answer = await hub.spawn(options["spoke"], _work(options), **chosen)
        if invocation().as_json:
            print_json(answer)
        else:
            click.echo(answer["agentId"])
        if follow:
            return await wait_and_follow(hub, answer["agentId"])
        return await wait_for(hub, answer["agentId"]) if wait else None
