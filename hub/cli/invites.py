"""`hub invite`: made, listed and withdrawn on the trust store itself, so also when the node is down."""

from __future__ import annotations

import re
from typing import Any, Final

import click

from common.command_line import parse_duration, print_json, print_table
from hub.cli.frame import node_options
from hub.cli.output import invocation, show_text, show_time

_LABEL: Final = re.compile(r"[A-Za-z0-9._/-]{1,64}=[^\x00-\x1f\x7f]{0,256}\Z")


def _parse_ttl(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _parse_labels(_context: click.Context, _parameter: click.Parameter, labels: tuple[str, ...]) -> dict[str, str]:
    if any(not _LABEL.match(label) for label in labels):
        raise click.BadParameter("write NAME=VALUE")
    return dict(label.split("=", 1) for label in labels)


@click.group(invoke_without_command=True)
@click.option("--ttl", default="24h", show_default=True, callback=_parse_ttl, help="How long it is good: 90s, 24h, 7d.")
@click.option("--label", "labels", metavar="K=V", multiple=True, callback=_parse_labels, help="A label for the spoke.")
@node_options
@click.pass_context
def invite(context: click.Context, ttl: int, labels: dict[str, str]) -> None:
    """Print one invite string; give it to one spoke's operator, it works once."""
    if context.invoked_subcommand is None:
        _make(ttl, labels)


def _make(ttl: int, labels: dict[str, str]) -> None:
    from common.clock import SystemClock
    from common.directory import announced_url
    from common.ids import rfc3339
    from common.own_keys import OwnKeys
    from hub.cli.local import load_hub, open_trust
    from hub.inviting import Inviting

    hub = load_hub()
    url = hub.settings.node.url or announced_url(hub.directory.path)
    with open_trust(hub) as trust:
        own = OwnKeys(hub.key_files, trust)
        made = Inviting(hub.me.instance, own, trust, SystemClock()).invite(url, ttl, labels)
    if invocation().as_json:
        print_json({"invite": made.encode(), "id": made.invite, "expiresAt": rfc3339(made.exp * 1000)})
    else:
        click.echo(made.encode())


@invite.command("list")
@node_options
def list_invites() -> None:
    """List the invites that nobody has used yet; their strings are shown only once."""
    from common.clock import SystemClock
    from common.ids import rfc3339
    from hub.cli.local import load_hub, open_trust

    with open_trust(load_hub()) as trust:
        found = trust.open_invites(SystemClock().now_ms() // 1000)
    views: list[dict[str, Any]] = [
        {"id": each.invite, "expiresAt": rfc3339(each.expires_s * 1000), "labels": dict(each.labels)} for each in found
    ]
    if invocation().as_json:
        print_json(views)
        return
    rows = [[view["id"], show_time(view["expiresAt"]), show_text(_pairs(view["labels"]))] for view in views]
    print_table(["INVITE", "GOOD UNTIL", "LABELS"], rows)


def _pairs(labels: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in labels.items())


@invite.command()
@click.argument("invite_id", metavar="INVITE")
@node_options
def withdraw(invite_id: str) -> None:
    """Make an invite void that nobody has used yet."""
    from hub.cli.local import load_hub, open_trust

    with open_trust(load_hub()) as trust:
        trust.withdraw_invite(invite_id)
    if invocation().as_json:
        print_json({"id": invite_id, "withdrawn": True})
    else:
        click.echo(f"{show_text(invite_id)} is void")
