"""How the hub's commands show what they got: one line per value, nothing of a peer's unescaped (attack row 56)."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from common.command_line import relative_time
from common.logs import escape
from hub.cli.frame import Invocation


def invocation() -> Invocation:
    """Return what was said about the whole invocation."""
    return click.get_current_context().ensure_object(Invocation)


def show_text(value: object) -> str:
    """Return a value as people read it, on one line; None is a dash."""
    return "-" if value is None or value == "" else escape(str(value))


def show_time(text: str | None, now: datetime | None = None) -> str:
    """Return an RFC 3339 time as `2 min ago (2026-11-22T08:00:00.000Z)`."""
    if text is None:
        return "-"
    try:
        then, present = datetime.fromisoformat(text), now or datetime.now(UTC)
        relative = relative_time((then - present).total_seconds(), 0)
    except (ValueError, TypeError):
        return escape(text)
    return f"{relative} ({escape(text)})"
