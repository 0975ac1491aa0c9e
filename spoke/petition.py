"""Repeats the JOINs of hubs that have yet to approve this spoke, until they have (PROTOCOL section 5.2).

A hub that is `pending` here is one that this spoke's operator asked by its fingerprint; nothing else makes one. Each
repetition proves the hub anew by that fingerprint before anything is sent to it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

import structlog
from aiohttp import ClientSession

from common.errors import HubspokeError
from common.peers import Peer
from common.trust_store import TrustStore
from spoke.joining import Joiner

POLL_S: Final = 0.5
_FIRST_PAUSE_S: Final = 2.0
_MAX_PAUSE_S: Final = 30.0
_log: Final = structlog.get_logger("petition")


class Petition:
    """Asks again, each hub at its own growing pace."""

    def __init__(
        self, joiner: Joiner, session: ClientSession, trust: TrustStore, jitter: Callable[[], float] = random.random
    ) -> None:
        self._joiner = joiner
        self._session = session
        self._trust = trust
        self._jitter = jitter
        self._next: dict[str, tuple[float, float]] = {}
        """By tenant: the pause before the next attempt, and when that is."""

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            try:
                waiting = [peer for peer in self._trust.current().peers() if peer.state == "pending" and peer.url]
            except HubspokeError as error:
                _log.warning("petition.unavailable", reason=error.message)
                waiting = []
            self._next = {peer.tenant: self._next.get(peer.tenant, (_FIRST_PAUSE_S, 0.0)) for peer in waiting}
            for peer in waiting:
                if time.monotonic() >= self._next[peer.tenant][1]:
                    await self._ask(peer)
            await asyncio.sleep(POLL_S)

    async def _ask(self, peer: Peer) -> None:
        try:
            asked = await self._joiner.request(self._session, self._trust, peer.url or "", peer.current_key.fingerprint)
            _log.info("join.repeated", peer=peer.instance, connection=asked.state)
        except HubspokeError as error:
            _log.warning("join.not_answered", peer=peer.instance, code=error.code, reason=error.message)
        pause_s = self._next[peer.tenant][0]
        due = time.monotonic() + pause_s * (0.5 + self._jitter() / 2)
        self._next[peer.tenant] = (min(_MAX_PAUSE_S, pause_s * 1.5), due)
