"""How long to wait before the next attempt: exponential, jittered, never longer than a minute (fault rows 17, 35)."""

from __future__ import annotations

from typing import Final

FIRST_S: Final = 0.5
LAST_S: Final = 60.0
_MAX_DOUBLINGS: Final = 10


def delay_s(failures: int, jitter: float) -> float:
    """Return the seconds to wait after `failures` (from 1) in a row; `jitter` in [0, 1) takes up to half of it away."""
    doubled = FIRST_S * (1 << min(failures - 1, _MAX_DOUBLINGS))
    return min(LAST_S, doubled) * (1 - jitter / 2)
