"""`docs/faults.md` names all rows, and for each of them tests that are there and say that they are about it."""

from __future__ import annotations

import re

import pytest

from tests.marks import DOCS, TESTS, rows_of

ROWS = range(1, 36)
PAGE = DOCS / "faults.md"


def _table() -> dict[int, list[str]]:
    rows = re.findall(r"(?m)^\| (\d+) \|.*\| ([^|]*) \|$", PAGE.read_text())
    return {int(number): re.findall(r"`([^`]+)`", cell) for number, cell in rows}


def test_every_row_is_there_once_and_in_order() -> None:
    assert list(_table()) == list(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_what_proves_a_row_is_there_and_is_about_it(row: int) -> None:
    named = _table()[row]
    assert named, "a row without a test says what is missing under `Not promised`, and has at least one for the rest"
    for name in named:
        path, _, function = name.partition("::")
        assert row in rows_of(TESTS / path, "fault").get(function, set()), f"{name} is no test of row {row}"


def test_no_test_is_about_a_row_that_is_none() -> None:
    for path in TESTS.rglob("test_*.py"):
        for name, rows in rows_of(path, "fault").items():
            assert rows <= set(ROWS), f"{path}::{name}"
