"""How often somebody may try to log in: few from one address, and not many from all together (attack row 58)."""

from __future__ import annotations

from collections import Counter
from typing import Final

from common.clock import Clock
from common.errors import RateLimited

WINDOW_S: Final = 60
PER_ADDRESS: Final = 10
_OVERALL: Final = 200


class Attempts:
    """Counts failures within a minute; a good login costs nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._window = 0
        self._failures: Counter[str] = Counter()

    def _now(self) -> Counter[str]:
        window = self._clock.now_ms() // 1000 // WINDOW_S
        if window != self._window:
            self._window, self._failures = window, Counter()
        return self._failures

    def check(self, address: str) -> None:
        """Raise `RateLimited` when there were too many."""
        failures = self._now()
        if failures[address] >= PER_ADDRESS or failures.total() >= _OVERALL:
            wait_s = WINDOW_S - self._clock.now_ms() // 1000 % WINDOW_S
            raise RateLimited("too many failed logins; wait a minute", retry_after_s=wait_s)

    def failed(self, address: str) -> None:
        """Count a failure."""
        self._now()[address] += 1
