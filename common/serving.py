"""A node's listener as its configuration says: with TLS or without, and refused where others could read along."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from aiohttp import web

from common.configuration import NodeSection, TlsSection
from common.listener import listening
from common.tls import ServerTls, check_listen


class Settings(Protocol):
    """What of a node's settings says how it listens."""

    @property
    def node(self) -> NodeSection:
        """Where."""

    @property
    def tls(self) -> TlsSection:
        """What it shows."""


@asynccontextmanager
async def serving(app: web.Application, settings: Settings, directory: Path) -> AsyncIterator[str]:
    """Serve `app` until the block ends; yields the URL. Raises `TlsError`, and `LocalError` `listen`."""
    listen, pair = settings.node.listen, settings.tls.pair(directory)
    check_listen(listen, has_tls=pair is not None, plain_http=settings.node.insecure_plain_http)
    if pair is None:
        async with listening(app, listen) as url:
            yield url
    else:
        shown = ServerTls(pair)
        async with shown.watched(), listening(app, listen, shown.context) as url:
            yield url
