"""Spaces the questions that are read in bulk, so that a long log leaves room for what else goes to its spoke.

A spoke takes so many envelopes a second of one hub (`rate_per_s`, 50 unless its operator says otherwise) and refuses
the rest, spawns and kills among them. Pieces of logs and patches take turns of at most 30 a second for each spoke:
7.5 MiB/s where they are as large as they may be. After a pause the first ten go at once. A virtual clock that runs
ahead, as in GCRA.
"""

from __future__ import annotations

import asyncio
from typing import Final

PER_S: Final = 30
AT_ONCE: Final = 10
_STEP_S: Final = 1 / PER_S
_FORGET_AT: Final = 1000


class Pace:
    """The turns of all spokes, on the monotonic clock (seconds)."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    def take(self, tenant: str, now: float) -> float:
        """Take the next turn of a spoke and return how long it is until then."""
        if len(self._next) >= _FORGET_AT:
            self._next = {name: at for name, at in self._next.items() if at > now}
        at = max(self._next.get(tenant, now), now)
        self._next[tenant] = at + _STEP_S
        return max(0.0, at - now - (AT_ONCE - 1) * _STEP_S)

    async def turn(self, tenant: str) -> None:
        """Wait for the next turn of a spoke."""
        await asyncio.sleep(self.take(tenant, asyncio.get_running_loop().time()))
