"""What `spoke doctor` found, as a line for people, and the worst of it."""

from __future__ import annotations

import pytest

from spoke.finding import Finding, State, worst

FINE = Finding("node", "ok", "runs")
WARNING = Finding("machine m1", "warn", "has no link", "start it")
BAD = Finding("keys", "bad", "gone", "make a key")


def test_a_line_says_what_was_seen_and_how_to_mend_it() -> None:
    assert FINE.to_text() == "ok    node              runs"
    assert WARNING.to_text() == "warn  machine m1        has no link -> start it"
    assert Finding("hub", "bad", "a\x1b[2J", "b\nok").to_text() == r"bad   hub               a\x1b[2J -> b\nok"


def test_its_view_has_all_of_it() -> None:
    assert FINE.to_view() == {"check": "node", "state": "ok", "detail": "runs", "mend": None}


@pytest.mark.parametrize(
    ("findings", "state"),
    [([], "ok"), ([FINE], "ok"), ([FINE, WARNING, FINE], "warn"), ([WARNING, BAD, FINE], "bad")],
)
def test_the_worst_counts(findings: list[Finding], state: State) -> None:
    assert worst(findings) == state
