"""Two ends of a real WebSocket in one process: what a hub accepts with, and what a spoke dials with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from common.envelope import EnvelopeType
from common.errors import Unavailable
from common.handshake import SUBPROTOCOL
from common.keyring import SigningKey
from common.link import Link, Opened
from common.peers import Peer, Trust
from common.post import open_session
from common.websocket import ClientSocket, ServerSocket, dial, server_socket
from tests.envelopes import HUB, HUB_KEY, SPOKE, SPOKE_KEY, claims, command, hub_peer, id_of, sign, spoke_peer


@dataclass
class Kept:
    """Trust that a test changes, or takes away."""

    peer: Peer
    away: bool = False

    def current(self) -> Trust:
        if self.away:
            raise Unavailable("the trust store cannot be read")
        return Trust([self.peer])


def request(number: int = 1, size: int = 0) -> bytes:
    """An envelope that asks for an answer; `size` makes it long."""
    return sign(command(jti=id_of(number), traceparent="x" * size))


def reply(number: int = 1, key: SigningKey = SPOKE_KEY, **changes: Any) -> bytes:
    """An envelope that answers one."""
    payload = {**claims(iss=SPOKE, aud=HUB), "re": id_of(number), "results": [], **changes}
    return sign(payload, key=key, typ=EnvelopeType.REPLY)


@asynccontextmanager
async def sockets(*, silent: bool = False) -> AsyncIterator[tuple[ServerSocket, ClientSocket]]:
    """Yield the server's and the client's end of one WebSocket; a silent client sends no pings."""
    accepted: asyncio.Future[ServerSocket] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def accept(incoming: web.Request) -> ServerSocket:
        socket = server_socket()
        await socket.prepare(incoming)
        accepted.set_result(socket)
        await over.wait()
        return socket

    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(accept))
        session = await stack.enter_async_context(open_session())
        dialed: Any = session.ws_connect(url, protocols=(SUBPROTOCOL,)) if silent else dial(session, url)
        client = await stack.enter_async_context(dialed)
        yield await accepted, client
        over.set()


@asynccontextmanager
async def serving(handler: Any) -> AsyncIterator[str]:
    """Serve one handler for every GET; yields the URL."""
    app = web.Application()
    app.add_routes([web.get("/{path:.*}", handler)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class End:
    """One end of a link that a test drives: what it is asked is answered by `answer`, noted in `asked`."""

    def __init__(self, socket: Any, peer: Peer, **options: Any) -> None:
        self.kept = Kept(peer)
        self.asked: list[bytes] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.fails_with: Exception | None = None
        self.ended = False
        self.link = Link(socket, Opened(peer, "here", 0), self.answer, self.kept, **options)

    async def run(self) -> None:
        await self.link.run()
        self.ended = True

    async def answer(self, raw: bytes) -> bytes:
        self.asked.append(raw)
        await self.may_answer.wait()
        if self.fails_with is not None:
            raise self.fails_with
        return reply(len(self.asked))


@asynccontextmanager
async def ends(**options: Any) -> AsyncIterator[tuple[End, End]]:
    """Yield both ends of a running link, the hub's first; both have ended when the block has."""
    async with sockets() as (server, client), asyncio.TaskGroup() as group:
        hub, spoke = End(server, spoke_peer(), **options), End(client, hub_peer())
        tasks = [group.create_task(end.run()) for end in (hub, spoke)]
        yield hub, spoke
        hub.link.end(1000, "the test is over")
        spoke.link.end(1000, "the test is over")
        await asyncio.wait(tasks)


@asynccontextmanager
async def against_socket(
    *, silent: bool = False, **options: Any
) -> AsyncIterator[tuple[End, aiohttp.ClientWebSocketResponse[Any]]]:
    """Yield the hub's end of a running link and the bare socket of somebody who may do anything."""
    async with sockets(silent=silent) as (server, client), asyncio.TaskGroup() as group:
        hub = End(server, spoke_peer(), **options)
        task = group.create_task(hub.run())
        yield hub, client
        hub.link.end(1000, "the test is over")
        await asyncio.wait([task])


__all__ = ["HUB_KEY", "against_socket", "ends", "reply", "request", "serving", "sockets"]
