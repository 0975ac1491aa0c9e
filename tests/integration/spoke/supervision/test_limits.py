"""Limits with real agents: what the kernel refuses, what the keeper measures, what a control group is told.

Every agent here that forks or allocates does so a fixed small number of times and ends by itself within seconds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from spoke.supervision import usage
from spoke.supervision.run_dir import Ending, LaunchSpec, Limits
from spoke.supervision.supervisor import LaunchFailed, Supervisor
from tests.integration.spoke.supervision.agents import program, python, says, until

MIB = 1024 * 1024
FORKS = 120

BOMB = f"""
import os, signal, sys, time
signal.alarm(10)
forked = 0
for _ in range({FORKS}):
    try:
        pid = os.fork()
    except BlockingIOError:
        continue
    if pid == 0:
        signal.alarm(10)
        time.sleep(10)
        os._exit(0)
    forked += 1
print("forked", forked, flush=True)
time.sleep(10)
"""
"""Forks at most 120 children, which end after ten seconds."""

HUNGRY = """
import signal, sys, time
signal.alarm(20)
kept = []
for _ in range(300):
    kept.append(b"x" * (1024 * 1024))
    time.sleep(0.005)
time.sleep(20)
"""
"""Takes 300 MiB within two seconds."""

FAMILY = """
import os, signal, sys, time
signal.alarm(20)
kept = b"x" * (80 * 1024 * 1024)
pids = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        time.sleep(1.5)
        os._exit(0)
    pids.append(pid)
for pid in pids:
    os.waitpid(pid, 0)
print("done", flush=True)
"""
"""Five processes that share 80 MiB."""


async def run(supervisor: Supervisor, run_dir: Path, spec: LaunchSpec) -> Ending:
    await supervisor.start(run_dir, spec)
    return await supervisor.wait(run_dir)


def as_nobody(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Run as a user whom RLIMIT_NPROC binds: not as root."""
    if os.getuid() != 0:
        return argv
    return ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", *argv)


async def test_an_agent_that_takes_too_much_memory_is_ended_and_told_apart(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    ending = await run(supervisor, run_dir, python(HUNGRY, work, limits=Limits(memory_bytes=100 * MIB)))
    assert ending.cause == "oom"
    assert ending.signal == "SIGKILL"
    assert ending.detail is not None
    assert "100 MiB are allowed" in ending.detail


async def test_memory_that_processes_share_counts_once(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    ending = await run(supervisor, run_dir, python(FAMILY, work, limits=Limits(memory_bytes=160 * MIB)))
    assert (ending.cause, ending.exit_code) == ("exited", 0)


async def test_an_agent_with_too_many_processes_is_ended_with_all_of_them(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    ending = await run(supervisor, run_dir, python(BOMB, work, limits=Limits(tasks=30)))
    if os.getuid() != 0:  # whom RLIMIT_NPROC binds: it never had more
        assert ending.cause == "exited"
        forked = int((run_dir / "log").read_bytes().split(b"forked ")[1].split()[0])
        assert 0 < forked <= 30
        return
    assert ending.cause == "processes"
    assert ending.receipt is not None
    assert ending.receipt.survivors == 0
    assert ending.detail is not None
    assert "30 are allowed" in ending.detail


@pytest.mark.fault(25)
async def test_the_kernel_refuses_forks_over_the_limit(supervisor: Supervisor, run_dir: Path) -> None:
    allowed = 20 if os.getuid() == 0 else usage.tasks_of_user() + 20
    forks = f"i=0; while [ $i -lt {FORKS} ]; do i=$((i + 1)); sleep 5 & echo up; done; echo never"
    argv = as_nobody(("/bin/sh", "-c", forks))
    ending = await run(supervisor, run_dir, program(argv, Path("/"), limits=Limits(nproc=allowed), timeout_s=5))
    assert ending.exit_code != 0
    lines = (run_dir / "log").read_text().splitlines()
    assert 0 < lines.count("up") < 25
    assert "never" not in lines


async def test_processor_time_is_limited(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    burn = "import signal; signal.alarm(20)\nwhile True: pass"
    ending = await run(supervisor, run_dir, python(burn, work, limits=Limits(cpu_s=1)))
    assert (ending.cause, ending.signal) == ("exited", "SIGXCPU")


@pytest.mark.parametrize(
    ("limits", "script", "word"),
    [
        pytest.param(
            Limits(fsize_bytes=MIB),
            "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "try: open('big', 'wb', 0).write(b'x' * (2 << 20)); open('big', 'ab', 0).write(b'x')\n"
            "except OSError as error: print(error.strerror)",
            "too large",
            id="file size",
        ),
        pytest.param(
            Limits(nofile=20),
            "files = []\ntry:\n    for _ in range(30): files.append(open('/dev/null'))\n"
            "except OSError as error: print(error.strerror)",
            "Too many open files",
            id="open files",
        ),
        pytest.param(
            Limits(as_bytes=200 * MIB),
            "try: kept = bytearray(500 << 20)\nexcept MemoryError: print('MemoryError')",
            "MemoryError",
            id="address space",
        ),
    ],
)
async def test_limits_of_each_process(
    supervisor: Supervisor, run_dir: Path, work: Path, limits: Limits, script: str, word: str
) -> None:
    ending = await run(supervisor, run_dir, python(script, work, limits=limits))
    assert ending.exit_code == 0
    assert word in (run_dir / "log").read_text()


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """Return a directory with the files of a control group, which no kernel stands behind."""
    group = tmp_path / "group"
    group.mkdir()
    for name in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cgroup.procs", "cgroup.kill"):
        (group / name).write_text("")
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\n")
    return group


async def test_a_control_group_is_told_the_limits_and_nothing_is_measured(
    supervisor: Supervisor, run_dir: Path, work: Path, group: Path
) -> None:
    limits = Limits(memory_bytes=10 * MIB, tasks=3)
    spec = python("import os; kept = b'x' * (60 << 20); print('fine')", work, limits=limits, cgroup=str(group))
    ending = await run(supervisor, run_dir, spec)
    assert (ending.cause, ending.exit_code) == ("exited", 0)
    names = ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cgroup.procs")
    assert [(group / name).read_text() for name in names] == [str(10 * MIB), "0", "1", "3", "0"]


@pytest.mark.fault(10)
@pytest.mark.parametrize(
    ("kills", "end", "cause"),
    [
        pytest.param(1, "os.kill(os.getpid(), 9)", "oom", id="the group ran out of memory"),
        pytest.param(0, "os.kill(os.getpid(), 9)", "exited", id="somebody else killed it"),
        pytest.param(1, "pass", "exited", id="it lost a child and went on"),
    ],
)
async def test_the_group_says_whether_memory_ended_an_agent(
    supervisor: Supervisor, run_dir: Path, work: Path, group: Path, kills: int, end: str, cause: str
) -> None:
    (group / "memory.events").write_text(f"oom 1\noom_kill {kills}\n")
    ending = await run(supervisor, run_dir, python(f"import os; {end}", work, cgroup=str(group)))
    assert ending.cause == cause


async def test_a_kill_uses_the_group(supervisor: Supervisor, run_dir: Path, work: Path, group: Path) -> None:
    await supervisor.start(
        run_dir, python("import time; print('up', flush=True); time.sleep(20)", work, cgroup=str(group))
    )
    await until(says(run_dir, "up"))
    await supervisor.kill(run_dir, 0, "test")
    assert (await supervisor.wait(run_dir)).cause == "killed"
    assert (group / "cgroup.kill").read_text() == "1"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda place: place / "absent" / "group", id="its parent is gone"),
        pytest.param(lambda place: place.mkdir() or place, id="it takes no process"),
    ],
)
async def test_without_the_group_that_was_asked_for_nothing_is_started(
    supervisor: Supervisor, run_dir: Path, work: Path, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    spec = python("open('started', 'w')", work, cgroup=str(make(tmp_path / "place")))
    with pytest.raises(LaunchFailed, match="control group"):
        await supervisor.start(run_dir, spec)
    assert not (work / "started").exists()
