"""One agent as processes: started clean, seen as a whole, ended as a whole.

The keeper is a child subreaper, so whatever the agent starts stays its descendant however often it forks or calls
setsid, and "the keeper has no children" is the kernel's word that nothing is left (faults 24, 26). The main process
stays unreaped until then: while it is a zombie its id, and so the process group, cannot become a stranger's (fault 27).
Standard library only; must be used from a process with one thread.
"""

from __future__ import annotations

import errno
import marshal
import os
import resource
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NoReturn

from spoke.supervision import linux
from spoke.supervision.cgroup import Cgroup
from spoke.supervision.run_dir import TOKEN_NAME, LaunchSpec, Limits

_FREEZE_LIMIT_S: Final = 1.0
_CUE_FD: Final = 3
_CHUNK: Final = 65536
_MOST_ANCILLARY: Final = socket.CMSG_SPACE(3 * 4)
"""Three descriptors of four bytes: input, output, control group."""
_BEYOND_FDS: Final = 2**31 - 1
"""The kernel closes a range in one call (close_range(2)), however wide it is."""
_ABSENT: Final = (FileNotFoundError, NotADirectoryError)


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
        self._socket, theirs = socket.socketpair()
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
        fds = [stdin_fd, output_fd, *([] if procs_fd is None else [procs_fd])]
        with self._socket:
            try:
                _send(self._socket, cue_of(spec, token), fds)
                failure = _receive(self._socket)  # ends at exec: the other end is close-on-exec
            except ConnectionError as error:
                raise Vanished from error
        if failure:
            os.waitpid(self.pid, 0)
            raise SpawnFailed(failure.decode(errors="replace"))
        return self.pid


def cue_of(spec: LaunchSpec, token: str) -> bytes:
    """Return all that the understudy must know, so prepared that next to nothing is left for it to do.

    Whatever it touches is a page that the kernel copies for it, and that it throws away when it executes the program.
    """
    env = {**spec.env, TOKEN_NAME: token}
    return marshal.dumps((_candidates(spec.argv[0], spec.env), spec.argv, env, spec.cwd, _rlimits(spec.limits)))


def _candidates(program: str, env: Mapping[str, str]) -> list[str]:
    """Return what to try in turn, as execvp(3) does."""
    if "/" in program:
        return [program]
    return [f"{place}/{program}" if place else program for place in env.get("PATH", os.defpath).split(":")]


def _rlimits(limits: Limits) -> list[tuple[int, int, int]]:
    """Return what to give to setrlimit: which limit, the soft and the hard one."""
    wanted = (
        (resource.RLIMIT_NOFILE, limits.nofile),
        (resource.RLIMIT_FSIZE, limits.fsize_bytes),
        (resource.RLIMIT_CPU, limits.cpu_s),
        (resource.RLIMIT_NPROC, limits.nproc),
        (resource.RLIMIT_AS, limits.as_bytes),  # last: Python itself may need memory until exec
    )
    return [_rlimit(limit, value) for limit, value in wanted if value is not None]


def _rlimit(limit: int, value: int) -> tuple[int, int, int]:
    hard = resource.getrlimit(limit)[1]
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    # One second more before SIGKILL: that SIGXCPU ended it shows which limit it was.
    return limit, allowed, allowed + 1 if limit == resource.RLIMIT_CPU and allowed != hard else allowed


def _send(peer: socket.socket, content: bytes, fds: list[int]) -> None:
    """Send everything, and that this is everything; the descriptors go with the first byte."""
    sent = socket.send_fds(peer, [content], fds)
    peer.sendall(memoryview(content)[sent:])
    peer.shutdown(socket.SHUT_WR)


def _receive(peer: socket.socket) -> bytes:
    """Return what comes until the other side has no more."""
    content = b""
    while chunk := peer.recv(_CHUNK):
        content += chunk
    return content


def ignore_nothing() -> None:
    """Have a handler wherever a signal is ignored: what is executed inherits what is ignored, but no handler.

    So nobody has to put that right between fork and exec. SIGCHLD is left to who knows what is to become of children.
    """
    for signum in signal.valid_signals() - {signal.SIGCHLD}:
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, take_note)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def take_note(*_: object) -> None:
    """Handle a signal by doing nothing, which is not the same as ignoring it."""


def _become_agent(cue: socket.socket, keeper: int) -> NoReturn:  # pragma: no cover - no measurement survives the exec
    step = "prepare"
    try:
        os.setsid()
        linux.die_with_parent()
        if os.getppid() != keeper:
            os._exit(127)  # the keeper died before the line above took effect
        content, ancillary, _, _ = cue.recvmsg(_CHUNK, _MOST_ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        if not ancillary:
            os._exit(0)  # the keeper has no agent to start
        candidates, argv, env, cwd, rlimits = marshal.loads(content + _receive(cue))  # noqa: S302 - from our parent
        stdin_fd, output_fd, *procs = memoryview(ancillary[0][2]).cast("i")
        step = "control group"
        for procs_fd in procs:
            os.write(procs_fd, b"0")
        os.dup2(stdin_fd, 0)
        os.dup2(output_fd, 1)
        os.dup2(output_fd, 2)
        cue = _keep_only(cue)
        step = f"chdir {cwd}"
        os.chdir(cwd)
        step = "setrlimit"
        for limit, soft, hard in rlimits:
            resource.setrlimit(limit, (soft, hard))
        step = f"exec {argv[0]}"
        _execute(candidates, argv, env)
    except BaseException as error:  # nothing may leave this function, whatever it is
        reason = error.strerror if isinstance(error, OSError) else repr(error)
        cue.sendall(f"{step}: {reason}".encode(errors="replace")[:4096])
    finally:
        os._exit(127)


def _keep_only(cue: socket.socket) -> socket.socket:  # pragma: no cover - between fork and exec
    """Close everything but standard input and output and this, which closes at exec, and return it."""
    if (fd := cue.detach()) != _CUE_FD:
        os.dup2(fd, _CUE_FD, inheritable=False)
    os.closerange(_CUE_FD + 1, _BEYOND_FDS)
    return socket.socket(fileno=_CUE_FD)


def _execute(candidates: list[str], argv: tuple[str, ...], env: dict[str, str]) -> NoReturn:  # pragma: no cover
    """Execute the first that can be; raises OSError, of one that is there but cannot be executed if there is one."""
    refused: OSError | None = None
    for path in candidates:
        try:
            os.execve(path, argv, env)  # noqa: S606 - argv, never a shell
        except OSError as error:
            if refused is None or isinstance(refused, _ABSENT):
                refused = error
    raise refused or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


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
        return [pid for pid in linux.own_children() if pid != self._pid]

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
