from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hub.cli.output import show_text, show_time

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)

TIMES = {
    "2026-11-22T12:00:00.000Z": "now",
    "2026-11-22T11:59:30.000Z": "30 s ago",
    "2026-11-22T11:58:00.000Z": "2 min ago",
    "2026-11-22T09:00:00.000Z": "3 h ago",
    "2026-11-18T12:00:00.000Z": "4 d ago",
    "2026-11-22T12:00:40.000Z": "in 40 s",
    "2026-11-22T12:05:00.000Z": "in 5 min",
}


@pytest.mark.parametrize(("text", "relative"), TIMES.items())
def test_a_time_is_shown_relative_and_absolute(text: str, relative: str) -> None:
    assert show_time(text, NOW) == f"{relative} ({text})"


@pytest.mark.attack(56)
def test_what_is_no_time_is_shown_escaped() -> None:
    assert show_time("soon\x1b[2J", NOW) == "soon\\x1b[2J"
    assert show_time("2026-11-22T12:00:00", NOW) == "2026-11-22T12:00:00"  # without a zone it cannot be compared
    assert show_time(None) == "-"


@pytest.mark.attack(56)
@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), ("", "-"), (0, "0"), ("a\nb", "a\\nb"), ("\u202e", "\\u202e")]
)
def test_a_value_is_one_line(value: object, shown: str) -> None:
    assert show_text(value) == shown
