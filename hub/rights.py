"""What a hub's user needs to be allowed in Valkey."""

from __future__ import annotations

from typing import Final

from common.valkey_rights import Rights
from hub.keyspace import Keyspace

_DIRECT: Final = frozenset(
    {
        *("exists", "hdel", "hget", "hkeys", "hmget", "hset", "smembers"),
        *("xinfo|stream", "xrange", "xread", "xrevrange", "zcard", "zrange"),
    }
)
"""What it calls outside of its scripts."""


def rights_of(instance: str) -> Rights:
    """Return the rights of the hub `instance`."""
    return Rights.of("hub", Keyspace(instance).prefix, _DIRECT)
