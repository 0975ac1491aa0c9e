"""The few things of Linux the supervisor stands on: prctl, /proc, pidfds, and the clock on the wall.

A process is named by its id **and** its start time, and a signal goes through a pidfd that was checked against both, so
a stranger who inherited an id is never signalled (fault 27). Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_RLIMIT_LOCKS: Final = 10
"""Of no effect since Linux 2.4, and yet inherited and shown: getrlimit(2)."""

_libc: Final = ctypes.CDLL(None, use_errno=True)
_ZERO: Final = ctypes.c_ulong(0)
_CHUNK: Final = 4096
_GONE: Final = (FileNotFoundError, ProcessLookupError)
"""How /proc says that a process has ended between two looks."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process, not merely its number."""

    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """The fields of /proc/PID/stat that matter here (proc(5))."""

    state: str
    ppid: int
    pgrp: int
    start_ticks: int
    threads: int = 1
    rss_pages: int = 0


def now_rfc3339() -> str:
    """Return the wall clock as UTC with milliseconds and Z."""
    ms = time.time_ns() // 1_000_000
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03d}Z"


def _prctl(option: int, value: ctypes.c_ulong | ctypes.c_char_p) -> None:
    if _libc.prctl(option, value, _ZERO, _ZERO, _ZERO) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _read(path: str) -> bytes:
    """Return what a small file of /proc holds; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        while chunk := os.read(fd, _CHUNK):  # a shorter one than asked for is not the last, seq_file(9)
            content += chunk
        return content
    finally:
        os.close(fd)


def die_with_parent() -> None:
    """Have the kernel SIGKILL this process when the thread that forked it ends (prctl(2) PR_SET_PDEATHSIG)."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


def become_subreaper() -> None:
    """Have every orphaned descendant reparented to this process (prctl(2) PR_SET_CHILD_SUBREAPER)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def hide_memory() -> None:
    """Let no other process of our user read our memory (prctl(2) PR_SET_DUMPABLE): inherited by fork, not by exec."""
    _prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0))


@contextmanager
def marking(mark: int) -> Iterator[None]:
    """Have whoever is started meanwhile, and whoever they start, carry `mark` from their first moment on.

    It is a limit that limits nothing: unlike a variable it is not emptied with the environment, and `exec` hides it not
    even for a moment. Where somebody has set that limit there is no mark.
    """
    try:
        limits = resource.getrlimit(_RLIMIT_LOCKS)
        resource.setrlimit(_RLIMIT_LOCKS, (mark, limits[1]))
    except (OSError, ValueError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(_RLIMIT_LOCKS, limits)


def read_mark(pid: int) -> int | None:
    """Return the mark of `pid`, None when it has none or has ended."""
    with suppress(OSError):
        for line in _read(f"/proc/{pid}/limits").splitlines():
            if line.startswith(b"Max file locks"):
                soft = line.split()[3]
                return int(soft) if soft.isdigit() else None
    return None


def set_process_name(name: str) -> None:
    """Show `name` (at most 15 bytes) in ps and top."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


def this_process() -> Process:
    """Return the calling process."""
    return Process(os.getpid(), _parse_stat(_read("/proc/self/stat")).start_ticks)


def stat_of(pid: int) -> ProcessStat | None:
    """Return what the kernel says of `pid`, None when there is no such process."""
    try:
        return _parse_stat(_read(f"/proc/{pid}/stat"))
    except _GONE:
        return None


def _parse_stat(content: bytes) -> ProcessStat:
    fields = content.rpartition(b")")[2].split()  # the name before it may hold spaces and brackets
    state, ppid, pgrp = fields[:3]
    threads, start_ticks, rss_pages = fields[17], fields[19], fields[21]
    return ProcessStat(state.decode(), int(ppid), int(pgrp), int(start_ticks), int(threads), int(rss_pages))


def newest_pid() -> int:
    """Return the process id that was given out last, 0 where /proc does not say."""
    try:
        return int(_read("/proc/loadavg").split()[-1])
    except OSError:
        return 0


def lists_children() -> bool:
    """Say whether this kernel lists children in /proc (CONFIG_PROC_CHILDREN); nothing here works without."""
    return Path(f"/proc/self/task/{os.getpid()}/children").exists()


def children_of(pid: int) -> list[int]:
    """Return the children of all threads of `pid`, zombies too; may miss some while they change, so ask again."""
    found: list[int] = []
    with suppress(*_GONE):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(*_GONE):
                found += map(int, _read(f"{task}/children").split())
    return found


def own_children() -> list[int]:
    """Return the children of the calling thread, zombies too."""
    return list(map(int, _read("/proc/thread-self/children").split()))


def descendants_of(pid: int) -> dict[Process, ProcessStat]:
    """Return every descendant of `pid` that can be proved to be one right now; parents come before children.

    One that moves to another parent while we look is left out: who wants all of them asks until none is left.
    """
    root = stat_of(pid)
    found: dict[Process, ProcessStat] = {}
    queue = [] if root is None else [Process(pid, root.start_ticks)]
    for parent in queue:
        stats = [(child, stat_of(child)) for child in children_of(parent.pid)]
        if not is_same(parent):
            continue
        mine = {Process(child, s.start_ticks): s for child, s in stats if s is not None and s.ppid == parent.pid}
        queue += mine
        found |= mine
    return found


def is_same(process: Process) -> bool:
    """Say whether the process with this id is still this process."""
    stat = stat_of(process.pid)
    return stat is not None and stat.start_ticks == process.start_ticks


def open_pidfd(process: Process) -> int | None:
    """Return a pidfd of exactly this process, None when it is gone; the caller closes it."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if is_same(process):
        return fd
    os.close(fd)
    return None


def signal_process(process: Process, signum: signal.Signals) -> bool:
    """Signal exactly this process; returns whether it was still there and let us."""
    fd = open_pidfd(process)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, signum)
    except (ProcessLookupError, PermissionError):
        return False
    finally:
        os.close(fd)
    return True
