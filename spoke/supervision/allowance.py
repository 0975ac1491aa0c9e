"""What one agent may use, and who sees to it: the kernel by limits and a control group, or else the keeper by looking.

A control group keeps memory and tasks exactly. Without one the keeper looks every quarter of a second and ends an
agent that is over; until then RLIMIT_NPROC stops a fork bomb, except for root, whom it does not bind (fault 25).
Standard library only: the keeper imports it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from spoke.supervision import usage
from spoke.supervision.cgroup import Cgroup
from spoke.supervision.course import Excess
from spoke.supervision.run_dir import LaunchSpec

LOOK_EVERY_S: Final = 0.25


class Allowance:
    """The allowance of one run; made before its agent, raises OSError when its control group cannot be."""

    def __init__(self, spec: LaunchSpec) -> None:
        self.group = None if spec.cgroup is None else Cgroup(Path(spec.cgroup))
        self._left = spec.limits if self.group is None else self.group.make(spec.limits)
        self.limits = self._left
        """What is to be set in the agent's main process before it starts."""
        if self._left.tasks is not None and self._left.nproc is None:
            self.limits = replace(self._left, nproc=usage.tasks_of_user() + self._left.tasks)
        self._look_at = 0.0 if self._must_look() else float("inf")
        self.excess: str | None = None
        """What was measured when the agent used too much."""

    def _must_look(self) -> bool:
        return self._left.tasks is not None or self._left.memory_bytes is not None

    def open_procs(self) -> int | None:
        """Return the descriptor through which the agent enters its group, None without one; raises OSError."""
        return None if self.group is None else self.group.open_procs()

    def look_at(self) -> float:
        """Return when `find_excess` is to be asked next, on the monotonic clock; may be infinite."""
        return self._look_at

    def find_excess(self, now: float) -> Excess | None:
        """Return `oom` or `processes` when it is time to look and the agent uses too much."""
        if now < self._look_at:
            return None
        self._look_at = now + LOOK_EVERY_S
        found = usage.find_excess(os.getpid(), self._left)
        if found is None:
            return None
        cause, self.excess = found
        return cause

    def out_of_memory(self) -> bool:
        """Whether the kernel ended the agent for want of memory in its group."""
        return self.group is not None and self.group.oom_kills() > 0

    def close(self) -> None:
        """Give the group back once nothing is in it."""
        if self.group is not None:
            with suppress(OSError):
                self.group.remove()
