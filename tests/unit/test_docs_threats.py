"""`docs/threat-model.md` names all rows of attacks, with places and tests that are there and about them."""

from __future__ import annotations

import re

import pytest

from tests.marks import DOCS, TESTS, rows_of

ROWS = range(1, 65)
PAGE = (DOCS / "threat-model.md").read_text()
TABLE = {
    int(cells[0]): cells[1:]
    for line in re.findall(r"(?m)^\| (\d+ \|.*) \|$", PAGE)
    if len(cells := [cell.strip() for cell in line.split(" | ")]) == 6
}


def test_every_row_is_there_once_and_in_order() -> None:
    assert list(TABLE) == list(ROWS)
    assert len(re.findall(r"(?m)^\| \d+ \|", PAGE)) == len(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_what_proves_a_row_is_there_and_is_about_it(row: int) -> None:
    named = re.findall(r"`([^`]+)`", TABLE[row][3])
    assert named
    for name in named:
        path, _, function = name.partition("::")
        assert row in rows_of(TESTS / path, "attack").get(function, set()), f"{name} is no test of row {row}"
    assert TABLE[row][4] not in {"", "–"}, "which mutation was tried?"


@pytest.mark.parametrize("row", ROWS)
def test_where_a_row_is_defended_is_there(row: int) -> None:
    places = re.findall(r"((?:common|hub|spoke)/[\w/]+\.(?:py|lua))((?:,? `[\w.]+`)*)", TABLE[row][2])
    assert places
    for path, functions in places:
        source = (TESTS.parent / path).read_text()
        for function in re.findall(r"`([\w.]+)`", functions):
            name = function.rpartition(".")[2]
            assert re.search(rf"\b{name}\b", source), f"{path} has no {function}"


def test_no_test_is_about_a_row_that_is_none() -> None:
    for path in TESTS.rglob("test_*.py"):
        for name, rows in rows_of(path, "attack").items():
            assert rows <= set(ROWS), f"{path}::{name}"
