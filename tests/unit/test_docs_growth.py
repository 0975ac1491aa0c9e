"""Each row of `What grows` in docs/operations.md names the file that keeps the bound, and a test of it."""

from __future__ import annotations

import re

import pytest

from tests.marks import DOCS, TESTS, rows_of

TABLE = (DOCS / "operations.md").read_text().partition("## What grows")[2].partition("\n## ")[0]
ROWS = re.findall(r"(?m)^\| (?!what \||---)(.+) \| ([^|]+) \| `([^`|]+)::([^`|]+)` \|$", TABLE)


def test_every_row_is_read() -> None:
    assert len(ROWS) == len(re.findall(r"(?m)^\|", TABLE)) - 2


@pytest.mark.parametrize(("what", "keeper", "path", "test"), ROWS, ids=[row[0].partition(" | ")[0] for row in ROWS])
def test_what_keeps_a_bound_and_what_proves_it_are_there(what: str, keeper: str, path: str, test: str) -> None:
    assert (DOCS.parent / keeper).exists(), what
    assert test in rows_of(TESTS / path, "fault")
