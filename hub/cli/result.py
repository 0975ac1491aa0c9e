"""How the result of an agent is shown; a spoke's word, so nothing of it need have the form that it should."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from common.agent_output.events import dollars_of, list_of, object_of
from common.logs import escape
from hub.cli.output import show_text


def print_result(result: dict[str, Any] | None) -> None:
    """Print what it did, what that took, and its summary."""
    if not result:
        return
    for commit in map(object_of, list_of(result.get("commits"))):
        click.echo(f"commit      {show_text(commit.get('sha'))}  {show_text(commit.get('subject'))}")
    for name, text in (("changed", _changed(result)), ("used", _used(result)), ("pushed", _pushed(result))):
        if text is not None:
            click.echo(f"{name:<10}  {show_text(text)}")
    if summary := result.get("summary"):
        click.echo("\n" + "\n".join(map(escape, str(summary).splitlines())))


def _changed(result: Mapping[str, Any]) -> str | None:
    stat = object_of(result.get("diffStat"))
    if not stat.get("files"):
        return None
    left = ", not all of it committed" if result.get("preservedRef") else ""
    return f"files {stat['files']}, +{stat.get('insertions')} -{stat.get('deletions')}{left}"


def _used(result: Mapping[str, Any]) -> str | None:
    usage = object_of(result.get("usage"))
    if not usage:
        return None
    cost = dollars_of(usage.get("costUsd"))
    dollars = "" if cost is None else f", ${cost:.4f}"
    return f"tokens {usage.get('inputTokens')} in, {usage.get('outputTokens')} out, turns {usage.get('turns')}{dollars}"


def _pushed(result: Mapping[str, Any]) -> str | None:
    push = object_of(object_of(result.get("data")).get("push"))
    if not push:
        return None
    if (error := push.get("error")) is not None:
        return f"no: {error}; its spoke's operator sees why"
    return f"to {push.get('branch')}"
