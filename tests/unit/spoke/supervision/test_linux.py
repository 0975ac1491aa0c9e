from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from spoke.supervision import linux


@pytest.fixture
def child() -> Iterator[linux.Process]:
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        stat = linux.stat_of(process.pid)
        assert stat is not None
        try:
            yield linux.Process(process.pid, stat.start_ticks)
        finally:
            process.kill()


def test_clock_is_utc_with_milliseconds() -> None:
    assert re.fullmatch(r"2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", linux.now_rfc3339())


def test_a_process_is_seen(child: linux.Process) -> None:
    assert linux.is_same(linux.this_process())
    assert linux.lists_children()
    assert child.pid in linux.children_of(os.getpid())
    assert child in linux.descendants_of(os.getpid())
    assert linux.descendants_of(child.pid) == {}


@pytest.mark.fault(27)
def test_a_stranger_with_the_same_id_is_not_signalled(child: linux.Process) -> None:
    stranger = linux.Process(child.pid, child.start_ticks - 1)
    assert not linux.is_same(stranger)
    assert linux.open_pidfd(stranger) is None
    assert not linux.signal_process(stranger, signal.SIGKILL)
    stat = linux.stat_of(child.pid)
    assert stat is not None
    assert stat.state != "Z"


def test_the_process_itself_is_signalled(child: linux.Process) -> None:
    assert linux.signal_process(child, signal.SIGTERM)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


def test_what_is_gone_is_nowhere() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        stat = linux.stat_of(process.pid)
        assert stat is not None
    gone = linux.Process(process.pid, stat.start_ticks)
    assert linux.stat_of(gone.pid) is None
    assert linux.children_of(gone.pid) == []
    assert linux.descendants_of(gone.pid) == {}
    assert not linux.signal_process(gone, signal.SIGKILL)


def test_a_mark_outlives_an_emptied_environment_and_is_taken_off_again() -> None:
    with linux.marking(2**61 + 1):
        process = subprocess.Popen(["/bin/sh", "-c", "env -i sleep 1000 & echo; wait"], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        family = [process.pid, *linux.children_of(process.pid)]
        assert [linux.read_mark(pid) for pid in family] == [2**61 + 1] * 2
        for pid in family:
            os.kill(pid, signal.SIGKILL)
    assert linux.read_mark(os.getpid()) is None
    assert linux.read_mark(process.pid) is None


def test_where_somebody_limits_file_locks_there_is_no_mark() -> None:
    def limit() -> None:
        resource.setrlimit(10, (7, 7))  # RLIMIT_LOCKS

    script = (
        "from spoke.supervision import linux; import os\nwith linux.marking(2**61): print(linux.read_mark(os.getpid()))"
    )
    done = subprocess.run((sys.executable, "-c", script), check=True, capture_output=True, preexec_fn=limit)
    assert done.stdout == b"7\n"
