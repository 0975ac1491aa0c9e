"""How the agent's program is executed: in a session of its own, with nothing of its keeper's.

Two ways, which the agent cannot tell apart. An agent without limits of its own and without a control group is spawned
(`posix_spawn`, no copy of the keeper is made, and so no page of it): a fork of an interpreter costs more than all the
rest of a start. Whatever else must be done between fork and exec takes code of ours, so the others are forked. Standard
library only; must be used from a process with one thread.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from spoke.supervision import linux
from spoke.supervision.run_dir import TOKEN_NAME, LaunchSpec, Limits, mark_of

_BEYOND_FDS: Final = 2**31 - 1
"""The kernel closes a range in one call (close_range(2)), however wide it is."""
_ABSENT: Final = (FileNotFoundError, NotADirectoryError)
NO_ROOM: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})
"""What may be over soon, and says nothing of the program."""


class SpawnFailed(Exception):
    """The agent's program could not be executed; the message says at which step and why."""


class NoRoom(Exception):
    """There is no room now, for one more process or on the disk; nothing was executed. The message says for what."""


@dataclass(frozen=True, slots=True)
class Streams:
    """Descriptors: what the agent reads, what both of its outputs are, and the `cgroup.procs` that it is to enter."""

    stdin: int
    output: int
    procs: int | None = None


def execute(spec: LaunchSpec, token: str, streams: Streams, home_fd: int) -> int:
    """Execute `spec`, its processes marked with `token`, and return its process id once its program was executed.

    `home_fd` is the caller's working directory. Raises SpawnFailed and `NoRoom`; then there is no process.
    """
    program = _Program(spec, token)
    with linux.marking(mark_of(token)):
        if streams.procs is None and not program.rlimits:
            return _spawn(program, streams, home_fd)
        return _fork(program, streams)


class _Program:
    """What to execute, made ready before there is a process that would have to do it."""

    def __init__(self, spec: LaunchSpec, token: str) -> None:
        self.argv = spec.argv
        self.env = {**spec.env, TOKEN_NAME: token}
        self.cwd = spec.cwd
        self.rlimits = _rlimits(spec.limits)
        self._candidates = _candidates(spec.argv[0], spec.env)

    def attempt(self, execute: Callable[[str], int]) -> int:
        """Try where it may lie, one after the other; raises the OSError of one that is there, if there is one.

        And none further when there is no room for a process.
        """
        refused: OSError | None = None
        for path in self._candidates:
            try:
                return execute(path)
            except OSError as error:
                if error.errno in NO_ROOM:
                    raise  # it says nothing of this place: the next one may hold another program
                if refused is None or isinstance(refused, _ABSENT):
                    refused = error
        raise refused or FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


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


def _spawn(program: _Program, streams: Streams, home_fd: int) -> int:
    """Have the C library spawn it; what else we have open closes at exec, as everything that Python opens does.

    Until then it shares what we hold, the lock of the run too: so nobody concludes that we are gone before it has
    executed its program.
    """
    copies = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((streams.stdin, *(streams.output,) * 2))]

    def spawn(path: str) -> int:
        os.stat(path)  # noqa: PTH116 - what is not there costs no process, and little else
        return os.posix_spawn(path, program.argv, program.env, file_actions=copies, setsid=True)

    step = f"chdir {program.cwd}"
    try:
        os.chdir(program.cwd)
        step = f"exec {program.argv[0]}"
        return program.attempt(spawn)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise NoRoom(f"fork: {error.strerror}") from error
        raise SpawnFailed(f"{step}: {_reason(error)}") from error
    finally:
        os.fchdir(home_fd)


def _fork(program: _Program, streams: Streams) -> int:
    failure_fd, theirs = os.pipe()
    keeper = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        os.close(failure_fd)
        os.close(theirs)
        raise NoRoom(f"fork: {error.strerror}") from error
    if pid == 0:
        _become_agent(program, streams, theirs, keeper)
    os.close(theirs)
    with os.fdopen(failure_fd, "rb") as failures:
        failure = failures.read()  # ends at exec: the other end is close-on-exec
    if failure:
        os.waitpid(pid, 0)
        raise SpawnFailed(failure.decode(errors="replace"))
    return pid


def _become_agent(  # pragma: no cover - no measurement survives the exec
    program: _Program, streams: Streams, failure_fd: int, keeper: int
) -> NoReturn:
    step = "prepare"
    try:
        os.setsid()
        linux.die_with_parent()
        if os.getppid() != keeper:
            os._exit(127)  # the keeper died before the line above took effect
        step = "control group"
        if streams.procs is not None:
            os.write(streams.procs, b"0")
        os.dup2(streams.stdin, 0)
        os.dup2(streams.output, 1)
        os.dup2(streams.output, 2)
        if failure_fd != 3:  # noqa: PLR2004 - the first after standard input and output
            failure_fd = os.dup2(failure_fd, 3, inheritable=False)
        os.closerange(4, _BEYOND_FDS)
        step = f"chdir {program.cwd}"
        os.chdir(program.cwd)
        step = "setrlimit"
        for limit, soft, hard in program.rlimits:
            resource.setrlimit(limit, (soft, hard))
        step = f"exec {program.argv[0]}"
        program.attempt(lambda path: os.execve(path, program.argv, program.env))  # noqa: S606 - argv, never a shell
    except BaseException as error:  # nothing may leave this function, whatever it is
        os.write(failure_fd, f"{step}: {_reason(error)}".encode(errors="replace")[:4096])
    finally:
        os._exit(127)


def _reason(error: BaseException) -> str:
    return str(error.strerror) if isinstance(error, OSError) else repr(error)


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
