"""Ends what a revoked peer still has here: what waits at once, what runs through its worker, as the operator's kill.

A connection is over when no peer that is not revoked has its tenant, so an id that joined again saves nothing of its
former connection (attack row 33). Looks when the trust changes, by whichever process, and now and then without that,
for what was accepted in the same moment. Whose agents are here is asked before the trust is read: whoever has one was
known by then. Agents of a suspended peer stay: those that run go on, those that wait wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from common.errors import Unavailable
from common.peers import LOCAL_TENANT, Trust
from spoke.queue import Queue
from spoke.queue_terms import KillStep

POLL_S: Final = 0.5
LOOK_AGAIN_S: Final = 10.0
_GRACE_S: Final = 10
_AT_ONCE: Final = 500
_KILL: Final = KillStep("", _GRACE_S, "killed_by_operator", "the connection was revoked")
_log: Final = structlog.get_logger("eviction")


class Eviction:
    """Watches the trust and empties the queue of those that are gone."""

    def __init__(self, queue: Queue, trust: Callable[[], Trust]) -> None:
        self._queue = queue
        self._trust = trust

    async def run(self) -> None:
        """Watch until cancelled."""
        seen: Trust | None = None
        again_at = 0.0
        while True:
            try:
                trust = self._trust()
                if trust is not seen or time.monotonic() >= again_at:
                    await self._evict()
                    seen, again_at = trust, time.monotonic() + LOOK_AGAIN_S
            except Unavailable as error:
                _log.warning("eviction.unavailable", reason=error.message)
            await asyncio.sleep(POLL_S)

    async def _evict(self) -> None:
        tenants = await self._queue.tenants()
        stay = {LOCAL_TENANT, *(peer.tenant for peer in self._trust().peers() if peer.state != "revoked")}
        ended = _AT_ONCE if tenants - stay else 0
        while ended == _AT_ONCE:
            ended, asked = await self._queue.evict(_KILL, tenants - stay, _AT_ONCE)
            if ended or asked:
                _log.warning("agents.evicted", waiting=ended, running=asked, reason=_KILL.reason)
