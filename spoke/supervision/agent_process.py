"""One agent as processes: seen as a whole, ended as a whole.

The keeper is a child subreaper, so whatever the agent starts stays its descendant however often it forks or calls
setsid, and "the keeper has no children" is the kernel's word that nothing is left (faults 24, 26). The main process
stays unreaped until then: while it is a zombie its id, and so the process group, cannot become a stranger's (fault 27).
Standard library only; must be used from a process with one thread.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from spoke.supervision import linux
from spoke.supervision.cgroup import Cgroup

_FREEZE_LIMIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class MainEnd:
    """How the main process ended: one of the two is set."""

    exit_code: int | None
    signal: str | None


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
