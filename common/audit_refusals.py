"""Refusals, counted: a flood of bad envelopes or tokens makes a few lines and not a full disk (attack row 64).

A cause is a code with the peer it concerns, if the sender proved to be one. The first refusal of a cause opens a
window of a second, which becomes one line with the count; while the cause goes on its windows get longer, up to a
minute. Decides only what is written and when; reads no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from common.audit import Entry
from common.ids import rfc3339

FIRST_WINDOW_MS: Final = 1000
LONGEST_WINDOW_MS: Final = 60_000
MAX_ADDRESSES: Final = 8
MAX_CAUSES: Final = 1000


@dataclass(frozen=True, slots=True)
class Cause:
    """What was refused and why: `event` such as `envelope.refused`, a stable code, and the peer if there is one."""

    event: str
    code: str
    peer: str | None = None


@dataclass(slots=True)
class _Window:
    length_ms: int
    began_ms: int
    ends_ms: int
    count: int = 0
    detail: str | None = None
    addresses: dict[str, None] = field(default_factory=dict)


class Refusals:
    """Counts refusals and gives the entries whose time has come."""

    def __init__(self) -> None:
        self._windows: dict[Cause, _Window] = {}

    def add(self, now_ms: int, cause: Cause, address: str | None = None, detail: str | None = None) -> None:
        """Count one refusal; the first detail of a window stands for all."""
        if cause not in self._windows and len(self._windows) >= MAX_CAUSES:
            cause = Cause(cause.event, cause.code)
        window = self._windows.setdefault(cause, _Window(FIRST_WINDOW_MS, now_ms, now_ms + FIRST_WINDOW_MS))
        window.count += 1
        window.detail = window.detail or detail
        if address and len(window.addresses) < MAX_ADDRESSES:
            window.addresses[address] = None

    def due(self, now_ms: int) -> list[Entry]:
        """Return an entry for each window that has ended, and open the next, longer one of its cause."""
        ended = [(cause, window) for cause, window in self._windows.items() if now_ms >= window.ends_ms]
        for cause, window in ended:
            if window.count:
                length_ms = min(window.length_ms * 2, LONGEST_WINDOW_MS)
                self._windows[cause] = _Window(length_ms, now_ms, now_ms + length_ms)
            else:
                del self._windows[cause]
        return list(_entries(ended))

    def drain(self) -> list[Entry]:
        """Return an entry for everything that is counted and forget it: the node stops."""
        ended, self._windows = list(self._windows.items()), {}
        return list(_entries(ended))


def _entries(ended: Iterable[tuple[Cause, _Window]]) -> Iterable[Entry]:
    for cause, window in ended:
        if window.count:
            fields = {
                "outcome": cause.code,
                "peer": cause.peer,
                "count": window.count,
                "since": rfc3339(window.began_ms),
                "addresses": list(window.addresses) or None,
                "detail": window.detail,
            }
            yield Entry(cause.event, fields)
