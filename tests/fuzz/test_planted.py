"""Each fuzz target finds bugs of its kind within a minute, with the corpus that it begins with.

Run by `make fuzz`, before the fuzzing itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.planted import PLANTS, VARIABLE

FINDS = {
    "codec": ["any-signature", "slack-bits", "last-member-wins", "no-utf8", "header-members"],
    "http": ["no-utf8", "no-length"],
}
LONGEST_S = 120


def test_every_plant_is_looked_for() -> None:
    assert set().union(*FINDS.values()) == set(PLANTS)


@pytest.mark.fuzz
@pytest.mark.timeout(LONGEST_S + 30)
@pytest.mark.parametrize(("target", "plant"), [(target, plant) for target, plants in FINDS.items() for plant in plants])
def test_a_target_finds_what_was_planted(target: str, plant: str) -> None:
    found = subprocess.run(
        [sys.executable, "-m", f"tests.fuzz.{target}", f"-max_total_time={LONGEST_S}", "-seed=1"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, VARIABLE: plant},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert "Uncaught Python exception" in found.stdout
    assert found.returncode != 0
