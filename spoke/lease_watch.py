"""Finds leases that nobody keeps any more, without believing anybody's clock (fault row 21).

A holder puts its deadline off every few seconds. One that stood still for a whole lease, measured on the observer's
own monotonic clock, has lost its holder, wherever the wall clocks of this machine or of the store went meanwhile. An
observer that did not look for a while, because it was stopped itself or the store was away, begins anew: nobody could
have renewed then.
"""

from __future__ import annotations

from collections.abc import Mapping


class LeaseWatch:
    """What one observer has seen; `still_s` is how long a lease lasts, `gap_s` the longest pause between looks."""

    def __init__(self, still_s: float, gap_s: float) -> None:
        self._still_s = still_s
        self._gap_s = gap_s
        self._looked_at = 0.0
        self._since: dict[tuple[str, int], float] = {}

    def look(self, deadlines: Mapping[str, int], now_s: float) -> dict[str, int]:
        """Take the leases as they are at `now_s` (monotonic) and return those that nobody keeps."""
        if now_s - self._looked_at > self._gap_s:
            self._since = {}
        self._looked_at = now_s
        self._since = {lease: self._since.get(lease, now_s) for lease in deadlines.items()}
        return dict(lease for lease, since in self._since.items() if now_s - since >= self._still_s)

    def forget(self) -> None:
        """Begin anew: the store could not be asked, or not be written."""
        self._since = {}
