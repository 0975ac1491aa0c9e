"""How many of one kind may be at it at once from one address, so that one address cannot take all the room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import Unavailable


class Crowd:
    """Counts by address, up to `limit` each."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._inside: Counter[str] = Counter()

    @contextmanager
    def entering(self, address: str) -> Iterator[None]:
        """Count one for the length of the block; raises `Unavailable` when there are too many."""
        if self._inside[address] >= self._limit:
            raise Unavailable("too many of these are open from this address; try again")
        self._inside[address] += 1
        try:
            yield
        finally:
            self._inside[address] -= 1
            # An address that has gone takes no room.
            self._inside += Counter()
