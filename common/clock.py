"""Time and fresh ids for the composition roots to hand out: the only place that reads the system clock for the core."""

from __future__ import annotations

import os
import time
from typing import Protocol

from common.ids import UUID7_RANDOM_BYTES, uuid7


class Clock(Protocol):
    """What tells the time and makes ids."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""

    def new_id(self) -> str:
        """Return a fresh UUIDv7."""


class SystemClock:
    """The machine's wall clock and the kernel's randomness."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def new_id(self) -> str:
        """Return a fresh UUIDv7."""
        return uuid7(self.now_ms(), os.urandom(UUID7_RANDOM_BYTES))
