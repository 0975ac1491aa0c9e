"""What these tests need and a fresh machine may not have: bubblewrap, and leave to make namespaces.

`make test` leaves them out, `make test-sandbox` and continuous integration run them. Nothing is skipped: where a
sandbox cannot be had they fail, and say why.
"""

from __future__ import annotations

import os

import pytest

from spoke.sandbox import find_program, probe
from tests.integration.spoke.conftest import new_hub, node, origin

__all__ = ["new_hub", "node", "origin"]


@pytest.fixture(scope="session", autouse=True)
def _bubblewrap() -> None:
    program = find_program(os.environ.get("PATH"))
    assert program is not None, "these tests need bubblewrap; on Debian and Ubuntu: apt install bubblewrap"
    problem = probe(program)
    assert problem is None, f"no sandbox can be had on this machine: {problem}"
