"""Keepers that keep one agent after the other: who is used again, who never is, and what a later run sees of it."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spoke.supervision import adoption, linux
from spoke.supervision.nursery import _MOST_IDLE, _MOST_USES
from spoke.supervision.run_dir import CONTROL, EXIT, KEEPER, RunState, decode_keeper
from spoke.supervision.supervisor import LaunchFailed, Supervisor

from .agents import program, says, shell, until

NewRun = Callable[[str], Path]
ROOT = Path(__file__).parents[4]
SHOW = (
    "pwd; umask; ulimit -a | grep -v locks; env | grep -v HUBSPOKE_RUN; ls -l /proc/self/fd | wc -l;"
    " cat /proc/self/cgroup; trap"
)
"""What a program may inherit, and nothing that differs from one process to the next."""


def keeper_of(run_dir: Path) -> int:
    keeper = decode_keeper((run_dir / KEEPER).read_bytes())
    assert keeper is not None
    stat = linux.stat_of(keeper.pid)
    assert stat is None or stat.start_ticks == keeper.start_ticks
    return keeper.pid


def is_waiting(pid: int) -> bool:
    """Whether this keeper has no agent now and sleeps until it gets one."""
    stat = linux.stat_of(pid)
    return stat is not None and stat.state == "S" and Path(f"/proc/{pid}/comm").read_text() == "hubspoke-spare\n"


def has_ended(pid: int) -> bool:
    stat = linux.stat_of(pid)
    return stat is None or stat.state == "Z"


def holds(pid: int) -> list[str]:
    """What it has open: kinds of things, and files by their place. Of one that was used only root may see that."""
    if os.getuid() != 0:
        return []
    return sorted(str(each.readlink()).partition(":")[0] for each in Path(f"/proc/{pid}/fd").iterdir())


def works_in(pid: int) -> Path:
    if os.getuid() != 0:
        return Path.cwd()
    return Path(f"/proc/{pid}/cwd").readlink()


async def use(supervisor: Supervisor, run_dir: Path, work: Path, script: str = "exit 7", **spec: Any) -> int:
    """Have an agent run to its end and return who kept it, which by then waits for the next."""
    await supervisor.start(run_dir, shell(script, work, **spec))
    assert (await supervisor.wait(run_dir)).cause == "exited"
    keeper = keeper_of(run_dir)
    await until(lambda: is_waiting(keeper))
    return keeper


async def test_nothing_of_a_run_is_left_in_its_keeper_and_the_next_sees_none_of_it(
    supervisor: Supervisor, new_run: NewRun, work: Path
) -> None:
    first, second, third = map(new_run, ("first", "second", "third"))
    (work / "elsewhere").mkdir()
    limits = {"env": {"PATH": os.environ["PATH"], "SECRET": "x"}, "masks": ("hidden",), "log_cap_bytes": 1000}
    keeper = await use(supervisor, first, work, SHOW)
    held = holds(keeper)
    assert not [place for place in held if place.startswith(str(first))]
    assert await use(supervisor, second, work / "elsewhere", "cat; echo hidden", stdin=b"text\n", **limits) == keeper
    assert b"text\n" in (second / "log").read_bytes()
    assert b"hidden" not in (second / "log").read_bytes()
    assert await use(supervisor, third, work, SHOW + "; echo hidden") == keeper
    assert (third / "log").read_bytes() == (first / "log").read_bytes() + b"hidden\n"
    assert holds(keeper) == held
    assert works_in(keeper) == Path.cwd(), "as at its birth"
    assert linux.children_of(keeper) == []
    for run_dir in (first, second, third):
        assert supervisor.state(run_dir) is RunState.ENDED
        with adoption.opened(run_dir) as dir_fd:
            lock_fd = adoption.take_lock(dir_fd)
            assert lock_fd is not None
            os.close(lock_fd)
        with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
            os.open(run_dir / CONTROL, os.O_WRONLY | os.O_NONBLOCK)


async def test_a_kill_of_a_former_run_does_not_touch_the_present_one(
    supervisor: Supervisor, new_run: NewRun, work: Path
) -> None:
    first, second = new_run("first"), new_run("second")
    os.mkfifo(work / "go")
    keeper = await use(supervisor, first, work)
    await supervisor.start(second, shell("echo ready; read line < go; exit 3", work))
    assert keeper_of(second) == keeper
    await until(says(second, "ready"))
    await supervisor.kill(first, 0, "test")
    assert (await supervisor.wait(first)).exit_code == 7  # though the process that kept it lives
    assert (supervisor.state(first), supervisor.state(second)) == (RunState.ENDED, RunState.RUNNING)
    (work / "go").write_text("\n")
    ending = await supervisor.wait(second)
    assert (ending.cause, ending.exit_code, ending.receipt) == ("exited", 3, None)


async def test_a_run_without_an_ending_is_lost_though_who_kept_it_lives(
    supervisor: Supervisor, new_run: NewRun, work: Path
) -> None:
    run_dir = new_run("damaged")
    keeper = await use(supervisor, run_dir, work)
    (run_dir / EXIT).write_bytes(b"{")
    async with asyncio.timeout(5):
        assert (await supervisor.wait(run_dir)).cause == "lost"
    assert is_waiting(keeper)


async def test_another_run_at_the_same_place_is_another_run(
    supervisor: Supervisor, new_run: NewRun, work: Path
) -> None:
    mistakes: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: mistakes.append(context))
    os.mkfifo(work / "go")
    run_dir = new_run("place")
    await supervisor.start(run_dir, shell("read line < go", work))
    run_dir.rename(run_dir.with_name("elsewhere"))
    run_dir.mkdir()
    await supervisor.start(run_dir, shell("echo ready; sleep 1000", work))
    await until(says(run_dir, "ready"))
    (work / "go").write_text("\n")
    assert (await supervisor.wait(run_dir.with_name("elsewhere"))).cause == "exited"
    assert supervisor.state(run_dir) is RunState.RUNNING
    waiting = asyncio.create_task(supervisor.wait(run_dir))
    await supervisor.kill(run_dir, 0, "test")
    assert (await waiting).cause == "killed"
    await asyncio.sleep(0.05)
    asyncio.get_running_loop().set_exception_handler(None)
    assert mistakes == []


def test_no_later_agent_reads_what_its_keeper_kept_before(tmp_path: Path) -> None:
    """Who has a capability for it reads everything, so root must do without in this test."""
    as_anybody = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.getuid() == 0 else ()
    command = (*as_anybody, sys.executable, "-m", f"{__package__}.peeping", str(tmp_path))
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["own 0 ", "keeper's 1 PermissionError", "keepers 1"]


async def test_descriptors_beyond_a_thousand(new_run: NewRun, work: Path) -> None:
    """A spoke with many agents has them, and the nursery gets its socket under the number that it has there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    held = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(1100)]
    try:
        async with Supervisor() as supervisor:
            for number in range(3):
                await use(supervisor, new_run(str(number)), work)
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_uses_are_bounded(supervisor: Supervisor, new_run: NewRun, work: Path) -> None:
    keepers = []
    for number in range(_MOST_USES + 1):
        run_dir = new_run(str(number))
        await supervisor.start(run_dir, shell("exit 0", work))
        await supervisor.wait(run_dir)
        keepers.append(keeper_of(run_dir))
    assert max(map(keepers.count, keepers)) <= _MOST_USES
    assert len(set(keepers)) > 1
    worn = max(keepers, key=keepers.count)
    if keepers.count(worn) == _MOST_USES:
        await until(lambda: has_ended(worn))


UNUSUAL: dict[str, tuple[str, dict[str, Any]]] = {
    "leftovers": ("setsid sleep 1000 & exit 0", {}),
    "timeout": ("sleep 1000", {"timeout_s": 0.05}),
    "silence": ("sleep 1000", {"silence_s": 0.05}),
    "more output than may be kept": ("seq 1000", {"log_cap_bytes": 100}),
    "messages": ("exit 0", {"stream": True}),
}


@pytest.mark.parametrize("name", UNUSUAL)
async def test_after_anything_unusual_a_keeper_ends(
    supervisor: Supervisor, run_dir: Path, work: Path, name: str
) -> None:
    script, spec = UNUSUAL[name]
    await supervisor.start(run_dir, shell(script, work, **spec))
    await supervisor.wait(run_dir)
    await until(lambda: has_ended(keeper_of(run_dir)))


async def test_after_a_kill_and_after_a_start_that_failed_a_keeper_ends(
    supervisor: Supervisor, new_run: NewRun, work: Path
) -> None:
    killed, failed = new_run("killed"), new_run("failed")
    keeper = await use(supervisor, new_run("first"), work)
    await supervisor.start(killed, shell("sleep 1000", work))
    await supervisor.kill(killed, 5, "test")
    assert (await supervisor.wait(killed)).cause == "killed"
    with pytest.raises(LaunchFailed):
        await supervisor.start(failed, program(("/no/such/program",), work))
    assert keeper_of(killed) == keeper
    await until(lambda: has_ended(keeper) and has_ended(keeper_of(failed)))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
async def test_a_keeper_that_was_killed_while_it_waited_is_replaced(
    supervisor: Supervisor, new_run: NewRun, work: Path, signum: signal.Signals
) -> None:
    keeper = await use(supervisor, new_run("first"), work)
    os.kill(keeper, signum)
    await until(lambda: has_ended(keeper))
    assert await use(supervisor, new_run("second"), work) != keeper


async def test_a_keeper_that_was_killed_in_a_later_run_loses_that_run_only(
    supervisor: Supervisor, new_run: NewRun, work: Path
) -> None:
    first, second = new_run("first"), new_run("second")
    keeper = await use(supervisor, first, work)
    await supervisor.start(second, shell("sleep 1000", work))
    assert keeper_of(second) == keeper
    os.kill(keeper, signal.SIGKILL)
    assert (await supervisor.wait(second)).cause == "lost"
    assert (await supervisor.wait(first)).exit_code == 7


async def test_who_waits_elsewhere_hears_of_the_end_although_the_keeper_goes_on(
    supervisor: Supervisor, nursery_env: dict[str, str], run_dir: Path, work: Path
) -> None:
    os.mkfifo(work / "go")
    async with Supervisor(nursery_env=nursery_env) as other:
        await supervisor.start(run_dir, shell("read line < go; exit 3", work))
        waiting = asyncio.create_task(other.wait(run_dir))
        await asyncio.sleep(0)
        (work / "go").write_text("\n")
        assert (await waiting).exit_code == 3
        await until(lambda: is_waiting(keeper_of(run_dir)))


async def test_an_agent_of_a_keeper_that_was_used_before_is_adopted(
    nursery_env: dict[str, str], new_run: NewRun, work: Path
) -> None:
    first, second, third = map(new_run, ("first", "second", "third"))
    os.mkfifo(work / "go")
    async with Supervisor(nursery_env=nursery_env) as supervisor:
        keeper = await use(supervisor, first, work)
        other = await use_beside(supervisor, new_run, work)
        await supervisor.start(second, shell("echo ready; read line < go; exit 3", work))
        await supervisor.start(third, shell("trap 'exit 4' TERM; echo ready; while :; do sleep 0.01; done", work))
        assert {keeper_of(second), keeper_of(third)} <= {keeper, *other}
        await until(says(second, "ready"))
        await until(says(third, "ready"))
    async with Supervisor(nursery_env=nursery_env) as adopter:
        assert [adopter.state(each) for each in (first, second, third)] == [
            RunState.ENDED,
            RunState.RUNNING,
            RunState.RUNNING,
        ]
        (work / "go").write_text("\n")
        assert (await adopter.wait(second)).exit_code == 3
        await adopter.kill(third, 5, "test")
        ending = await adopter.wait(third)
        assert (ending.cause, ending.exit_code) == ("killed", 4)
        await until(lambda: has_ended(keeper_of(second)) and has_ended(keeper_of(third)))


async def use_beside(supervisor: Supervisor, new_run: NewRun, work: Path) -> list[int]:
    """Have two agents run at the same time and return their keepers."""
    os.mkfifo(work / "gate")
    gate = os.open(work / "gate", os.O_RDWR)
    runs = [new_run("left"), new_run("right")]
    for run_dir in runs:
        await supervisor.start(run_dir, shell("read line < gate", work))
    os.write(gate, b"\n" * len(runs))
    for run_dir in runs:
        await supervisor.wait(run_dir)
    os.close(gate)
    keepers = [keeper_of(run_dir) for run_dir in runs]
    await until(lambda: all(map(is_waiting, keepers)))
    return keepers


@pytest.mark.parametrize("phase", ["it waits", "its agent runs", "it offers itself"])
async def test_a_keeper_ends_with_its_agent_when_the_nursery_was_killed(
    supervisor: Supervisor, new_run: NewRun, work: Path, phase: str
) -> None:
    nursery = supervisor.nursery_pid
    assert nursery is not None
    run_dir = new_run("second")
    os.mkfifo(work / "go")
    keeper = await use(supervisor, new_run("first"), work)
    if phase != "it waits":
        await supervisor.start(run_dir, shell("read line < go; exit 3", work))
        assert keeper_of(run_dir) == keeper
    if phase == "it offers itself":
        os.kill(nursery, signal.SIGSTOP)
        (work / "go").write_text("\n")
        await until(lambda: is_waiting(keeper))
    os.kill(nursery, signal.SIGKILL)
    if phase == "its agent runs":
        await until(lambda: has_ended(nursery))
        assert supervisor.state(run_dir) is RunState.RUNNING
        (work / "go").write_text("\n")
    await until(lambda: has_ended(keeper))
    if phase != "it waits":
        assert (await supervisor.wait(run_dir)).exit_code == 3
    assert await use(supervisor, new_run("third"), work) != keeper


async def test_keepers_that_nobody_needs_end(supervisor: Supervisor, new_run: NewRun, work: Path) -> None:
    os.mkfifo(work / "go")
    runs = [new_run(str(number)) for number in range(_MOST_IDLE + 4)]
    gate = os.open(work / "go", os.O_RDWR)
    await asyncio.gather(*(supervisor.start(run_dir, shell("read line < go", work)) for run_dir in runs))
    keepers = [keeper_of(run_dir) for run_dir in runs]
    assert len(set(keepers)) == len(runs)
    os.write(gate, b"\n" * len(runs))
    await asyncio.gather(*map(supervisor.wait, runs))
    os.close(gate)
    await until(lambda: sum(not has_ended(each) for each in keepers) <= _MOST_IDLE)
    await until(lambda: sum(not has_ended(each) for each in keepers) == 1, deadline_s=40)
    assert await use(supervisor, new_run("next"), work) in keepers
