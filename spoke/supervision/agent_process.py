"""One agent as processes: started clean, seen as a whole, ended as a whole.

The keeper is a child subreaper, so whatever the agent starts stays its descendant however often it forks or calls
setsid, and "the keeper has no children" is the kernel's word that nothing is left (faults 24, 26). The main process
stays unreaped until then: while it is a zombie its id, and so the process group, cannot become a stranger's (fault 27).
Standard library only; must be used from a process with one thread.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NoReturn

from spoke.supervision import linux
from spoke.supervision.cgroup import Cgroup
from spoke.supervision.run_dir import TOKEN_NAME, LaunchSpec, Limits, decode_launch, encode_launch

_FREEZE_LIMIT_S: Final = 1.0
_REPORT_FD: Final = 3
_MOST_FDS: Final = 5
_BEYOND_FDS: Final = 2**31 - 1
"""The kernel closes a range in one call (close_range(2)), however wide it is."""
REHEARSAL: Final = encode_launch(LaunchSpec(argv=("",), cwd="/", env={}, timeout_s=1), "")
"""What is touched for the first time after a fork is copied: better before there is somebody who waits for it."""
_SIGNALS: Final = tuple(map(int, signal.valid_signals()))
"""Plain numbers: as members of an enumeration they cost a start a quarter of a millisecond."""


class SpawnFailed(Exception):
    """The agent's program could not be executed; the message says at which step and why."""


@dataclass(frozen=True, slots=True)
class MainEnd:
    """How the main process ended: one of the two is set."""

    exit_code: int | None
    signal: str | None


class Vanished(Exception):
    """Somebody ended it while it waited."""


class Understudy:
    """A child of this process that waits to become an agent, so that a start does not wait for a fork.

    It is in a session of its own, dies with us and has nothing of ours; all that is left is to be told what to execute.
    """

    def __init__(self) -> None:
        """Fork it; raises SpawnFailed."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        keeper = os.getpid()
        with theirs:
            try:
                self.pid = os.fork()
            except OSError as error:
                self._socket.close()
                raise SpawnFailed(f"fork: {error.strerror}") from error
            if self.pid == 0:
                _become_agent(theirs, keeper)

    def perform(self, spec: LaunchSpec, token: str, stdin_fd: int, output_fd: int, procs_fd: int | None = None) -> int:
        """Have it execute `spec` and return its pid once it has; raises SpawnFailed, and `Vanished` when it is gone.

        `procs_fd` is the `cgroup.procs` of the control group that it enters before anything else.
        """
        report_fd, child_report_fd = os.pipe()
        script_fd = os.memfd_create("launch")
        try:
            _write_all(script_fd, encode_launch(spec, token))
            fds = [script_fd, stdin_fd, output_fd, child_report_fd, *([] if procs_fd is None else [procs_fd])]
            with self._socket:
                socket.send_fds(self._socket, [b"go"], fds)
        except ConnectionError as error:
            os.close(report_fd)
            raise Vanished from error
        finally:
            os.close(script_fd)
            os.close(child_report_fd)
        with os.fdopen(report_fd, "rb") as report:
            failure = report.read()  # ends at exec: the other end is close-on-exec
        if failure:
            os.waitpid(self.pid, 0)
            raise SpawnFailed(failure.decode(errors="replace"))
        return self.pid


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _become_agent(cue: socket.socket, keeper: int) -> NoReturn:  # pragma: no cover - no measurement survives the exec
    step, report_fd = "prepare", -1
    try:
        os.setsid()
        linux.die_with_parent()
        if os.getppid() != keeper:
            os._exit(127)  # the keeper died before the line above took effect
        _reset()
        decode_launch(REHEARSAL)
        _, fds, _, _ = socket.recv_fds(cue, 2, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
        if not fds:
            os._exit(0)  # the keeper has no agent to start
        script_fd, stdin_fd, output_fd, report_fd, *procs = fds
        spec, token = decode_launch(os.pread(script_fd, os.fstat(script_fd).st_size, 0))
        step = "control group"
        for procs_fd in procs:
            os.write(procs_fd, b"0")
        _take_only(stdin_fd, output_fd, report_fd)
        report_fd = _REPORT_FD
        step = f"chdir {spec.cwd}"
        os.chdir(spec.cwd)
        step = "setrlimit"
        _apply_limits(spec.limits)
        step = f"exec {spec.argv[0]}"
        os.execvpe(spec.argv[0], spec.argv, {**spec.env, TOKEN_NAME: token})  # noqa: S606 - argv, never a shell
    except BaseException as error:  # nothing may leave this function, whatever it is
        _report(report_fd, step, error)
    finally:
        os._exit(127)


def _report(report_fd: int, step: str, error: BaseException) -> None:  # pragma: no cover - between fork and exec
    reason = error.strerror if isinstance(error, OSError) else repr(error)
    if report_fd >= 0:
        os.write(report_fd, f"{step}: {reason}".encode(errors="replace")[:4096])


def _take_only(stdin_fd: int, output_fd: int, report_fd: int) -> None:  # pragma: no cover - between fork and exec
    os.dup2(stdin_fd, 0)
    os.dup2(output_fd, 1)
    os.dup2(output_fd, 2)
    if report_fd != _REPORT_FD:
        os.dup2(report_fd, _REPORT_FD, inheritable=False)
    os.closerange(_REPORT_FD + 1, _BEYOND_FDS)


def _reset() -> None:  # pragma: no cover - between fork and exec
    os.umask(0o077)
    signal.set_wakeup_fd(-1)
    for signum in _SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_DFL:  # never so for SIGKILL and SIGSTOP
            signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _apply_limits(limits: Limits) -> None:  # pragma: no cover - between fork and exec
    wanted = (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, limits.nofile),
        (resource.RLIMIT_FSIZE, limits.fsize_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_NPROC, limits.nproc),
        (resource.RLIMIT_AS, limits.as_bytes),  # last: Python itself may need memory until exec
    )
    for limit, value in wanted:
        if value is None:
            continue
        hard = resource.getrlimit(limit)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # One second more before SIGKILL: that SIGXCPU ended it shows which limit it was.
        most = allowed + 1 if limit == resource.RLIMIT_CPU and allowed != hard else allowed
        resource.setrlimit(limit, (allowed, most))


class AgentProcess:
    """The agent's main process and everything that descends from it, seen from its keeper (the calling process)."""

    def __init__(self, pid: int, *, group: Cgroup | None = None, wrapped: bool = False) -> None:
        self._pid = pid
        self._group = group
        self._wrapped = wrapped
        self._keeper = os.getpid()
        self._main_reaped = False
        self.main_end: MainEnd | None = None

    def reap(self) -> None:
        """Note the end of the main process and reap every other child that has ended."""
        if self.main_end is None:
            self.main_end = self._look_at_main()
        for pid in self._other_children():
            with suppress(ChildProcessError):  # the kernel was faster, see kill()
                os.waitpid(pid, os.WNOHANG)

    def is_empty(self) -> bool:
        """Say whether nothing of the agent is left; true only on the kernel's word that we have no child."""
        if self.main_end is None or self._other_children():
            return False
        if not self._main_reaped:
            os.waitpid(self._pid, 0)
            self._main_reaped = True
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return False

    def terminate(self) -> None:
        """Send SIGTERM to the process group and to every descendant outside it; of a sandbox, to all inside."""
        if not self._wrapped:
            self._signal_group(signal.SIGTERM)
        for process, stat in linux.descendants_of(self._keeper).items():
            outside = process.pid != self._pid if self._wrapped else stat.pgrp != self._pid
            if outside or self._main_reaped:
                linux.signal_process(process, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to everything, for a second or so; what forks faster than we look is stopped first.

        Stopped processes keep their places under a process limit, killed ones would make room for more. Call it again,
        with `reap` before, until nothing is left.
        """
        if self._group is not None:
            self._group.kill()
        self._signal_group(signal.SIGKILL)
        if self.main_end is not None:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the rest: no flood of zombies, no wake-ups
        stop_at = time.monotonic() + _FREEZE_LIMIT_S
        while (running := self._running()) and time.monotonic() < stop_at:
            for process in running:
                linux.signal_process(process, signal.SIGSTOP)
        for process in linux.descendants_of(self._keeper):
            linux.signal_process(process, signal.SIGKILL)

    def count_survivors(self) -> int:
        """Return how many processes of the agent still live; never 0 while anything is left."""
        if self.is_empty():
            return 0
        return max(1, sum(stat.state != "Z" for stat in linux.descendants_of(self._keeper).values()))

    def _running(self) -> list[linux.Process]:
        return [process for process, stat in linux.descendants_of(self._keeper).items() if stat.state not in "TtZX"]

    def _signal_group(self, signum: signal.Signals) -> None:
        if not self._main_reaped:  # afterwards the id may belong to somebody else
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, signum)

    def _other_children(self) -> list[int]:
        return [pid for pid in linux.children_of(self._keeper) if pid != self._pid]

    def _look_at_main(self) -> MainEnd | None:
        found = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        if found.si_code == os.CLD_EXITED:
            return MainEnd(found.si_status, None)
        return MainEnd(None, _signal_name(found.si_status))


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:  # real-time signals have no names of their own
        return f"SIG{signum}"
