"""Control groups with a real kernel: one of version 2 for a kill, and one that counts processes, of whichever version.

Needs root, or a session with a group of its own: `systemd-run --user --scope -p Delegate=yes make test-sandbox`.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from spoke.supervision import linux
from spoke.supervision.cgroup import find_delegated, parse_own_group, prepare
from spoke.supervision.run_dir import Limits
from spoke.supervision.supervisor import Supervisor
from tests.integration.spoke.supervision.agents import ESCAPE, python, says, until
from tests.integration.spoke.supervision.conftest import (
    _nothing_left,
    new_run,
    nursery_env,
    run_dir,
    supervisor,
    work,
)
from tests.integration.spoke.supervision.test_limits import BOMB

__all__ = ["_nothing_left", "new_run", "nursery_env", "run_dir", "supervisor", "work"]
pytestmark = pytest.mark.sandbox


def home_of_groups() -> Path:
    """Return where version 2 groups can be made: what was delegated to us, or for root beside our own."""
    if (base := find_delegated()) is not None:
        return prepare(base)
    found = parse_own_group(Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    assert found is not None, "no control groups of version 2 are mounted here"
    assert os.geteuid() == 0, "these tests need root or a delegated control group, see the top of this file"
    return found[0]


def removed_afterwards(parent: Path) -> Iterator[Path]:
    group = parent / f"hubspoke-test-{uuid.uuid4().hex}"
    yield group
    with suppress(FileNotFoundError):
        group.rmdir()


@pytest.fixture
def group() -> Iterator[Path]:
    """A group of version 2 that does not exist yet."""
    yield from removed_afterwards(home_of_groups())


@pytest.fixture
def counting_group() -> Iterator[Path]:
    """One whose kernel counts processes; version 1 uses the same files for that."""
    version_1 = Path("/sys/fs/cgroup/pids")
    yield from removed_afterwards(version_1 if version_1.is_dir() else home_of_groups())


async def test_a_kill_through_the_group_takes_what_escaped(
    supervisor: Supervisor, run_dir: Path, work: Path, group: Path
) -> None:
    script = ESCAPE + "signal.alarm(20)\nprint('up', flush=True)\ntime.sleep(20)\n"
    await supervisor.start(run_dir, python(script, work, cgroup=str(group)))
    await until(says(run_dir, "up"))
    assert len((group / "cgroup.procs").read_text().split()) == 2
    await supervisor.kill(run_dir, 0, "test")
    ending = await supervisor.wait(run_dir)
    assert ending.receipt is not None
    assert ending.receipt.survivors == 0
    assert group.name not in os.listdir(group.parent)  # noqa: PTH208 - a look, and no path to keep


async def test_a_lost_keeper_s_group_is_emptied_although_the_agent_hid_its_environment(
    supervisor: Supervisor, run_dir: Path, work: Path, group: Path
) -> None:
    """Without a group such a process survives the keeper: nothing marks it any more (ADR 0002)."""
    program = "import os, signal, time; signal.alarm(20); open('hidden', 'w').write(str(os.getpid())); time.sleep(20)"
    script = (
        "import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n"
        f"    os.execve({sys.executable!r}, ['python', '-I', '-S', '-c', {program!r}], {{}})\ntime.sleep(20)"
    )
    await supervisor.start(run_dir, python(script, work, cgroup=str(group)))
    await until(lambda: (work / "hidden").exists() and (work / "hidden").read_text() != "")
    hidden = int((work / "hidden").read_text())
    keeper = int((run_dir / "keeper.json").read_text().split('"pid": ')[1].split(",")[0])
    os.kill(keeper, 9)
    assert (await supervisor.wait(run_dir)).cause == "lost"
    await until(lambda: (found := linux.stat_of(hidden)) is None or found.state == "Z")


@pytest.mark.fault(25)
async def test_the_kernel_keeps_the_number_of_processes_for_root_too(
    supervisor: Supervisor, run_dir: Path, work: Path, counting_group: Path
) -> None:
    spec = python(BOMB, work, limits=Limits(tasks=20), cgroup=str(counting_group))
    await supervisor.start(run_dir, spec)
    await until(says(run_dir, "forked"))
    await supervisor.kill(run_dir, 0, "test")
    ending = await supervisor.wait(run_dir)
    assert ending.cause == "killed"
    assert (run_dir / "log").read_text() == "forked 19\n"
