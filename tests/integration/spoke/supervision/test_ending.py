"""Ending an agent: kills, limits, and everything it started."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spoke.supervision import linux
from spoke.supervision.run_dir import KEEPER, Ending, RunState, decode_keeper
from spoke.supervision.supervisor import Supervisor

from .agents import ESCAPE, HOP, ORPHANS, program, python, says, shell, until

IGNORE_TERM = "trap '' TERM; echo ready; while :; do sleep 0.05; done"


def signals(ending: Ending) -> list[str]:
    assert ending.receipt is not None
    assert ending.receipt.survivors == 0
    return [sent.signal for sent in ending.receipt.signals]


def keeper_pid(run_dir: Path) -> int:
    keeper = decode_keeper((run_dir / "keeper.json").read_bytes())
    assert keeper is not None
    return keeper.pid


async def test_kill_lets_the_agent_clean_up(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    await supervisor.start(run_dir, shell(script, work))
    await until(says(run_dir, "ready"))
    await supervisor.kill(run_dir, 30, "killed_by_peer")
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.kill_cause, ending.exit_code) == ("killed", "killed_by_peer", 5)
    assert signals(ending) == ["SIGTERM"]
    assert b"bye\n" in (run_dir / "log").read_bytes()


async def test_kill_forces_what_ignores_it(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    await supervisor.start(run_dir, shell(IGNORE_TERM, work))
    await until(says(run_dir, "ready"))
    await supervisor.kill(run_dir, 0.1, "killed_by_peer")
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.exit_code, ending.signal) == ("killed", None, "SIGKILL")
    assert signals(ending) == ["SIGTERM", "SIGKILL"]


async def test_kill_reaches_a_stopped_agent(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    await supervisor.start(run_dir, shell("echo ready; kill -STOP $$", work))
    await until(says(run_dir, "ready"))
    keeper = decode_keeper((run_dir / KEEPER).read_bytes())
    assert keeper is not None
    await until(lambda: [stat.state for stat in linux.descendants_of(keeper.pid).values()] == ["T"])
    await supervisor.kill(run_dir, 0.1, "test")
    assert signals(await supervisor.wait(run_dir)) == ["SIGTERM", "SIGKILL"]


async def test_kill_without_grace(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    await supervisor.start(run_dir, shell(IGNORE_TERM, work))
    await supervisor.kill(run_dir, 0, "test")
    assert signals(await supervisor.wait(run_dir)) == ["SIGKILL"]


@pytest.mark.fault(24)
@pytest.mark.parametrize("end", ["signal.pause()", "sys.exit(4)"], ids=["killed", "ended by itself"])
async def test_nothing_escapes_its_agent(supervisor: Supervisor, run_dir: Path, work: Path, end: str) -> None:
    await supervisor.start(run_dir, python(ESCAPE + end, work, grace_s=0.2))
    await until((work / "escaped").exists)
    escaped = linux.Process(int((work / "escaped").read_text()), 0)
    await supervisor.kill(run_dir, 0.2, "test")
    ending = await supervisor.wait(run_dir)
    assert ending.cause in ("killed", "exited")
    assert signals(ending) == ["SIGTERM", "SIGKILL"]
    assert linux.stat_of(escaped.pid) is None


async def test_leftovers_keep_the_exit_code_of_the_main_process(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    await supervisor.start(run_dir, python(ESCAPE + "sys.exit(4)", work, grace_s=0.1))
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.kill_cause, ending.exit_code) == ("exited", None, 4)
    assert signals(ending) == ["SIGTERM", "SIGKILL"]


async def test_leftovers_may_clean_up(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    background = "(trap 'echo cleaned; exit' TERM; echo waiting; while :; do sleep 0.02; done) &"
    wait = "while ! grep -q waiting ../runs/run/log; do sleep 0.01; done"
    await supervisor.start(run_dir, shell(f"{background} {wait}; exit 0", work))
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.exit_code) == ("exited", 0)
    assert signals(ending) == ["SIGTERM"]
    assert b"cleaned\n" in (run_dir / "log").read_bytes()


async def test_a_process_that_hops_from_fork_to_fork_is_caught(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    await supervisor.start(run_dir, python(HOP, work))
    await until(says(run_dir, "hopping"))
    await supervisor.kill(run_dir, 0.1, "test")
    assert signals(await supervisor.wait(run_dir)) == ["SIGTERM", "SIGKILL"]


@pytest.mark.fault(26)
async def test_orphans_are_reaped_while_the_agent_runs(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    await supervisor.start(run_dir, python(ORPHANS, work))
    await until(says(run_dir, "orphaned"))
    await until(lambda: len(linux.children_of(keeper_pid(run_dir))) == 1)
    assert supervisor.state(run_dir) is RunState.RUNNING
    await supervisor.kill(run_dir, 5, "test")
    assert signals(await supervisor.wait(run_dir)) == ["SIGTERM"]


async def test_a_later_kill_may_shorten_the_grace_and_changes_nothing_else(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    await supervisor.start(run_dir, shell(IGNORE_TERM, work))
    await until(says(run_dir, "ready"))
    began = time.monotonic()
    await supervisor.kill(run_dir, 600, "first")
    await supervisor.kill(run_dir, 0.1, "second")
    await supervisor.kill(run_dir, 600, "third")
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.kill_cause) == ("killed", "first")
    assert time.monotonic() - began < 30


async def test_a_kill_while_starting_is_kept(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    start = asyncio.create_task(supervisor.start(run_dir, program(("sleep", "1000"), work)))
    await asyncio.sleep(0)
    await supervisor.kill(run_dir, 5, "early")
    await start
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.kill_cause, ending.signal) == ("killed", "early", "SIGTERM")


async def test_a_kill_before_and_after_is_no_error(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    await supervisor.kill(run_dir, 5, "before")
    await supervisor.start(run_dir, shell("exit 0", work))
    ending = await supervisor.wait(run_dir)
    await supervisor.kill(run_dir, 5, "after")
    assert (ending.cause, ending.kill_cause) == ("exited", None)
    assert await supervisor.wait(run_dir) == ending


async def test_kills_beyond_what_the_fifo_holds_are_no_error(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    await supervisor.start(run_dir, program(("sleep", "1000"), work))
    pid = keeper_pid(run_dir)
    os.kill(pid, signal.SIGSTOP)
    for _ in range(1000):
        await supervisor.kill(run_dir, 5, "x" * 500)
    os.kill(pid, signal.SIGCONT)
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.kill_cause) == ("killed", "x" * 200)


async def test_a_kill_that_races_the_end_gives_one_ending(
    supervisor: Supervisor, new_run: Callable[[str], Path], work: Path
) -> None:
    for number in range(20):
        run_dir = new_run(str(number))
        script = f"trap 'exit 1' TERM; sleep 0.0{number}; exit 0"
        await supervisor.start(run_dir, shell(script, work))
        await supervisor.kill(run_dir, 5, "race")
        ending = await supervisor.wait(run_dir)
        assert ending == await supervisor.wait(run_dir)
        assert ending.cause in ("killed", "exited")
        assert (ending.kill_cause == "race") is (ending.cause == "killed")


async def test_nonsense_in_the_control_fifo_is_ignored(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    await supervisor.start(run_dir, program(("sleep", "1000"), work))
    lines = b'\n{}\n[]\n{"kill": 1}\n{"kill": {"grace_s": NaN, "cause": "x"}}\n\xff\n' + b"z" * 9000 + b"\n"
    with (run_dir / "control").open("wb") as control:
        control.write(lines)
    await supervisor.kill(run_dir, 5, "sense")
    assert (await supervisor.wait(run_dir)).kill_cause == "sense"


async def test_timeout(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    await supervisor.start(run_dir, shell(IGNORE_TERM, work, timeout_s=1.0, grace_s=0.1))
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.signal) == ("timeout", "SIGKILL")
    assert signals(ending) == ["SIGTERM", "SIGKILL"]


async def test_silence(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    await supervisor.start(run_dir, shell("echo once; exec sleep 1000", work, silence_s=0.3))
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.signal) == ("silence", "SIGTERM")


async def test_any_output_is_life(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9 10; do echo alive; sleep 0.3; done"
    await supervisor.start(run_dir, shell(script, work, silence_s=2.0))
    assert (await supervisor.wait(run_dir)).cause == "exited"


async def test_a_terminated_keeper_ends_its_agent_in_order(supervisor: Supervisor, run_dir: Path, work: Path) -> None:
    await supervisor.start(run_dir, program(("sleep", "1000"), work))
    os.kill(keeper_pid(run_dir), signal.SIGTERM)
    ending = await supervisor.wait(run_dir)
    assert (ending.cause, ending.kill_cause, ending.signal) == ("killed", "keeper_terminated", "SIGTERM")


async def test_an_ending_that_cannot_be_written_is_tried_again(
    supervisor: Supervisor, run_dir: Path, work: Path
) -> None:
    obstacle = run_dir / "exit.json.tmp"
    obstacle.mkdir()
    await supervisor.start(run_dir, shell("exit 8", work))
    await until(lambda: not linux.children_of(keeper_pid(run_dir)))
    assert supervisor.state(run_dir) is RunState.RUNNING
    obstacle.rmdir()
    assert (await supervisor.wait(run_dir)).exit_code == 8
