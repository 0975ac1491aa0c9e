"""What a worker holds: a claim, and the word from its renewals that the agent is to be killed or no longer ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from common.span_attributes import NOTHING, Attributes
from spoke.agent_record import AgentRef
from spoke.agent_spans import AttemptSpans
from spoke.queue_terms import Claim, KillStep


class LeaseLost(Exception):
    """The lease went to somebody else; whatever is done for the agent here must stop and change nothing."""


class KilledBeforeStart(Exception):
    """A kill came while the agent was being prepared."""

    def __init__(self, kill: KillStep) -> None:
        super().__init__(kill.cause)
        self.kill = kill


class Held:
    """One claim while a worker attends to it; `kill` and `lost` are set by whoever renews the lease."""

    def __init__(self, claim: Claim, over: Callable[[], None] = lambda: None) -> None:
        """Hold it; `over` is called when the store counts it no more, though there may be more to do here."""
        self.claim = claim
        self.is_over = False
        self._over = over
        self.starting = False
        """Set before the supervisor is asked: from then on only the run directory knows whether a process exists."""
        self.released = asyncio.Event()
        """Set when nobody here does anything for the claim any more."""
        self.spans: AttemptSpans | None = None
        """What is told of the attempt; None before it was proved to be asked for, or where nobody listens."""
        self._kill: KillStep | None = None
        self._lost = False
        self._news = asyncio.Event()

    @property
    def ref(self) -> AgentRef:
        """The agent's name."""
        return self.claim.record.ref

    def tell_end(self, status: str, reason: str | None, told: Attributes = NOTHING) -> None:
        """Tell how the attempt ended; `queued` when it is tried again."""
        if self.spans is not None:
            self.spans.ended(status, reason, told)

    def end(self) -> None:
        """Take note that the store has the end, has it queued again, or gave it to somebody else."""
        self.is_over = True
        self._over()

    def learn(self, answer: KillStep | bool) -> None:
        """Take the answer of a renewal."""
        if answer is False:
            self.end()
            self._lost = True
            self._news.set()
        elif isinstance(answer, KillStep) and answer != self._kill:
            self._kill = answer
            self._news.set()

    async def next_kill(self) -> KillStep:
        """Wait for a kill, or for a further one with other terms; raises `LeaseLost`."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._lost:
                raise LeaseLost
            if self._kill is not None:
                return self._kill
