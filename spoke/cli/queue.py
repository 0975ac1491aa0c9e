"""`spoke queue`, `spoke drain` and `spoke gc`: how much waits, whether anything starts, what is thrown away."""

from __future__ import annotations

import time
from typing import Final

import click

from spoke.cli.context import SpokeContext, current, facts

_POLL_S: Final = 0.5
_SWEEP_TIMEOUT_S: Final = 3600


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@click.pass_context
def queue(context: click.Context, as_json: bool) -> None:
    """Print how many agents wait and how many are being started or run."""
    if context.invoked_subcommand is None:
        shown = current(as_json=as_json)
        shown.out.facts(shown.call("GET", "/queue"))


@queue.command()
@facts
def pause(context: SpokeContext) -> None:
    """Start nothing; spawns are still taken and wait. Holds over restarts, until `resume`."""
    context.out.facts(context.call("POST", "/queue/pause", body={"on": True}))


@queue.command()
@facts
def resume(context: SpokeContext) -> None:
    """Start agents again."""
    context.out.facts(context.call("POST", "/queue/pause", body={"on": False}))


@click.command()
@click.option("--off", is_flag=True, help="Take new agents again.")
@click.option("--wait", "wait_s", type=click.IntRange(0), metavar="SECONDS", help="Wait so long for what runs to end.")
@facts
def drain(context: SpokeContext, off: bool, wait_s: int | None) -> None:
    """Take no new agents: spawns are refused with `draining`, what waits stays, what runs goes on to its end.

    Holds over restarts, until `--off`. With `--wait`, fails when agents still run after so many seconds.
    """
    if off and wait_s is not None:
        raise click.UsageError("--wait and --off do not go together")
    load = context.call("POST", "/queue/drain", body={"on": not off})
    if wait_s is not None:
        load = _until_idle(context, load, time.monotonic() + wait_s)
    context.out.facts(load)


def _until_idle(context: SpokeContext, load: dict[str, object], deadline: float) -> dict[str, object]:
    from common.errors import LocalError

    while load["active"]:
        if time.monotonic() >= deadline:
            raise LocalError(
                f"{load['active']} agents still run; wait longer, or see: spoke agent list --status running",
                code="still_running",
            )
        time.sleep(_POLL_S)
        load = context.call("GET", "/queue")
    return load


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what would go, and leave it.")
@facts
def gc(context: SpokeContext, dry_run: bool) -> None:
    """Remove what is left of agents whose time is over, as the running spoke does every hour."""
    swept = context.call("POST", "/sweep", body={"dryRun": dry_run}, timeout_s=_SWEEP_TIMEOUT_S)
    context.out.table(
        swept["removed"],
        {"WHAT": lambda row: row["kind"], "NAME": lambda row: row["name"], "WHY": lambda row: row["reason"]},
    )
