"""The two ways of executing a program: the agent cannot tell them apart, and both fail in the same words."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spoke.supervision import linux
from spoke.supervision.execution import NoRoom, Streams, execute
from spoke.supervision.run_dir import KEEPER, Limits, RunState, decode_keeper
from spoke.supervision.supervisor import LaunchFailed, Supervisor

from .agents import program, shell, until

NewRun = Callable[[str], Path]
ROOT = Path(__file__).parents[4]
SHOW = (
    "pwd; umask; ulimit -a | grep -v locks; env | grep -v HUBSPOKE_RUN; ls /proc/self/fd; cat /proc/self/cgroup; trap;"
    " grep -v '^Sig[PQ]' /proc/self/status | grep 'Sig\\|Shd\\|Cap\\|NoNew\\|Seccomp\\|Cpus_allowed\\|Groups'"
)
"""What a program may inherit, and nothing that differs from one process to the next."""
GLIBC_ONLY = 0x1_8000_0000
"""Signals 32 and 33 are glibc's own: whoever was started by posix_spawn may ignore them, and nobody can undo it."""


async def test_an_agent_with_limits_sees_what_one_without_sees(
    supervisor: Supervisor, new_run: NewRun, work: Path
) -> None:
    said = []
    as_it_is = Limits(nofile=resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    for name, limits in (("spawned", Limits()), ("forked", as_it_is)):
        run_dir = new_run(name)
        await supervisor.start(run_dir, shell(SHOW, work, limits=limits))
        await supervisor.wait(run_dir)
        lines = (run_dir / "log").read_text().splitlines()
        said.append([_without_glibcs(line) for line in lines])
    assert said[0] == said[1]
    assert len(said[0]) > 20


@pytest.mark.parametrize("limits", [Limits(), Limits(nofile=100)], ids=["spawned", "forked"])
async def test_an_agent_leads_a_session_and_a_group_of_its_own(
    supervisor: Supervisor, run_dir: Path, work: Path, limits: Limits
) -> None:
    """Not its keeper's: what it sends to its group must not end who keeps it."""
    await supervisor.start(run_dir, shell("cat /proc/$$/stat; kill -KILL 0", work, limits=limits))
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.signal) == ("exited", "SIGKILL")
    [stat] = (run_dir / "log").read_text().splitlines()
    pid, _, rest = stat.partition(" (")
    assert rest.rpartition(")")[2].split()[2:5] == [pid, pid, "0"], "group, session, no terminal"


def _without_glibcs(line: str) -> str:
    name, _, mask = line.partition(":\t")
    return f"{name} {int(mask, 16) & ~GLIBC_ONLY}" if name == "SigIgn" else line


@pytest.mark.fault(29)
@pytest.mark.parametrize(
    ("nofile", "unwritten", "reason"),
    [
        pytest.param("", "", "fork: Resource temporarily unavailable", id="spawned"),
        pytest.param("100", "", "fork: Resource temporarily unavailable", id="forked"),
        pytest.param("", "keeper.json.tmp", "keeper.json: No space left on device", id="no keeper.json"),
        pytest.param("", "log", "run directory: No space left on device", id="no log"),
    ],
)
def test_without_room_a_start_may_be_tried_again(tmp_path: Path, nofile: str, unwritten: str, reason: str) -> None:
    command = (sys.executable, "-m", f"{__package__}.crowded", str(tmp_path / "run"), nofile, unwritten)
    # It becomes a user who may not write where coverage is measured.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=ROOT, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [reason, "SPENT", "[]", f"lost: {reason}"]


async def test_a_program_is_looked_for_as_a_shell_does(supervisor: Supervisor, new_run: NewRun, work: Path) -> None:
    first, second = work / "first", work / "second"
    for place, mode in ((first, 0o644), (second, 0o755)):
        place.mkdir()
        tool = place / "tool"
        tool.write_text("#!/bin/sh\necho the one that may be executed\n")
        tool.chmod(mode)
    env = {"PATH": f"{work}/none:{first}:{second}"}
    for name, limits in (("spawned", Limits()), ("forked", Limits(nofile=100))):
        run_dir = new_run(name)
        await supervisor.start(run_dir, program(("tool",), work, env=env, limits=limits))
        assert (await supervisor.wait(run_dir)).exit_code == 0
        assert (run_dir / "log").read_text() == "the one that may be executed\n"


def test_no_other_program_is_executed_because_there_was_no_room_for_a_moment(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses a process when it is asked, and may have one a moment later."""
    tried: list[str] = []
    spawn = os.posix_spawn

    def crowded(path: str, *args: Any, **options: Any) -> int:
        tried.append(path)
        if len(tried) == 1:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return spawn(path, *args, **options)

    monkeypatch.setattr(os, "posix_spawn", crowded)
    home_fd = os.open(".", os.O_PATH)
    with open(os.devnull, "r+b") as null:  # noqa: PTH123 - a device
        (work / "true").touch(0o755)
        spec = program(("true",), work, env={"PATH": f"/usr/local/none:{work}:/usr/bin:/bin"})
        with pytest.raises(NoRoom):
            execute(spec, "token", Streams(null.fileno(), null.fileno()), home_fd)
    os.close(home_fd)
    assert tried == [f"{work}/true"], "neither further, nor where there is nothing"


async def test_a_relative_program_is_that_of_the_working_directory(
    supervisor: Supervisor, new_run: NewRun, work: Path
) -> None:
    tool = work / "tool"
    tool.write_text("#!/bin/sh\npwd\n")
    tool.chmod(0o755)
    for name, limits in (("spawned", Limits()), ("forked", Limits(nofile=100))):
        run_dir = new_run(name)
        await supervisor.start(run_dir, program(("./tool",), work, limits=limits))
        assert (await supervisor.wait(run_dir)).exit_code == 0
        assert (run_dir / "log").read_text() == f"{work}\n"


@pytest.mark.fault(7)
@pytest.mark.parametrize("limits", [Limits(), Limits(nofile=100)], ids=["spawned", "forked"])
async def test_a_program_that_is_being_executed_is_never_missed(
    supervisor: Supervisor, run_dir: Path, work: Path, limits: Limits
) -> None:
    """Its keeper dies in the very middle: nobody concludes that the run is lost before what was started can be found.

    A lease on the file holds up who executes it, as a slow disk would. Nor is it missed when it emptied its environment
    before anybody looks, though no keeper could note who it is.
    """
    tool = work / "tool"
    tool.write_text("#!/bin/sh\nexec env -i sleep 1000\n")
    tool.chmod(0o755)
    former = signal.signal(signal.SIGIO, lambda *_: None)  # how the kernel tells that somebody wants it
    with tool.open("rb") as leased:
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        start = asyncio.create_task(supervisor.start(run_dir, program((str(tool),), work, limits=limits)))
        await until((run_dir / KEEPER).exists)
        keeper = decode_keeper((run_dir / KEEPER).read_bytes())
        assert keeper is not None
        await until(lambda: linux.children_of(keeper.pid))
        [child] = linux.children_of(keeper.pid)
        os.kill(keeper.pid, signal.SIGKILL)
        await until(lambda: (stat := linux.stat_of(keeper.pid)) is None or stat.state == "Z")
        if not limits.nofile:  # who was forked dies with its keeper by itself
            assert linux.stat_of(child) is not None
            assert supervisor.state(run_dir) is RunState.RUNNING
            assert not start.done()
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    signal.signal(signal.SIGIO, former)
    with pytest.raises(LaunchFailed) as failure:
        await start
    assert (failure.value.code, failure.value.retryable) == ("lost", True)
    if not limits.nofile:
        await until(lambda: Path(f"/proc/{child}/cmdline").read_bytes() == b"sleep\0" + b"1000\0")
    ending = await supervisor.wait(run_dir)
    assert ending.cause == "lost"
    assert (stat := linux.stat_of(child)) is None or stat.state == "Z"
