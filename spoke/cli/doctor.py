"""`spoke doctor`: what a spoke needs, checked one by one, with the way to mend what is wrong."""

from __future__ import annotations

import os

import click

from common.command_line import print_json, print_line
from common.interruptible import run_async
from spoke.cli.context import SpokeContext, facts


@click.command()
@facts
def doctor(context: SpokeContext) -> None:
    """Check files, Valkey, git, programs, sandbox, machines and hubs; exit 1 when something is bad."""
    from spoke.diagnosis import diagnose
    from spoke.finding import worst

    findings = run_async(diagnose(context.directory, os.environ))
    if context.out.json:
        print_json([finding.to_view() for finding in findings])
    else:
        for finding in findings:
            print_line(finding.to_text())
    if worst(findings) == "bad":
        click.get_current_context().exit(1)
