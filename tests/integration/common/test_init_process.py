"""Process 1 of a container: here it is a process that the kernel gives orphans to, as it gives them to process 1."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from common.init_process import split_off_init
from tests.spoke_node import DEADLINE_S, is_alive, parent_of, until

NODE = """\
import ctypes, os, signal, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what becomes an orphan below is ours, as it is process 1's
from common.init_process import split_off_init
split_off_init(is_first=True)
{body}
"""


@contextmanager
def container(body: str) -> Iterator[subprocess.Popen[str]]:
    """Run a node with this body below an init of its own."""
    command = [sys.executable, "-c", NODE.format(body=body)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # all of it has ended
                os.killpg(process.pid, signal.SIGKILL)


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


@pytest.mark.fault(26)
def test_orphans_are_reaped_and_the_node_waits_for_its_own_children() -> None:
    body = """
subprocess.run(["sh", "-c", "for n in 1 2 3; do (sleep 0.05 & exec sh -c true) & done"])
print(subprocess.run(["sh", "-c", "exit 5"]).returncode, flush=True)
sys.stdin.read() or time.sleep(60)
"""
    with container(body) as init:
        assert init.stdout is not None
        assert init.stdout.readline() == "5\n"
        (node,) = until(lambda: len(found := children_of(init.pid)) == 1 and found, "only the node is left")
        assert (is_alive(node), parent_of(node)) == (True, init.pid)


ENDS = {
    "an exit status": ("sys.exit(7)", 7),
    "success": ("", 0),
    "a signal": ("os.kill(os.getpid(), signal.SIGKILL)", 137),
}


@pytest.mark.parametrize(("body", "status"), ENDS.values(), ids=ENDS)
def test_it_ends_with_the_node_and_as_the_node_did(body: str, status: int) -> None:
    with container(body) as init:
        assert init.wait(DEADLINE_S) == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_signals_reach_the_node(number: signal.Signals) -> None:
    body = f"""
signal.signal({number.value}, lambda number, _: sys.exit(number))
print(flush=True)
time.sleep(60)
"""
    with container(body) as init:
        assert init.stdout is not None
        init.stdout.readline()
        init.send_signal(number)
        assert init.wait(DEADLINE_S) == number


def test_any_other_process_stays_one() -> None:
    before = os.getpid()
    split_off_init()
    assert os.getpid() == before
