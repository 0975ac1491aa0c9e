"""Python's search for reference cycles, set to how a node lives.

An envelope of a thousand commands is tens of thousands of objects that are all needed until it is answered. With
Python's own thresholds they are gone through dozens of times meanwhile, and with them, now and then, everything that
the node was built from: a fifth of the hub's processor time at 512 spawns in flight. Hardly any of them are in cycles;
what is not in one is freed at once, as always.
"""

from __future__ import annotations

import gc
from typing import Final

BETWEEN_SEARCHES: Final = 20_000
"""So many more objects than before, some megabytes, let a search begin."""


def settle() -> None:
    """Leave what is there now out of every later search; call it when a node is built."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(BETWEEN_SEARCHES, *gc.get_threshold()[1:])
