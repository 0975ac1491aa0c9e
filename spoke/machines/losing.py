"""Gives machines up that nobody hears of: what they had fails as `lost`, and never waits in silence (fault row 9).

A machine is heard of while its channel is open or its leases are renewed, measured on our own monotonic clock. One that
was forgotten is given up at once. What it still runs it ends itself when it comes back: its leases are gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from common.errors import Unavailable
from spoke.machines.gate import Channels
from spoke.machines.held_by import Held, by_machine, lose
from spoke.machines.places import Places
from spoke.machines.registry import Machines
from spoke.queue import Queue

_LOOK_S: Final = 2.0
_PRUNE_S: Final = 3600.0
_LONGEST_RUN_MS: Final = 2 * 86_400_000
"""A start is looked for while its agent's record is kept, which begins when it ends."""
_log: Final = structlog.get_logger("machine")


class Silence:
    """When each machine was heard of last, by one observer."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[Held, float]] = {}

    def look(self, found: Mapping[str, Held], connected: frozenset[str], now_s: float) -> dict[str, float]:
        """Take what is so at `now_s` (monotonic) and return for how long each machine was not heard of, in s."""
        heard: dict[str, tuple[Held, float]] = {}
        for machine, held in found.items():
            before, since = self._heard.get(machine, (held, now_s))
            renewed = held.deadline_ms > before.deadline_ms
            heard[machine] = (held, now_s if renewed or machine in connected else since)
        self._heard = heard
        return {machine: now_s - since for machine, (_, since) in heard.items()}

    def forget(self) -> None:
        """Begin anew: the store could not be asked, so nobody could renew either."""
        self._heard = {}


class Losing:
    """Watches all machines; `after_s` 0 gives up only those that were forgotten."""

    def __init__(
        self, queue: Queue, machines: Machines, channels: Channels, places: Places, after_s: Callable[[], int]
    ) -> None:
        self._queue = queue
        self._places = places
        self._prune_at = 0.0
        self._machines = machines
        self._channels = channels
        self._after_s = after_s
        self._silence = Silence()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                await self._look()
                self._prune()
            except Unavailable as error:
                self._silence.forget()
                _log.warning("machine.not_watched", reason=error.message)
            await asyncio.sleep(_LOOK_S)

    def _prune(self) -> None:
        if time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + _PRUNE_S
            kept_ms = self._queue.bounds.retention_ms + _LONGEST_RUN_MS
            self._places.forget(time.time_ns() // 1_000_000 - kept_ms)

    async def _look(self) -> None:
        if not self._machines.ever() and not self._places.exists:
            return  # a spoke without machines does not pay for them
        # One that has nothing here is not counted: what comes to it later waits for as long as anything.
        found = await by_machine(self._queue)
        known = self._machines.ids()
        silent = self._silence.look(found, frozenset(self._channels.all()), time.monotonic())
        for machine, silent_s in silent.items():
            name = machine.partition("_")[0]
            if machine not in known:
                await self._lose(machine, f"its machine {name} was forgotten here; nobody knows whether it still ran")
            elif 0 < self._after_s() <= silent_s:
                await self._lose(machine, f"nothing was heard of its machine {name} for {silent_s:.0f} s")

    async def _lose(self, machine: str, detail: str) -> None:
        lost = await lose(self._queue, machine, detail)
        _log.error("machine.lost", machine=machine, agents=lost, reason=detail)
