"""Brings the store of an older hub up to date at the start: what was not kept then, or elsewhere, is made from records.

Once per store: a version beside them says that they are kept. Nothing else may run meanwhile, or they would be wrong.
"""

from __future__ import annotations

from typing import Final

import structlog
from redis.asyncio import Redis

from common.scripts import ScriptSet
from hub.keyspace import Keyspace

VERSION: Final = "2"
DATA_FORMAT: Final = 2
"""What a hub's data are counted as (`common.trust_tables.FORMAT`) once they have been brought up to that version."""
_AT_ONCE: Final = 5000
_log: Final = structlog.get_logger("store")


async def make_indexes(client: Redis, keys: Keyspace, scripts: ScriptSet) -> None:
    """Make what is missing; nothing when it is there. Raises `Unavailable`; run again, it begins anew."""
    after, pages = b"", 0
    while True:
        after = await scripts["index"](client, [keys.prefix], [VERSION, after, _AT_ONCE])
        if not after:
            break
        pages += 1
    if pages:
        _log.info("store.indexed", agents_at_least=pages * _AT_ONCE)
