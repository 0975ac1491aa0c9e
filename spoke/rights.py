"""What a spoke's user needs to be allowed in Valkey."""

from __future__ import annotations

from typing import Final

from common.valkey_rights import Rights
from spoke.queue_terms import prefix_of

_DIRECT: Final = frozenset(
    {
        *("del", "hget", "hgetall", "publish", "subscribe"),
        *("xlen", "xrange", "zrange", "zrangebylex"),
    }
)
"""What it calls outside of its scripts."""


def rights_of(instance: str) -> Rights:
    """Return the rights of the spoke `instance`."""
    return Rights.of("spoke", prefix_of(instance), _DIRECT)
