"""The Valkey that a node works with: its own, started for it, or somebody else's, looked at before it is used."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog
from redis.asyncio import Redis

from common.configuration import EMBEDDED, NodeDirectory, ValkeySection
from common.embedded_valkey import EmbeddedValkey
from common.valkey import connect, connect_blocking
from common.valkey_rights import Rights, check_server

_log: Final = structlog.get_logger("valkey")


@dataclass(frozen=True, slots=True)
class NodeValkey:
    """A client for calls, one that waits without a deadline, and the server when it is ours."""

    client: Redis
    blocking: Redis
    server: EmbeddedValkey | None


@asynccontextmanager
async def open_valkey(directory: NodeDirectory, section: ValkeySection, rights: Rights) -> AsyncIterator[NodeValkey]:
    """Yield clients of a server that keeps what it acknowledges and lets us do what we need; raises `HubspokeError`."""
    target = directory.valkey_target(section)
    async with AsyncExitStack() as stack:
        embedded = section.url == EMBEDDED
        server = await stack.enter_async_context(EmbeddedValkey(directory.valkey)) if embedded else None
        client = await stack.enter_async_context(connect(target))
        blocking = await stack.enter_async_context(connect_blocking(target))
        for shortfall in await check_server(client, rights, section.allow_data_loss):
            _log.warning("valkey.may_lose_data", reason=shortfall)
        yield NodeValkey(client, blocking, server)
