"""The README's first command, as a user runs it: twice, and nothing is left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).with_name("demo.py")


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_demo_runs_twice_and_leaves_nothing() -> None:
    for _ in range(2):
        demo = subprocess.run([sys.executable, DEMO], capture_output=True, text=True, timeout=110, check=False)
        assert demo.returncode == 0, demo.stdout + demo.stderr
        assert "worker on build-1: completed" in demo.stdout
        assert "killed, killed_by_peer" in demo.stdout
        assert '"survivors": 0' in demo.stdout
        assert "nothing is left running" in demo.stdout
        assert demo.stderr == ""
