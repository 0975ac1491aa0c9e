"""Printing: JSON for programs, tables and times for people, nothing of a peer's unescaped (attack row 56)."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from common.logs import escape
from hub.cli.frame import Invocation

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_WIDE: Final = 240
_STYLES: Final = {
    "completed": "green",
    "active": "green",
    "running": "cyan",
    "failed": "red",
    "refused": "red",
    "revoked": "red",
    "killed": "yellow",
    "expired": "yellow",
    "suspended": "yellow",
    "pending": "dim",
    "queued": "dim",
}


def invocation() -> Invocation:
    """Return what was said about the whole invocation."""
    return click.get_current_context().ensure_object(Invocation)


def print_json(value: Any) -> None:
    """Print one line of JSON; ASCII only, so that nothing in it reaches a terminal as a control sequence."""
    click.echo(json.dumps(value))


def show_text(value: object) -> str:
    """Return a value as people read it, on one line; None is a dash."""
    return "-" if value is None or value == "" else escape(str(value))


def show_time(text: str | None, now: datetime | None = None) -> str:
    """Return an RFC 3339 time as `2 min ago (2026-11-22T08:00:00.000Z)`."""
    if text is None:
        return "-"
    try:
        seconds = int(((now or datetime.now(UTC)) - datetime.fromisoformat(text)).total_seconds())
    except (ValueError, TypeError):
        return escape(text)
    return f"{_relative(seconds)} ({escape(text)})"


def _relative(seconds: int) -> str:
    size, unit = next(((size, unit) for size, unit in _UNITS if abs(seconds) >= size), (1, "s"))
    if abs(seconds) < 1:
        return "now"
    return f"{seconds // size} {unit} ago" if seconds > 0 else f"in {-seconds // size} {unit}"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text, already escaped."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False).print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and values below each other; the values are already escaped."""
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name:<{width}}  {value}")
