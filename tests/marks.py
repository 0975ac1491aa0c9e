"""Which tests carry a numbered mark: what the tables in `docs/` name is compared with this."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
DOCS = TESTS.parent / "docs"


def _numbers(nodes: list[ast.expr], mark: str) -> set[int]:
    found = set()
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == mark:
            for number in node.args:
                assert isinstance(number, ast.Constant)
                found.add(int(str(number.value)))
    return found


def _marked(tree: ast.AST, mark: str, inherited: set[int]) -> Iterator[tuple[str, set[int]]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield node.name, inherited | _numbers(node.decorator_list, mark)
        elif isinstance(node, ast.ClassDef):
            yield from _marked(node, mark, inherited | _numbers(node.decorator_list, mark))


def rows_of(path: Path, mark: str) -> dict[str, set[int]]:
    """Return the numbers in `pytest.mark.MARK(N)` of each test function of a module."""
    tree = ast.parse(path.read_text())
    inherited: set[int] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            inherited |= _numbers(node.value.elts if isinstance(node.value, ast.List) else [node.value], mark)
    return dict(_marked(tree, mark, inherited))
