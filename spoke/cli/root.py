"""`spoke`: the options that all commands share, and which module each command lives in."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Final, NoReturn

import click

_PLACES: Final = {
    "init": "spoke.cli.node",
    "serve": "spoke.cli.node",
    "worker": "spoke.cli.node",
    "machine": "spoke.cli.machine",
    "ready": "spoke.cli.node",
    "drain": "spoke.cli.queue",
    "doctor": "spoke.cli.doctor",
    "join": "spoke.cli.peer",
    "peer": "spoke.cli.peer",
    "keys": "spoke.cli.keys",
    "agent": "spoke.cli.agent",
    "queue": "spoke.cli.queue",
    "gc": "spoke.cli.queue",
    "profile": "spoke.cli.profile",
    "audit": "spoke.cli.audit",
    "backup": "spoke.cli.backup",
    "restore": "spoke.cli.backup",
    "completion": "spoke.cli.node",
}
_SUMMARIES: Final = {
    "init": "Set up a spoke in DIR.",
    "serve": "Run the spoke until SIGTERM.",
    "worker": "Start and watch agents beside `spoke serve`.",
    "machine": "Other machines that start agents of this spoke.",
    "ready": "Say whether the running spoke is ready for work.",
    "drain": "Take no new agents, or take them again.",
    "doctor": "Check this spoke and say how to mend it.",
    "join": "Join a hub by its invite.",
    "peer": "The hubs this machine is lent to.",
    "keys": "This spoke's key: show, export, rotate.",
    "agent": "The agents on this machine.",
    "queue": "How much waits and runs; pause and resume it.",
    "gc": "Remove what is left of agents whose time is over.",
    "profile": "How agent programs are run.",
    "audit": "What was decided here, and whether somebody changed that.",
    "backup": "Who this spoke is and whom it trusts, as one file.",
    "restore": "A spoke again, of a backup.",
    "completion": "What makes a shell complete commands and options.",
}


class _Lazy(click.Group):
    def list_commands(self, _context: click.Context) -> list[str]:
        return list(_PLACES)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in _PLACES:
            return None
        command: click.Command = getattr(import_module(_PLACES[name]), name)
        return command

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        # Help needs no module of any command.
        with formatter.section("Commands"):
            formatter.write_dl(list(_SUMMARIES.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--dir", "directory", type=click.Path(path_type=Path), envvar="SPOKE_DIR", help="The spoke's directory.")
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@click.version_option(package_name="hubspoke", prog_name="spoke")
@click.pass_context
def spoke(context: click.Context, directory: Path | None, as_json: bool) -> None:
    """Lend this machine to hubs you choose, under rules you set."""
    context.obj = {"directory": directory, "json": as_json}


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    from common.command_line import run

    sys.exit(run(spoke, "spoke", arguments))
