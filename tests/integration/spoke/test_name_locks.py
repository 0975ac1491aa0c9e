"""Locks by name that hold between processes, and what an agent's occupation means to another process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spoke.agent_record import AgentRef
from spoke.name_locks import NameLocks
from spoke.occupancy import Occupancy
from tests.spoke_node import eventually, until

HOLD = """
import asyncio, sys
from pathlib import Path
from spoke.agent_record import AgentRef
from spoke.occupancy import Occupancy

async def hold():
    async with Occupancy(Path(sys.argv[1])).hold(AgentRef("hub-eu", "one")):
        print("held", flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(hold())
"""
ONE = AgentRef("hub-eu", "one")


@contextmanager
def held_elsewhere(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process works on the agent `one` of `hub-eu`."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_one_process_at_a_time_works_on_an_agent(tmp_path: Path) -> None:
    here = Occupancy(tmp_path)
    with held_elsewhere(tmp_path):
        with here.try_hold(ONE) as held:
            assert not held
        with here.try_hold(AgentRef("hub-eu", "another")) as held:
            assert held
        assert here.holds_any_of("hub-eu")
        assert not here.holds_any_of("hub-us")
    assert not here.holds_any_of("hub-eu")


async def test_whoever_waits_goes_on_when_the_holder_is_killed_and_not_while_it_stands_still(tmp_path: Path) -> None:
    here, went_on = Occupancy(tmp_path), False
    with held_elsewhere(tmp_path) as other:
        other.send_signal(signal.SIGSTOP)
        with here.try_hold(ONE) as held:
            assert not held
        other.send_signal(signal.SIGKILL)
        async with here.hold(ONE):
            went_on = True
    assert went_on


async def test_holders_of_one_process_exclude_each_other_too(tmp_path: Path) -> None:
    here, order = Occupancy(tmp_path), []
    async with here.hold(ONE):
        with Occupancy(tmp_path).try_hold(ONE) as held:
            order.append(held)
        assert Occupancy(tmp_path).holds_any_of("hub-eu")
    with here.try_hold(ONE) as held:
        order.append(held)
    assert order == [False, True]


def test_a_child_process_does_not_keep_what_its_parent_held(tmp_path: Path) -> None:
    locks = NameLocks(tmp_path / "names.lock")
    with locks.trying("one", "all") as held:
        assert held
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        until(lambda: not locks.is_shared("one") and not locks.is_shared("all"), "its copy went when it began to run")
    finally:
        child.communicate(b"\n", timeout=10)


@pytest.mark.parametrize("count", [2, 3])
async def test_many_share_what_is_shared(tmp_path: Path, count: int) -> None:
    locks = NameLocks(tmp_path / "names.lock")
    with locks.trying("0", "all") as first:
        assert first
        for number in range(1, count):
            with locks.trying(str(number), "all") as another:
                assert another
        assert locks.is_shared("all")
    await eventually(lambda: not locks.is_shared("all"), "nobody holds it")
