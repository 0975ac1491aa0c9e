"""An older state of this repository as a release: built from its commit, installed into an environment of its own.

Its dependencies are those of the environment that the tests run in.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
COMMIT: Final = "6469d17d3620ee57078a7f87d0172b3c1c3182f0"
"""The first whose data is still read: since then connections are named `hub-eu_1`. When a release says in CHANGELOG.md
that it no longer reads such data, this becomes the first commit whose data it does read."""


@dataclass(frozen=True, slots=True)
class OldRelease:
    """Where the commands of the older release are."""

    hub: Path
    spoke: Path


def install(place: Path) -> OldRelease:
    """Build and install it below `place`."""
    source, wheels, environment = place / "source", place / "wheels", place / "environment"
    source.mkdir()
    archive = subprocess.run(["git", "archive", _commit()], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x"], cwd=source, input=archive, check=True)
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels), cwd=source)
    _run(sys.executable, "-m", "venv", "--without-pip", str(environment), cwd=place)
    python = environment / "bin" / "python"
    (wheel,) = wheels.iterdir()
    pip = (sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet")
    _run(*pip, str(wheel), cwd=place)
    (site,) = environment.glob("lib/python*/site-packages")
    # A line with a path adds the dependencies; what is installed there in place of us (`.pth`) is not looked at.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return OldRelease(environment / "bin" / "hub", environment / "bin" / "spoke")


def _commit() -> str:
    found = subprocess.run(
        ["git", "cat-file", "-e", f"{COMMIT}^{{commit}}"], cwd=ROOT, capture_output=True, check=False
    )
    if found.returncode != 0:
        pytest.fail(f"the upgrade is tested from commit {COMMIT[:12]}, which is not here: clone with the whole history")
    return COMMIT


def _run(*command: str, cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)
