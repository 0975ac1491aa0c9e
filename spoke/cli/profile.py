"""`spoke profile`: how agent programs are run, and whether one works here."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any, Final

import click

from common.interruptible import run_async
from spoke.cli.context import SpokeContext, facts

if TYPE_CHECKING:
    from common.agent_state import AgentType
    from spoke.profiles import AgentConfig, Shelf

_DEFAULT_ITEM: Final = "Say in one sentence what this repository holds. Change nothing."


@click.group()
def profile() -> None:
    """How agent programs are run on this machine."""


@profile.command("list")
@facts
def list_profiles(context: SpokeContext) -> None:
    """List all profiles: what they run, whether it is installed, and which agent types use them."""
    rows = list(_rows(context))
    context.out.table(
        rows,
        {
            "PROFILE": lambda row: row["profile"],
            "USED BY": lambda row: row["agentType"] or "-",
            "COMMAND": lambda row: " ".join(row["command"]) or "(yours)",
            "FOUND": lambda row: {True: "yes", False: "no", None: "-"}[row["found"]],
            "SANDBOX": lambda row: row["sandbox"] or "-",
        },
    )


def _rows(context: SpokeContext) -> Any:
    from common.agent_state import AGENT_TYPES
    from spoke.profiles import AgentConfig, Shelf

    configured, shelf = context.settings().agents, Shelf(context.directory.path)
    for name in shelf.names():
        users = [each for each in AGENT_TYPES if configured.get(each, AgentConfig()).profile == name]
        for agent_type in users:
            config = configured.get(agent_type, AgentConfig())
            yield _row(name, agent_type, shelf.resolve(config, agent_type).command, config.sandbox)
        if not users:
            yield _row(name, None, shelf.get(name).command, None)


def _row(name: str, agent_type: str | None, command: list[str], sandbox: str | None) -> dict[str, Any]:
    found = shutil.which(command[0]) is not None if command else None
    return {"profile": name, "agentType": agent_type, "command": command, "found": found, "sandbox": sandbox}


@profile.command("show")
@click.argument("name", metavar="NAME")
@facts
def show_profile(context: SpokeContext, name: str) -> None:
    """Show the whole profile NAME as agents get it, and for each agent type that uses it what is configured there."""
    from common.agent_state import AGENT_TYPES
    from spoke.profiles import AgentConfig, Shelf

    shelf = Shelf(context.directory.path)
    _check_name(shelf, name)
    configured = context.settings().agents
    used = {
        agent_type: shelf.resolve(configured.get(agent_type, AgentConfig()), agent_type).arguments[agent_type]
        for agent_type in AGENT_TYPES
        if configured.get(agent_type, AgentConfig()).profile == name
    }
    whole = shelf.get(name)
    shown = whole.model_dump(mode="json")
    given = {member: value for member, value in shown.items() if value not in (None, "", [], {}, False)}
    context.out.facts({**given, "arguments": {**shown["arguments"], **used}, "used_by": list(used)})


@profile.command("test")
@click.argument("name", metavar="NAME")
@click.option("--type", "agent_type", type=click.Choice(["worker", "reviewer", "tester"]), help="Whose configuration.")
@click.option("--item", "items", multiple=True, metavar="TEXT", help="A work item; may be repeated.")
@click.option("--timeout", "timeout_s", type=click.IntRange(1, 86_400), default=120, show_default=True, metavar="S")
@facts
def test_profile(
    context: SpokeContext, name: str, agent_type: AgentType | None, items: tuple[str, ...], timeout_s: int
) -> None:
    """Run the profile NAME on a scratch repository as a real agent would be run, and say what came of it."""
    from spoke.trial import Trial

    chosen, config = _configured(context, name, agent_type)
    trial = Trial(context.directory.path, chosen, config, items or (_DEFAULT_ITEM,), timeout_s, os.environ)
    outcome = run_async(trial.run())
    context.out.facts({"profile": name, "agentType": chosen, **outcome})
    if outcome["status"] != "completed":
        click.get_current_context().exit(1)


def _check_name(shelf: Shelf, name: str) -> None:
    from common.errors import LocalError

    if name not in shelf.names():
        raise LocalError(f"there is no profile {name}; known are {', '.join(shelf.names())}", code="not_found")


def _configured(context: SpokeContext, name: str, wanted: AgentType | None) -> tuple[AgentType, AgentConfig]:
    """Return an agent type that uses the profile, and its configuration; else the profile as it comes."""
    from common.agent_state import AGENT_TYPES
    from common.errors import LocalError
    from spoke.profiles import AgentConfig, Shelf

    shelf = Shelf(context.directory.path)
    _check_name(shelf, name)
    configured = context.settings().agents
    for agent_type in AGENT_TYPES if wanted is None else (wanted,):
        config = configured.get(agent_type, AgentConfig())
        if config.profile == name:
            return agent_type, config
    if shelf.get(name).takes_command:
        raise LocalError(f"profile {name} has no command: set one in [agents.TYPE] of spoke.toml", code="config")
    return wanted or "worker", AgentConfig(profile=name)
