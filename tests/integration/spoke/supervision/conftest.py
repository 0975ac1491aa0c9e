"""A supervisor with real agents, and the promise of every test here: no process is left after it."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from spoke.supervision import linux
from spoke.supervision.nursery_client import DEFAULT_ENV
from spoke.supervision.supervisor import Supervisor

_PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def nursery_env() -> dict[str, str]:
    """The nursery's environment, with what measuring its coverage needs."""
    return {**DEFAULT_ENV, **{name: os.environ[name] for name in os.environ if name.startswith("COVERAGE_")}}


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Make every orphan of the test our child, so that none can hide, and let none live after it."""
    before = set(linux.children_of(os.getpid()))
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    left = _reaped_until_empty(before)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    assert left == {}, "processes outlived their test"


def _reaped_until_empty(before: set[int]) -> dict[int, str]:
    give_up_at = time.monotonic() + 10
    while left := [pid for pid in linux.children_of(os.getpid()) if pid not in before]:
        for pid in left:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > give_up_at:
            break
        time.sleep(0.005)
    return {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in left}


@pytest.fixture
async def supervisor(nursery_env: dict[str, str], _nothing_left: None) -> AsyncIterator[Supervisor]:
    async with Supervisor(nursery_env=nursery_env) as started:
        yield started


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[[str], Path]:
    """Return a maker of empty run directories."""

    def make(name: str) -> Path:
        run_dir = tmp_path / "runs" / name
        run_dir.mkdir(parents=True)
        return run_dir

    return make


@pytest.fixture
def run_dir(new_run: Callable[[str], Path]) -> Path:
    return new_run("run")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The agents' working directory."""
    work = tmp_path / "work"
    work.mkdir()
    return work
