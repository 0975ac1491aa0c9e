"""What a run directory says about its agent when whoever started it is gone.

The lock decides who lives, a record never does: a keeper holds it from before the launch record until the ending is
recorded or it dies. The process that the record names may keep another run by then, so nobody signals it. When nobody
holds it and there is no ending, the run is lost: what is left of the agent is found by its mark or the token in its
environment, killed, and the loss itself is recorded as the ending, once. Reading is safe at any time, from any process.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from spoke.supervision import linux
from spoke.supervision.cgroup import Cgroup
from spoke.supervision.run_dir import (
    EXIT,
    KEEPER,
    LAUNCH,
    LOCK,
    LOG,
    TOKEN_NAME,
    Ending,
    KeeperRecord,
    Receipt,
    RunState,
    SignalSent,
    decode_ending,
    decode_keeper,
    decode_launch,
    encode_ending,
    mark_of,
    read_file,
    write_file,
)

_SWEEP_LIMIT_S: Final = 10.0
_SWEEP_PAUSE_S: Final = 0.01
_HOPPERS_S: Final = 0.1
_QUIET_LOOKS: Final = 3
"""What forks while we look may be in neither place that we look at."""


@contextmanager
def opened(run_dir: Path) -> Iterator[int]:
    """Yield a descriptor of the run directory: names below it have no length limit. Raises OSError."""
    fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def take_lock(dir_fd: int, operation: int = fcntl.LOCK_EX) -> int | None:
    """Return a descriptor that holds the keeper's lock, None when somebody else does; the caller closes it."""
    fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=dir_fd)
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def read_state(dir_fd: int) -> RunState:
    """Return the state of the run; a recorded loss stays LOST."""
    if (ending := read_ending(dir_fd)) is not None:
        return _state_of(ending)
    if read_file(LAUNCH, dir_fd) is None:
        return RunState.NEVER_STARTED
    lock_fd = take_lock(dir_fd, fcntl.LOCK_SH)  # shared: looking must not disturb others who look
    if lock_fd is None:
        return RunState.RUNNING
    os.close(lock_fd)
    ending = read_ending(dir_fd)  # it may have ended between the two looks
    return RunState.LOST if ending is None else _state_of(ending)


def _state_of(ending: Ending) -> RunState:
    return RunState.LOST if ending.cause == "lost" else RunState.ENDED


def read_ending(dir_fd: int) -> Ending | None:
    """Return how the run ended, None when no ending is recorded."""
    content = read_file(EXIT, dir_fd)
    return None if content is None else decode_ending(content)


def open_keeper(dir_fd: int) -> int | None:
    """Return a pidfd of the living keeper, None when it has ended or not said who it is; the caller closes it.

    For waiting only, and not without looking again: when the run is over, that process may live on and keep another.
    """
    record = _read_keeper(dir_fd)
    return None if record is None else linux.open_pidfd(linux.Process(record.pid, record.start_ticks))


def has_keeper_record(dir_fd: int) -> bool:
    """Say whether a keeper got so far that it may have forked the agent."""
    return read_file(KEEPER, dir_fd) is not None


def _read_keeper(dir_fd: int) -> KeeperRecord | None:
    content = read_file(KEEPER, dir_fd)
    return None if content is None else decode_keeper(content)


def settle_lost(dir_fd: int) -> Ending | None:
    """Kill what is left of a lost run and record the loss; None when somebody holds the lock, so ask again. Blocks."""
    lock_fd = take_lock(dir_fd)
    if lock_fd is None:
        return None
    try:
        ending = read_ending(dir_fd)
        if ending is None:
            ending = _lost(dir_fd)
            write_file(EXIT, encode_ending(ending), dir_fd, durable=True)
        return ending
    finally:
        os.close(lock_fd)


def _lost(dir_fd: int) -> Ending:
    record = _read_keeper(dir_fd)
    try:
        spec, token = decode_launch(read_file(LAUNCH, dir_fd) or b"")
    except (ValueError, KeyError, TypeError):
        receipt, detail = None, "the keeper is gone and the launch record is damaged"
    else:
        group = None if spec.cgroup is None else Cgroup(Path(spec.cgroup))
        receipt, detail = _sweep(token, group), "the keeper is gone and left no ending"
    return Ending(
        cause="lost",
        finished_at=linux.now_rfc3339(),
        started_at=None if record is None else record.started_at,
        log_bytes=_log_size(dir_fd),
        detail=detail,
        receipt=receipt,
    )


def _log_size(dir_fd: int) -> int:
    try:
        return os.stat(LOG, dir_fd=dir_fd, follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def _sweep(token: str, group: Cgroup | None) -> Receipt | None:
    """SIGKILL the group, every process of the run's, and all descendants, until none is left."""
    if group is not None:
        group.kill()
    first_at: str | None = None
    give_up_at = time.monotonic() + _SWEEP_LIMIT_S
    quiet = 0
    while quiet < _QUIET_LOOKS and time.monotonic() < give_up_at:
        newest = linux.newest_pid()
        quiet = 0 if (found := _find(token)) else quiet + 1
        if not found and linux.newest_pid() != newest:
            _stop_hoppers(token)
        for process in found:
            first_at = first_at or linux.now_rfc3339()
            linux.signal_process(process, signal.SIGKILL)
        time.sleep(_SWEEP_PAUSE_S)  # their end is not ours to wait for: they are nobody's children here
    if group is not None:
        group.remove()
    if first_at is None:
        return None
    return Receipt((SignalSent("SIGKILL", first_at),), survivors=len(found))


def _stop_hoppers(token: str) -> None:
    """Stop, for the next look to find it, who is its own child again and again: gone before a look comes to it."""
    give_up_at, mark = time.monotonic() + _HOPPERS_S, mark_of(token)
    while time.monotonic() < give_up_at:
        newest = linux.newest_pid()
        for pid in range(newest, newest + 3):
            if linux.read_mark(pid) == mark and (stat := linux.stat_of(pid)) is not None:
                linux.signal_process(linux.Process(pid, stat.start_ticks), signal.SIGSTOP)


def _find(token: str) -> list[linux.Process]:
    variable, mark = f"{TOKEN_NAME}={token}".encode(), mark_of(token)
    marked = [
        process
        for process in _living_processes()
        if linux.read_mark(process.pid) == mark or _carries(process.pid, variable)
    ]
    below = [child for process in marked for child in linux.descendants_of(process.pid)]
    return list(dict.fromkeys(marked + below))


def _living_processes() -> Iterator[linux.Process]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := linux.stat_of(int(entry.name))) is not None and stat.state not in "ZX":
            yield linux.Process(int(entry.name), stat.start_ticks)


def _carries(pid: int, variable: bytes) -> bool:
    with suppress(OSError):  # ended, or not ours to look into
        return variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False
