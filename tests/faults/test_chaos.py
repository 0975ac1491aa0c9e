"""A short run of chaos; `make chaos` is a longer one. Its seed is in what it prints, and in the failure."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.fault(8)
@pytest.mark.fault(20)
@pytest.mark.slow
@pytest.mark.timeout(420)
def test_the_promises_are_kept_while_everything_is_killed_and_cut() -> None:
    command = [sys.executable, "-m", "tests.faults.chaos", "--seconds", "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
