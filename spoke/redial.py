"""When to dial a hub again after a link ended: pure, so that a thousand spokes can be tried out (fault row 35).

A hub that says goodbye is coming back: dial at once, spread over half a second. After anything else the pause doubles
from a second to `LAST_S`, and each spoke takes a random part of it, so that those that lost one hub together do not
come back together. A link that held for `STABLE_S` makes the next pause short again. A hub without links is asked once
a minute; where another process has taken our place, the longest pause, so that two do not fight.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

FIRST_S: Final = 1.0
LAST_S: Final = 30.0
STABLE_S: Final = 60.0
AT_ONCE_S: Final = 0.5
NOT_OFFERED_S: Final = 60.0
_MAX_DOUBLINGS: Final = 10
_LEAST: Final = 0.1


class Ending(Enum):
    """How an attempt or a link ended."""

    GOODBYE = auto()
    LOST = auto()
    NOT_OFFERED = auto()
    REPLACED = auto()


@dataclass(frozen=True, slots=True)
class Redial:
    """The pause before the next attempt, and how many failures count at the one after it."""

    pause_s: float
    failures: int


def redial(ending: Ending, up_s: float, failures: int, jitter: float) -> Redial:
    """Decide after a link that was up for `up_s` (0 when it never was); `jitter` is random in [0, 1)."""
    if up_s >= STABLE_S:
        failures = 0
    if ending is Ending.NOT_OFFERED:
        return Redial(NOT_OFFERED_S, 0)
    if ending is Ending.REPLACED:
        return Redial(LAST_S * (1 + jitter) / 2, failures + 1)
    if ending is Ending.GOODBYE and failures == 0:
        return Redial(AT_ONCE_S * jitter, 1)
    longest_s = min(LAST_S, FIRST_S * (1 << min(failures, _MAX_DOUBLINGS)))
    return Redial(longest_s * (_LEAST + (1 - _LEAST) * jitter), failures + 1)
