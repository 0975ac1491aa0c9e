"""`hub doctor`: what a hub needs, checked one by one, with the way to mend what is wrong."""

from __future__ import annotations

import click

from common.command_line import print_json
from hub.cli.frame import node_options
from hub.cli.output import invocation


@click.command()
@node_options
def doctor() -> None:
    """Check keys, clock, Valkey and spokes; exit 1 when something is wrong."""
    from hub.cli.local import ask, directory
    from hub.diagnosis import diagnose

    findings = ask(diagnose(directory()))
    if invocation().as_json:
        print_json([finding.to_view() for finding in findings])
    else:
        for finding in findings:
            click.echo(finding.to_text())
    if any(not finding.ok for finding in findings):
        click.get_current_context().exit(1)
