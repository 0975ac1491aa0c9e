"""`hub token`: tokens for people and programs that need not hold the root token; works with the hub running or not."""

from __future__ import annotations

from typing import Any

import click

from common.command_line import parse_duration, print_facts, print_json, print_table
from hub.cli.frame import node_options
from hub.cli.output import invocation, show_time
from hub.scopes import SCOPES


def _parse_ttl(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.group()
def token() -> None:
    """Tokens of a scope, for people and programs."""


@token.command()
@click.argument("name")
@click.option("--scope", type=click.Choice(SCOPES), required=True, help="read looks, operate also starts and stops.")
@click.option("--ttl", callback=_parse_ttl, help="How long it is good: 90s, 24h, 30d; for good without it.")
@node_options
def create(name: str, scope: Any, ttl: int | None) -> None:
    """Make a token and print it; nobody can see it again."""
    from common.clock import SystemClock
    from hub.cli.local import load_hub, open_tokens

    with open_tokens(load_hub()) as tokens:
        secret = tokens.create(name, scope, SystemClock().now_ms() // 1000, ttl)
    if invocation().as_json:
        print_json({"name": name, "scope": scope, "token": secret})
    else:
        click.echo(secret)


@token.command(name="list")
@node_options
def list_tokens() -> None:
    """List all tokens, without what they are."""
    from hub.cli.local import load_hub, open_tokens

    with open_tokens(load_hub()) as tokens:
        views = [_view(each) for each in tokens.list()]
    if invocation().as_json:
        print_json(views)
        return
    rows = [[view["name"], view["scope"], show_time(view["createdAt"]), show_time(view["expiresAt"])] for view in views]
    print_table(["TOKEN", "SCOPE", "CREATED", "EXPIRES"], rows)


@token.command()
@click.argument("name")
@node_options
def revoke(name: str) -> None:
    """Take a token back; it opens nothing any more when this returns."""
    from hub.cli.local import load_hub, open_tokens

    with open_tokens(load_hub()) as tokens:
        view = _view(tokens.revoke(name))
    if invocation().as_json:
        print_json(view)
    else:
        print_facts({"token": view["name"], "scope": view["scope"], "state": "revoked"})


def _view(found: Any) -> dict[str, Any]:
    from common.ids import rfc3339

    return {
        "name": found.name,
        "scope": found.scope,
        "createdAt": rfc3339(found.created_s * 1000),
        "expiresAt": None if found.expires_s is None else rfc3339(found.expires_s * 1000),
    }
