"""Which spoke takes an agent when nobody names one: the one with the least to do for its size, of those that may.

Pure. A spoke's size is how many agents it said it runs at once, `USUAL_SIZE` where it never said; its load is how
many agents of this hub there have not ended, with those that are placed now. What other hubs run there nobody tells.
A spoke that cannot be reached now is taken only when none can.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

USUAL_SIZE: Final = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """A spoke that may take agents; `size` 0 takes none."""

    spoke: str
    load: int
    size: int = USUAL_SIZE
    reachable: bool = True


def has_labels(wanted: Mapping[str, str], ours: Mapping[str, str], told: Mapping[str, Any]) -> bool:
    """Whether a spoke has all these labels: those we gave it count before those it told."""
    labels = {**told, **ours}
    return all(labels.get(name) == value for name, value in wanted.items())


def place(candidates: Sequence[Candidate], count: int) -> list[str]:
    """Return the spoke for each of `count` agents, or nothing when no spoke may take any."""
    able = [each for each in candidates if each.size > 0]
    able = [each for each in able if each.reachable] or able
    heap = [((each.load + 1) / each.size, each.spoke, each.load + 1, each.size) for each in able]
    heapq.heapify(heap)
    chosen: list[str] = []
    while heap and len(chosen) < count:
        _, spoke, load, size = heap[0]
        chosen.append(spoke)
        heapq.heapreplace(heap, ((load + 1) / size, spoke, load + 1, size))
    return chosen
