"""What an agent is given, what it leaves, and how its own end is recorded."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from spoke.supervision.run_dir import LaunchSpec, Limits, RunState
from spoke.supervision.supervisor import LaunchFailed, LaunchRefused, NeverStarted, Supervisor

from .agents import PATH, program, python, says, shell, until

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize(
    ("script", "exit_code", "signal"),
    [
        pytest.param("exit 0", 0, None, id="success"),
        pytest.param("exit 3", 3, None, id="its own exit code"),
        pytest.param("kill -9 $$", None, "SIGKILL", id="killed from outside"),
        pytest.param("kill -TERM $$", None, "SIGTERM", id="terminated from outside"),
        pytest.param("kill -40 $$", None, "SIG40", id="a signal without a name"),
        pytest.param("exec >&- 2>&-; exit 4", 4, None, id="closed its output"),
    ],
)
async def test_end_of_the_main_process_is_recorded(
    supervisor: Supervisor, run_dir: Path, work: Path, script: str, exit_code: int | None, signal: str | None
) -> None:
    await supervisor.start(run_dir, shell(script, work))
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.exit_code, ending.signal) == ("exited", exit_code, signal)
    assert (ending.receipt, ending.kill_cause, ending.detail) == (None, None, None)
    assert ending.started_at is not None
    assert ending.started_at <= ending.finished_at
    assert supervisor.state(run_dir) is RunState.ENDED
    assert await supervisor.wait(run_dir) == ending


async def test_states_of_a_run(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    assert supervisor.state(run_dir / "missing") is RunState.NEVER_STARTED
    assert supervisor.state(run_dir) is RunState.NEVER_STARTED
    await supervisor.start(run_dir, shell("sleep 60", work))
    assert supervisor.state(run_dir) is RunState.RUNNING
    await supervisor.kill(run_dir, 0, "test")
    await supervisor.wait(run_dir)
    assert supervisor.state(run_dir) is RunState.ENDED


async def test_agent_gets_its_stdin_and_working_directory(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    stdin = bytes(range(256)) * 1000
    await supervisor.start(run_dir, shell("cat; pwd >&2", work, stdin=stdin))
    ending = await supervisor.wait(run_dir)
    log = (run_dir / "log").read_bytes()
    assert log == stdin + os.fsencode(work) + b"\n"  # invalid UTF-8 and control characters untouched
    assert (ending.log_bytes, ending.log_dropped) == (len(log), 0)


@pytest.mark.attack(53)
async def test_environment_is_what_was_given_and_the_token(
    nursery_env: dict[str, str], run_dir: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPOKE_SECRET", "hunter2")
    env = {"PATH": PATH, "LANG": "C.UTF-8", "ODD": "\udcff=\n"}
    spec = LaunchSpec(argv=("sh", "-c", "env -0; cat /proc/$PPID/environ"), cwd=str(work), env=env, timeout_s=60)
    async with Supervisor(nursery_env=nursery_env) as supervisor:
        await supervisor.start(run_dir, program(("env", "-0"), work, env=env))
        await supervisor.wait(run_dir)
        variables = dict(v.split(b"=", 1) for v in (run_dir / "log").read_bytes().split(b"\0") if v)
        assert len(variables.pop(b"HUBSPOKE_RUN")) == 32
        assert variables == {os.fsencode(name): os.fsencode(value) for name, value in env.items()}

    beside = run_dir.with_name("beside")
    beside.mkdir()
    async with Supervisor(nursery_env=nursery_env) as supervisor:  # a used keeper would let nobody but root look
        await supervisor.start(beside, spec)
        await supervisor.wait(beside)
        log = (beside / "log").read_bytes()
        assert b"LC_ALL=" in log, "the keeper's environment could be read, or the next line proves nothing"
        assert b"hunter2" not in log


async def test_agent_starts_with_a_clean_slate(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    script = "ls /proc/self/fd; umask; ulimit -c; ulimit -n; ulimit -t; cat /proc/self/status /proc/self/stat"
    limits = Limits(nofile=77, cpu_s=1000, fsize_bytes=1 << 40, as_bytes=1 << 40, nproc=10_000)
    await supervisor.start(run_dir, shell(script, work, limits=limits))
    await supervisor.wait(run_dir)
    lines = (run_dir / "log").read_text().splitlines()
    assert lines[:4] == ["0", "1", "2", "3"]  # 3 is the listing itself
    assert lines[4:8] == ["0077", "0", "77", "1000"]
    status = dict(line.split(":\t", 1) for line in lines[8:-1])
    # Signals 32 and 33 are glibc's own: whoever was started by posix_spawn may ignore them, and nobody can undo it.
    glibc_only = 0x1_8000_0000
    assert {int(status[name], 16) & ~glibc_only for name in ("SigBlk", "SigIgn", "SigCgt")} == {0}
    pgrp, session = lines[-1].rpartition(")")[2].split()[2:4]
    assert pgrp == session


def test_a_proc_that_shows_nothing_but_processes_will_do(
    run_dir: Path, work: Path, nursery_env: dict[str, str]
) -> None:
    bare = ("unshare", "--mount", "sh", "-c", 'mount -t proc -o subset=pid proc /proc && exec "$@"', "sh")
    if subprocess.run((*bare, "true"), check=False, capture_output=True).returncode != 0:
        pytest.skip("nobody may mount a /proc of his own here")
    starter = (sys.executable, "-m", f"{__package__}.starter", str(run_dir), str(work), "60", "test ! -e /proc/sys")
    env = {**os.environ, "NURSERY_ENV": json.dumps(nursery_env)}
    with subprocess.Popen((*bare, *starter), cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as spoke:
        assert spoke.stdout is not None
        said = [spoke.stdout.readline(), spoke.stdout.readline()]
        spoke.kill()
    assert said == ["starting\n", "started\n"]


@pytest.mark.parametrize("limits", [Limits(), Limits(nofile=100)], ids=["spawned", "forked"])
async def test_no_signal_is_ignored_by_what_no_shell_put_right(
    supervisor: Supervisor, run_dir: Path, work: Path, limits: Limits
) -> None:
    await supervisor.start(run_dir, program(("cat", "/proc/self/status"), work, limits=limits))
    await supervisor.wait(run_dir)
    status = dict(line.split(":\t", 1) for line in (run_dir / "log").read_text().splitlines())
    glibc_only = 0x1_8000_0000
    assert {int(status[name], 16) & ~glibc_only for name in ("SigBlk", "SigIgn", "SigCgt")} == {0}


def _stdio_of(pid: int) -> set[str]:
    return {str(Path(f"/proc/{pid}/fd/{fd}").readlink()) for fd in (0, 1, 2)}


async def test_a_keeper_holds_nothing_of_the_spokes_terminal_or_log(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    await supervisor.start(run_dir, shell("sleep 60", work))
    keeper = json.loads((run_dir / "keeper.json").read_bytes())["pid"]
    held = _stdio_of(keeper)
    await supervisor.kill(run_dir, 0, "test")
    await supervisor.wait(run_dir)
    assert held == {os.devnull}


@pytest.mark.parametrize(
    ("argv", "cwd", "detail"),
    [
        pytest.param(("no-such-program",), ".", "exec no-such-program: No such file or directory", id="missing"),
        pytest.param(("/etc/passwd",), ".", "exec /etc/passwd: Permission denied", id="not executable"),
        pytest.param(("true",), "gone", "chdir", id="no working directory"),
        pytest.param(("true", "a\0b"), ".", "embedded null byte", id="NUL in an argument"),
    ],
)
@pytest.mark.parametrize("limits", [Limits(), Limits(nofile=100)], ids=["spawned", "forked"])
async def test_what_cannot_be_executed_is_a_failed_launch(
    supervisor: Supervisor, run_dir: Path, work: Path, argv: tuple[str, ...], cwd: str, detail: str, limits: Limits
) -> None:
    with pytest.raises(LaunchFailed) as failure:
        await supervisor.start(run_dir, program(argv, work / cwd, limits=limits))
    assert (failure.value.code, failure.value.retryable) == ("spawn_failed", False)
    assert detail in failure.value.message
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.exit_code, ending.signal) == ("spawn_failed", None, None)
    assert detail in str(ending.detail)
    assert supervisor.state(run_dir) is RunState.ENDED


async def test_a_run_directory_that_cannot_be_written_is_a_failed_launch(
    supervisor: Supervisor, new_run: Callable[[str], Path], work: Path
) -> None:
    for name in ("keeper.json.tmp", "log"):
        run_dir = new_run(name)
        (run_dir / name).mkdir()
        with pytest.raises(LaunchFailed, match="Is a directory"):
            await supervisor.start(run_dir, shell("echo started > ../proof", work))
    assert not (work / "../proof").exists()


async def test_an_attempt_is_started_at_most_once(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    spec = shell("echo started >> record; read line < go", work)
    os.mkfifo(work / "go")
    starts = await asyncio.gather(*(supervisor.start(run_dir, spec) for _ in range(5)), return_exceptions=True)
    assert [type(refused) for refused in starts if refused is not None] == [LaunchRefused] * 4
    await until((work / "record").exists)
    (work / "go").write_text("go\n")
    await supervisor.wait(run_dir)
    with pytest.raises(LaunchRefused) as refusal:
        await supervisor.start(run_dir, spec)
    assert refusal.value.code == "already_started"
    assert (work / "record").read_text() == "started\n"


async def test_waiting_for_what_never_started_is_refused(supervisor: Supervisor, run_dir: Path) -> None:
    with pytest.raises(NeverStarted):
        await supervisor.wait(run_dir)


async def test_a_cancelled_start_still_starts_once(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    start = asyncio.create_task(supervisor.start(run_dir, shell("echo started >> record", work)))
    await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await until(lambda: supervisor.state(run_dir) is RunState.ENDED)
    assert (work / "record").read_text() == "started\n"


async def test_the_launch_record_comes_to_the_disk_beside_the_agent(
    nursery_env: dict[str, str], run_dir: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, may_sync = [], threading.Event()

    def fsync(fd: int) -> None:
        may_sync.wait()
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())

    async with Supervisor(nursery_env=nursery_env) as supervisor:
        monkeypatch.setattr(os, "fsync", fsync)
        await supervisor.start(run_dir, shell("exit 7", work))
        assert (await supervisor.wait(run_dir)).exit_code == 7
        assert synced == []
        may_sync.set()
    assert synced == [run_dir / "launch.json", run_dir]


async def test_launch_records_that_wait_for_the_disk_all_come_to_it(
    nursery_env: dict[str, str], new_run: Callable[[str], Path], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, synced, may_sync = [new_run(name) for name in "abc"], set(), threading.Event()

    def fsync(fd: int) -> None:
        may_sync.wait()
        synced.add(Path(f"/proc/self/fd/{fd}").readlink())

    async with Supervisor(nursery_env=nursery_env) as supervisor:
        monkeypatch.setattr(os, "fsync", fsync)
        for run_dir in runs:
            await supervisor.start(run_dir, shell("true", work))
            await supervisor.wait(run_dir)
        may_sync.set()
    assert synced == {*runs, *(run_dir / "launch.json" for run_dir in runs)}


async def test_leaving_waits_for_starts_under_way(nursery_env: dict[str, str], run_dir: Path, work: Path) -> None:
    async with Supervisor(nursery_env=nursery_env) as supervisor:
        start = asyncio.create_task(supervisor.start(run_dir, shell("exit 6", work)))
        await asyncio.sleep(0)
    await start
    assert (await supervisor.wait(run_dir)).exit_code == 6


async def test_many_waiters_and_a_cancelled_one(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    os.mkfifo(work / "go")
    await supervisor.start(run_dir, shell("read line < go; exit 9", work))
    waiters = [asyncio.create_task(supervisor.wait(run_dir)) for _ in range(5)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    (work / "go").write_text("go\n")
    first, *others = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert len(others) == 4
    assert all(other == others[0] for other in others)
    assert (await supervisor.wait(run_dir)).exit_code == 9


async def test_twenty_agents_at_once(supervisor: Supervisor, new_run: Callable[[str], Path], work: Path) -> None:
    os.mkfifo(work / "go")
    runs = [new_run(str(number)) for number in range(20)]
    script = "echo here; read line < go; exit $0"
    specs = [program(("/bin/sh", "-c", script, str(number)), work) for number in range(20)]
    await asyncio.gather(*map(supervisor.start, runs, specs))
    for run in runs:
        await until(says(run, "here"))
    assert {supervisor.state(run) for run in runs} == {RunState.RUNNING}
    go = os.open(work / "go", os.O_RDWR)
    os.write(go, b"go\n" * 20)
    endings = await asyncio.gather(*map(supervisor.wait, runs))
    os.close(go)
    assert [ending.exit_code for ending in endings] == list(range(20))


@pytest.mark.fault(28)
async def test_a_flood_of_output_is_capped_and_the_agent_goes_on(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    mib, flood, tail = 1 << 20, 64 << 20, b"still here\n"
    script = f"head -c {flood} /dev/zero; echo still here; echo done > finished; exit 2"
    await supervisor.start(run_dir, shell(script, work, log_cap_bytes=mib))
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.exit_code) == ("exited", 2)
    assert (work / "finished").exists()
    assert (ending.log_bytes, ending.log_dropped) == (mib, flood - mib + len(tail))
    log = (run_dir / "log").read_bytes()
    assert log[:mib] == bytes(mib)
    assert log[mib:] == b"\n[hubspoke: capped at 1048576 bytes; the rest of the output is dropped]\n"


async def test_paths_may_be_longer_than_a_socket_address(
    supervisor: Supervisor, new_run: Callable[[str], Path], work: Path
) -> None:
    run_dir = new_run("/".join(["d" * 60] * 5))
    assert len(str(run_dir)) > 300
    await supervisor.start(run_dir, shell("echo here; exec sleep 1000", work))
    await until(says(run_dir, "here"))
    await supervisor.kill(run_dir, 5, "test")
    assert (await supervisor.wait(run_dir)).cause == "killed"


async def test_output_after_the_main_process_is_not_waited_for(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    script = "import os, sys; os.write(1, b'x' * 60000); os._exit(0)"
    await supervisor.start(run_dir, python(script, work))
    ending = await supervisor.wait(run_dir)
    assert ending.log_bytes == 60000
    assert (run_dir / "log").stat().st_size == 60000
