"""`audit verify` and `audit show`, the same for `hub` and `spoke`: they read files and need no running node."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import click

from common.audit import Verdict
from common.audit_directory import AuditDirectory
from common.audit_reading import Filter, select_lines, verify_audit
from common.command_line import EXIT_REFUSED, print_facts, print_json, print_line, safe
from common.keyring import PublicKey

_SHOWN_FIRST: Final = ("n", "prev", "at", "event", "by")
Options = Callable[[Callable[..., Any]], Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Audited:
    """Whose audit it is, which keys it holds, and how to print."""

    directory: AuditDirectory
    node: str
    keys: Collection[PublicKey]
    as_json: bool


def audit_group(find: Callable[[], Audited], options: Options) -> click.Group:
    """Return the group; `find` is asked when a command runs, `options` adds what all commands of the node take."""

    @click.group()
    def audit() -> None:
        """What was decided here, by whom: a chain of lines that shows every change to it."""

    @audit.command()
    @click.option("--since", default="", metavar="TIME", help="From this time on, such as 2026-11-22T08.")
    @options
    def verify(since: str) -> None:
        """Find every line that was edited, removed, added or moved; exit 1 when there is one."""
        audited = find()
        print_verdict(audited, verify_audit(audited.directory, audited.node, audited.keys, since))

    @audit.command()
    @click.option("--since", default="", metavar="TIME", help="From this time on, such as 2026-11-22T08.")
    @click.option("--until", default="", metavar="TIME", help="Up to this time.")
    @click.option("--event", default="", help="Such as command.decided; audit.checkpoint shows checkpoints.")
    @click.option("--peer", default="", help="About this peer.")
    @click.option("--by", default="", help="By this one: token:NAME, admin.token, local.token, cli:UID, node.")
    @click.option("--outcome", default="", help="With this outcome.")
    @click.option("--id", "about", default="", help="Lines that name this agent, command or envelope.")
    @click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="The last so many.")
    @options
    def show(limit: int, **wanted: str) -> None:
        """Print lines, oldest first."""
        audited = find()
        with audited.directory.snapshot() as snapshot:
            for members in deque(select_lines(snapshot, Filter(**wanted)), maxlen=limit):
                if audited.as_json:
                    print_json(members)
                else:
                    print_line(_shown(members))

    return audit


def print_verdict(audited: Audited, verdict: Verdict) -> None:
    """Print a verdict, and exit 1 when something is wrong."""
    if audited.as_json:
        print_json({**asdict(verdict), "unsealed": verdict.unsealed, "ok": not verdict.findings})
    else:
        print_facts(
            {
                "lines": f"{verdict.first} to {verdict.last}" if verdict.last else "none",
                "sealed": f"up to {verdict.sealed}, {verdict.unsealed} not yet",
                "last": safe(verdict.last_at or "-"),
                "verdict": f"{len(verdict.findings)} things are wrong" if verdict.findings else "nobody changed it",
            }
        )
        for finding in verdict.findings:
            where = f"{finding.file} line {finding.line}: " if finding.file else ""
            print_line(f"WRONG  {safe(where + finding.what)}")
    if verdict.findings:
        click.get_current_context().exit(EXIT_REFUSED)


def _shown(members: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in members.items() if name not in _SHOWN_FIRST}
    told = " ".join(f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in rest.items())
    return safe(f"{members.get('at')}  {members['event']}  by {members.get('by', '-')}  {told}")
