"""`hub freeze` and `hub thaw`: one spoke, or all; what went wrong at one spoke keeps no other from being frozen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from common.command_line import complain, print_json
from hub.cli.completion import complete_spokes
from hub.cli.frame import check_spoke, confirmed, node_options
from hub.cli.output import invocation, show_text

if TYPE_CHECKING:
    from hub.answers import Freeze
    from hub.client import HubClient

    _Act = Callable[[HubClient, str], Awaitable[Freeze]]


def _chosen(spoke: str | None, everywhere: bool) -> None:
    if (spoke is None) == (not everywhere):
        raise click.UsageError("name a SPOKE, or say --all")


@click.command()
@click.argument("spoke", metavar="[SPOKE]", required=False, callback=check_spoke, shell_complete=complete_spokes)
@click.option("--all", "everywhere", is_flag=True, help="Every active spoke.")
@click.option("--kill", "kills", is_flag=True, help="Also end all agents of this hub there.")
@click.option("--reason", help="Why, for the record.")
@click.option("--yes", is_flag=True, help="With --all --kill: do not ask.")
@node_options
def freeze(spoke: str | None, everywhere: bool, kills: bool, reason: str | None, yes: bool) -> None:
    """Have a spoke refuse this hub's spawns until `hub thaw`; what waits there waits on, what runs goes on."""
    _chosen(spoke, everywhere)
    if everywhere and kills and not confirmed("End every agent of this hub on every spoke?", yes=yes):
        raise click.Abort
    _do(spoke, lambda hub, each: hub.freeze(each, kill_agents=kills, reason=reason))


@click.command()
@click.argument("spoke", metavar="[SPOKE]", required=False, callback=check_spoke, shell_complete=complete_spokes)
@click.option("--all", "everywhere", is_flag=True, help="Every active spoke.")
@node_options
def thaw(spoke: str | None, everywhere: bool) -> None:
    """Have a spoke take this hub's spawns again, and start what waits."""
    _chosen(spoke, everywhere)
    _do(spoke, lambda hub, each: hub.thaw(each))


def _do(spoke: str | None, act: _Act) -> None:
    from hub.cli.local import ask

    outcomes = ask(_act_on(spoke, act))
    if invocation().as_json:
        print_json(outcomes)
    refused = [each for each in outcomes if "error" in each]
    for each in outcomes:
        if "error" in each:
            complain(each["error"]["code"], f"{each['spoke']}: {each['error']['detail']}")
        elif not invocation().as_json:
            click.echo(f"{show_text(each['spoke'])}: {each['freeze']['asked']} {each['freeze']['state']}")
    if refused:
        click.get_current_context().exit(1)


async def _act_on(spoke: str | None, act: _Act) -> list[dict[str, Any]]:
    from hub.cli.local import client

    async with client() as hub:
        if spoke is not None:
            return [{"spoke": spoke, "freeze": await act(hub, spoke)}]
        spokes = [view["id"] for view in await hub.peers() if view["kind"] == "spoke" and view["state"] == "active"]
        return [await _outcome(hub, each, act) for each in spokes]


async def _outcome(hub: HubClient, spoke: str, act: _Act) -> dict[str, Any]:
    from hub.client import Refused

    try:
        return {"spoke": spoke, "freeze": await act(hub, spoke)}
    except Refused as error:
        return {"spoke": spoke, "error": {"code": error.code, "detail": error.message}}
