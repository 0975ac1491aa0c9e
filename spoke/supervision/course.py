"""The course of one run, without processes: when to ask an agent to end, when to force it, when to give up.

Two rules. The first reason to end a run is its cause; what comes later can only shorten the time it has left. And a run
is over when **nothing** of it is left, not when its main process ends.

Pure: the monotonic clock comes in as `now`, in seconds.
"""

from __future__ import annotations

import enum
from typing import Final, Literal

LEFTOVER_GRACE_S: Final = 2.0
"""What an agent that ended by itself left running gets between SIGTERM and SIGKILL, at most."""
KILL_EVERY_S: Final = 0.05
KILL_LIMIT_S: Final = 10.0
"""After this long SIGKILL has failed (uninterruptible sleep, another user's process): survivors are reported."""

Excess = Literal["oom", "processes"]
Cause = Literal["exited", "timeout", "silence", "killed"] | Excess


class Action(enum.Enum):
    """What the keeper does next."""

    WAIT = "wait"
    TERMINATE = "terminate"
    KILL = "kill"
    FINISH = "finish"


class Course:
    """Decides for one run; `cause` is None while nothing speaks for its end."""

    def __init__(self, now: float, *, timeout_s: float, silence_s: float | None, grace_s: float) -> None:
        self._timeout_at = now + timeout_s
        self._silence_s = silence_s
        self._grace_s = grace_s
        self._output_at = now
        self._kill_at = float("inf")
        self._give_up_at = float("inf")
        self._terminated = False
        self.cause: Cause | None = None
        self.kill_cause: str | None = None

    def saw_output(self, now: float) -> None:
        """Any output is life."""
        self._output_at = now

    def main_ended(self, now: float) -> None:
        """Tell that the agent's main process is gone; leftovers get a short grace."""
        self._end(now, "exited", min(self._grace_s, LEFTOVER_GRACE_S))

    def ask_kill(self, now: float, grace_s: float, kill_cause: str) -> None:
        """Ask for the end; asked again, or while ending anyway, it can only shorten the grace."""
        if self.cause is None:
            self.kill_cause = kill_cause
        self._end(now, "killed", grace_s)

    def exceed(self, now: float, cause: Excess) -> None:
        """Tell that the agent uses more than it may: there is no time to be lost on a grace."""
        self._end(now, cause, 0.0)

    def decide(self, now: float, *, empty: bool) -> Action:
        """Return what to do now; `empty` says that no process of the agent is left, main or descendant."""
        self._check_limits(now)
        if self.cause is None:
            return Action.WAIT
        if empty or now >= self._give_up_at:
            return Action.FINISH
        if now >= self._kill_at:
            self._give_up_at = min(self._give_up_at, now + KILL_LIMIT_S)
            self._kill_at = now + KILL_EVERY_S
            self._terminated = True
            return Action.KILL
        if not self._terminated:
            self._terminated = True
            return Action.TERMINATE
        return Action.WAIT

    def wake_at(self) -> float:
        """Return when `decide` must be asked again even if nothing happens; may be infinite."""
        if self.cause is None:
            return min(self._timeout_at, self._silent_at())
        return min(self._kill_at, self._give_up_at)

    def _check_limits(self, now: float) -> None:
        if now >= self._timeout_at:
            self._end(now, "timeout", self._grace_s)
        elif now >= self._silent_at():
            self._end(now, "silence", self._grace_s)

    def _silent_at(self) -> float:
        return float("inf") if self._silence_s is None else self._output_at + self._silence_s

    def _end(self, now: float, cause: Cause, grace_s: float) -> None:
        if self.cause is None:
            self.cause = cause
        elif cause in ("exited", "timeout", "silence"):
            return  # a limit of time that is reached while ending says nothing new; all else may shorten
        self._kill_at = min(self._kill_at, now + grace_s)
