"""Agents whose spoke, nursery or keeper was killed with -9."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from spoke.supervision import adoption, linux
from spoke.supervision.nursery_client import NurseryClient
from spoke.supervision.run_dir import (
    CRASH,
    EXIT,
    KEEPER,
    LAUNCH,
    LOCK,
    LOG,
    STDIN,
    KeeperRecord,
    Limits,
    RunState,
    decode_keeper,
    decode_launch,
    encode_keeper,
    encode_launch,
)
from spoke.supervision.supervisor import LaunchFailed, LaunchRefused, Supervisor

from .agents import ESCAPE, HOP, program, python, says, shell, until

ROOT = Path(__file__).resolve().parents[4]


@contextmanager
def starter(
    run_dir: Path, work: Path, env: dict[str, str], script: str, timeout_s: float = 60
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a real spoke process that starts `script`; it is dead by SIGKILL afterwards."""
    command = [sys.executable, "-m", "tests.integration.spoke.supervision.starter"]
    with subprocess.Popen(
        [*command, str(run_dir), str(work), str(timeout_s), script],
        cwd=ROOT,
        env={"PATH": os.defpath, "NURSERY_ENV": json.dumps(env)},
        stdout=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def hears(process: subprocess.Popen[bytes], word: bytes) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == word + b"\n"


def keeper_of(run_dir: Path) -> int:
    keeper = decode_keeper((run_dir / KEEPER).read_bytes())
    assert keeper is not None
    return keeper.pid


@pytest.mark.fault(8)
async def test_an_agent_outlives_its_spoke_and_is_adopted(
    supervisor: Supervisor, nursery_env: dict[str, str], run_dir: Path, work: Path
) -> None:
    os.mkfifo(work / "go")
    with starter(run_dir, work, nursery_env, "echo before; read line < go; echo after; exit 7") as spoke:
        hears(spoke, b"starting")
        hears(spoke, b"started")
        await until(says(run_dir, "before"))
    assert supervisor.state(run_dir) is RunState.RUNNING
    waiting = asyncio.create_task(supervisor.wait(run_dir))
    await asyncio.sleep(0)
    (work / "go").write_text("go\n")
    ending = await waiting
    assert (ending.cause, ending.exit_code, ending.receipt) == ("exited", 7, None)
    assert (run_dir / "log").read_bytes() == b"before\nafter\n"
    with pytest.raises(LaunchRefused):
        await supervisor.start(run_dir, shell("exit 0", work))


async def test_an_adopted_agent_can_be_killed(
    supervisor: Supervisor, nursery_env: dict[str, str], run_dir: Path, work: Path
) -> None:
    with starter(run_dir, work, nursery_env, "exec sleep 1000") as spoke:
        hears(spoke, b"starting")
        hears(spoke, b"started")
    await supervisor.kill(run_dir, 5, "after_restart")
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.kill_cause, ending.signal) == ("killed", "after_restart", "SIGTERM")


async def test_limits_hold_while_nobody_watches(
    supervisor: Supervisor, nursery_env: dict[str, str], run_dir: Path, work: Path
) -> None:
    with starter(run_dir, work, nursery_env, "exec sleep 1000", timeout_s=0.5) as spoke:
        hears(spoke, b"starting")
        hears(spoke, b"started")
    await until((run_dir / EXIT).exists)
    assert (await supervisor.wait(run_dir)).cause == "timeout"


@pytest.mark.fault(7)
async def test_a_spoke_killed_while_starting_leaves_one_agent_or_none(
    supervisor: Supervisor, nursery_env: dict[str, str], new_run: Callable[[str], Path], work: Path
) -> None:
    for number in range(10):
        run_dir, record = new_run(str(number)), work / f"record{number}"
        script = f"echo started >> {record.name}; exec sleep 1000"
        with starter(run_dir, work, nursery_env, script) as spoke:
            hears(spoke, b"starting")
            await asyncio.sleep(random.uniform(0, 0.012))  # the kill point, not a wait
        if supervisor.state(run_dir) is RunState.NEVER_STARTED:
            await supervisor.start(run_dir, shell(script, work))
        else:
            with pytest.raises(LaunchRefused):
                await supervisor.start(run_dir, shell(script, work))
        await supervisor.kill(run_dir, 5, "test")
        ending = await supervisor.wait(run_dir)
        assert ending.cause in ("killed", "lost")
        assert not record.exists() or record.read_text() in ("", "started\n")  # killed before it wrote, or after


async def test_a_killed_keeper_takes_an_agent_with_limits_along_though_nobody_looks(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    await supervisor.start(run_dir, shell(": > ready; kill -STOP $$", work, limits=Limits(nofile=100)))
    await until((work / "ready").exists)
    (main,) = linux.children_of(keeper_of(run_dir))
    os.kill(keeper_of(run_dir), signal.SIGKILL)
    await until(lambda: _is_dead(main))
    assert supervisor.state(run_dir) is RunState.LOST


async def test_what_a_killed_keeper_leaves_is_found_and_the_run_is_lost(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    await supervisor.start(run_dir, python(ESCAPE + "print('out', flush=True); signal.pause()", work))
    await until(says(run_dir, "out"))
    waiting = asyncio.create_task(supervisor.wait(run_dir))
    await asyncio.sleep(0)
    main, *_ = linux.children_of(keeper_of(run_dir))
    os.kill(keeper_of(run_dir), signal.SIGKILL)
    ending = await waiting
    assert (ending.cause, ending.exit_code, ending.signal, ending.log_bytes) == ("lost", None, None, 4)
    assert ending.receipt is not None
    assert [sent.signal for sent in ending.receipt.signals] == ["SIGKILL"]
    assert ending.receipt.survivors == 0
    await until(lambda: _is_dead(main) and _is_dead(int((work / "escaped").read_text())))
    assert supervisor.state(run_dir) is RunState.LOST
    assert await supervisor.wait(run_dir) == ending
    await supervisor.kill(run_dir, 5, "too late")


def cmdline_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _is_dead(pid: int) -> bool:
    stat = linux.stat_of(pid)
    return stat is None or stat.state == "Z"


@pytest.mark.fault(24)
@pytest.mark.parametrize("limits", [Limits(), Limits(nofile=100)], ids=["spawned", "forked"])
async def test_what_is_never_the_same_process_for_long_is_found_without_its_keeper(
    supervisor: Supervisor, run_dir: Path, work: Path, limits: Limits
) -> None:
    await supervisor.start(run_dir, python(HOP, work, limits=limits))
    await until(says(run_dir, "hopping"))
    os.kill(keeper_of(run_dir), signal.SIGKILL)
    ending = await supervisor.wait(run_dir)
    assert ending.cause == "lost"
    assert ending.receipt is not None
    assert ending.receipt.survivors == 0


async def test_a_lost_run_is_settled_once(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    await supervisor.start(run_dir, program(("sleep", "1000"), work))
    os.kill(keeper_of(run_dir), signal.SIGKILL)
    endings = await asyncio.gather(*(supervisor.wait(run_dir) for _ in range(10)))
    assert all(ending == endings[0] for ending in endings)
    assert endings[0].cause == "lost"


async def test_settling_waits_for_whoever_holds_the_lock(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    (run_dir / LAUNCH).write_bytes(encode_launch(shell("true", work), "t" * 32))
    with adoption.opened(run_dir) as dir_fd:
        lock_fd = adoption.take_lock(dir_fd)
        assert lock_fd is not None
        assert supervisor.state(run_dir) is RunState.RUNNING
        assert adoption.settle_lost(dir_fd) is None
        waiting = asyncio.create_task(supervisor.wait(run_dir))
        await asyncio.wait([waiting], timeout=0.1)
        assert not waiting.done()
        os.close(lock_fd)
    ending = await waiting
    assert (ending.cause, ending.started_at, ending.receipt) == ("lost", None, None)


@pytest.mark.fault(7)
@pytest.mark.parametrize("limits", [Limits(), Limits(nofile=100)], ids=["spawned", "forked"])
async def test_an_agent_that_emptied_its_environment_is_found(
    supervisor: Supervisor, run_dir: Path, work: Path, limits: Limits
) -> None:
    script = "(env -i setsid sleep 1000 &); echo out; exec env -i sh -c 'sleep 1000; :'"
    await supervisor.start(run_dir, shell(script, work, limits=limits))
    await until(says(run_dir, "out"))
    keeper = keeper_of(run_dir)
    sleeps = b"sleep\0" + b"1000\0"
    await until(lambda: [cmdline_of(each.pid) for each in linux.descendants_of(keeper)].count(sleeps) == 2)
    agents = list(linux.descendants_of(keeper))
    assert len(agents) == 3
    os.kill(keeper, signal.SIGKILL)
    ending = await supervisor.wait(run_dir)
    assert ending.cause == "lost"
    assert ending.receipt is not None
    assert (ending.receipt.signals[0].signal, ending.receipt.survivors) == ("SIGKILL", 0)
    assert all(map(_is_dead, [each.pid for each in agents]))


@pytest.mark.parametrize("exit_content", [None, b"", b"{}", b'{"cause": "won"}', b"[1]", b"\xff"])
async def test_a_damaged_run_is_lost_never_successful(
    supervisor: Supervisor, run_dir: Path, exit_content: bytes | None
) -> None:
    (run_dir / LAUNCH).write_bytes(b"damaged")
    (run_dir / KEEPER).write_bytes(b"damaged")
    (run_dir / LOG).write_bytes(b"four")
    if exit_content is not None:
        (run_dir / EXIT).write_bytes(exit_content)
    assert supervisor.state(run_dir) is RunState.LOST
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.log_bytes) == ("lost", 4)
    assert "damaged" in str(ending.detail)


@contextmanager
def a_stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.fault(27)
async def test_a_stranger_with_the_keepers_id_is_no_keeper(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    (run_dir / LAUNCH).write_bytes(encode_launch(shell("true", work), "t" * 32))
    with a_stranger() as stranger:
        stat = linux.stat_of(stranger.pid)
        assert stat is not None
        record = KeeperRecord(stranger.pid, stat.start_ticks - 1, "2026-01-01T00:00:00.000Z")
        (run_dir / KEEPER).write_bytes(encode_keeper(record))
        ending = await supervisor.wait(run_dir)
        assert (ending.cause, ending.started_at) == ("lost", record.started_at)
        assert stranger.poll() is None


async def test_a_killed_nursery_is_replaced(supervisor: Supervisor, new_run: Callable[[str], Path], work: Path) -> None:
    first, second = new_run("first"), new_run("second")
    await supervisor.start(first, program(("sleep", "1000"), work))
    assert supervisor.nursery_pid is not None
    os.kill(supervisor.nursery_pid, signal.SIGKILL)
    await supervisor.start(second, shell("exit 5", work))
    assert (await supervisor.wait(second)).exit_code == 5
    assert supervisor.state(first) is RunState.RUNNING
    await supervisor.kill(first, 5, "test")
    assert (await supervisor.wait(first)).cause == "killed"


async def test_a_start_in_the_queue_of_a_killed_nursery_happens_once(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    nursery_pid = supervisor.nursery_pid
    assert nursery_pid is not None
    os.kill(nursery_pid, signal.SIGSTOP)
    start = asyncio.create_task(supervisor.start(run_dir, shell("echo started >> record", work)))
    await until((run_dir / LAUNCH).exists)
    os.kill(nursery_pid, signal.SIGKILL)
    await start
    await supervisor.wait(run_dir)
    assert (work / "record").read_text() == "started\n"


async def test_a_nursery_that_does_not_end_is_killed(
    nursery_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spoke.supervision.nursery_client.STOP_S", 0.1)
    async with Supervisor(nursery_env=nursery_env) as supervisor:
        assert supervisor.nursery_pid is not None
        os.kill(supervisor.nursery_pid, signal.SIGSTOP)


def spares() -> list[int]:
    """The processes that wait to keep an agent."""
    found = []
    for each, stat in linux.descendants_of(os.getpid()).items():
        with suppress(FileNotFoundError):
            if stat.state != "Z" and Path(f"/proc/{each.pid}/comm").read_text() == "hubspoke-spare\n":
                found.append(each.pid)
    return found


async def test_a_killed_spare_is_replaced(supervisor: Supervisor, new_run: Callable[[str], Path], work: Path) -> None:
    for number in range(3):
        await until(lambda: len(spares()) == 1)
        [waiting] = spares()
        os.kill(waiting, signal.SIGKILL)
        await until(lambda: waiting not in spares())  # noqa: B023 - waited for
        run_dir = new_run(f"run-{number}")
        await supervisor.start(run_dir, shell("exit 7", work))
        assert (await supervisor.wait(run_dir)).exit_code == 7
        os.kill(keeper_of(run_dir), signal.SIGKILL)  # it would be used again


async def test_a_keeper_that_does_not_get_on_holds_up_nobody(
    supervisor: Supervisor, new_run: Callable[[str], Path], work: Path
) -> None:
    await until(lambda: len(spares()) == 1)
    [keeper] = spares()
    os.kill(keeper, signal.SIGSTOP)
    first, second = new_run("first"), new_run("second")
    stuck = asyncio.create_task(supervisor.start(first, shell("exit 5", work)))
    await until((first / LAUNCH).exists)
    await supervisor.start(second, shell("exit 7", work))
    assert (await supervisor.wait(second)).exit_code == 7
    assert not stuck.done()
    os.kill(keeper, signal.SIGCONT)
    await stuck
    assert (await supervisor.wait(first)).exit_code == 5
    await until(lambda: {keeper_of(first), keeper_of(second)} <= set(spares()))


async def test_spares_end_with_the_nursery(nursery_env: dict[str, str]) -> None:
    async with Supervisor(nursery_env=nursery_env):
        await until(lambda: len(spares()) == 1)
    await until(lambda: not spares())


async def test_a_request_that_is_none_is_dropped(nursery_env: dict[str, str]) -> None:
    client = NurseryClient(nursery_env)
    try:
        for _ in range(2):
            read_fd, write_fd = os.pipe()
            client.request((write_fd,))
            os.close(write_fd)
            assert os.read(read_fd, 1) == b""  # closed, and by a nursery that goes on
            os.close(read_fd)
    finally:
        client.stop()


async def test_a_keeper_that_fails_says_why_and_its_run_is_lost(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    spec = shell("echo started > record", work, timeout_s="no number")
    with pytest.raises(LaunchFailed) as failure:
        await supervisor.start(run_dir, spec)
    assert (failure.value.code, failure.value.retryable) == ("lost", True)
    assert "TypeError" in (run_dir / CRASH).read_text()
    assert (await supervisor.wait(run_dir)).cause == "lost"
    assert not (work / "record").exists()


async def test_a_start_that_cannot_be_written_down_starts_nothing(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    (run_dir / f"{STDIN}.tmp").mkdir()
    with pytest.raises(IsADirectoryError):
        await supervisor.start(run_dir, shell("echo started > record", work, stdin=b"read me"))
    assert supervisor.state(run_dir) is RunState.NEVER_STARTED
    assert not (work / "record").exists()


async def test_what_a_starter_wrote_before_it_died_is_no_launch_record_and_is_in_nobodys_way(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    (run_dir / LOCK).write_bytes(b"half of another launch record, and longer than the one that is to come" * 20)
    assert supervisor.state(run_dir) is RunState.NEVER_STARTED
    await supervisor.start(run_dir, shell("echo started > record", work))
    await supervisor.wait(run_dir)
    assert (work / "record").read_text() == "started\n"
    assert decode_launch((run_dir / LAUNCH).read_bytes())[0].argv[-1] == "echo started > record"


async def test_a_refused_start_leaves_the_launch_record_as_it_was(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    await supervisor.start(run_dir, shell("true", work))
    await supervisor.wait(run_dir)
    before = (run_dir / LAUNCH).read_bytes()
    with pytest.raises(LaunchRefused):
        await supervisor.start(run_dir, shell("echo again", work))
    assert (run_dir / LAUNCH).read_bytes() == before
