"""`docs/faults.md` names all rows, and for each of them tests that are there and say that they are about it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROWS = range(1, 36)
TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "faults.md"


def _numbers(nodes: list[ast.expr]) -> set[int]:
    """The rows that `pytest.mark.fault(N)` among these expressions name."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fault":
            (number,) = node.args
            assert isinstance(number, ast.Constant)
            found.add(int(str(number.value)))
    return found


def _marked(tree: ast.AST, inherited: set[int]) -> Iterator[tuple[str, set[int]]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield node.name, inherited | _numbers(node.decorator_list)
        elif isinstance(node, ast.ClassDef):
            yield from _marked(node, inherited | _numbers(node.decorator_list))


def _of_module(path: Path) -> dict[str, set[int]]:
    tree = ast.parse(path.read_text())
    inherited: set[int] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            inherited |= _numbers(node.value.elts if isinstance(node.value, ast.List) else [node.value])
    return dict(_marked(tree, inherited))


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
        assert row in _of_module(TESTS / path).get(function, set()), f"{name} is no test of row {row}"


def test_no_test_is_about_a_row_that_is_none() -> None:
    for path in TESTS.rglob("test_*.py"):
        for name, rows in _of_module(path).items():
            assert rows <= set(ROWS), f"{path}::{name}"
