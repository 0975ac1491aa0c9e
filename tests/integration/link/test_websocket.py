"""Dialing: what is no link, and who is not followed or believed."""

from __future__ import annotations

import asyncio
import socket as sockets_of_the_system
from typing import Any

import pytest
from aiohttp import web

from common.errors import HubspokeError, Unavailable
from common.handshake import SUBPROTOCOL
from common.post import open_session
from common.websocket import NotOffered, close, dial, receive_first, send, server_socket
from tests.integration.link.wires import serving, sockets

ANSWERS: dict[str, tuple[int, type[HubspokeError]]] = {
    "no such route": (404, NotOffered),
    "no WebSocket": (400, NotOffered),
    "only with a token": (401, NotOffered),
    "a page": (200, Unavailable),
    "too slow": (408, Unavailable),
    "too often": (429, Unavailable),
    "broken": (500, Unavailable),
    "overloaded": (503, Unavailable),
}


async def dialed(url: str) -> type[HubspokeError] | None:
    async with open_session() as session:
        try:
            async with dial(session, url):
                return None
        except HubspokeError as error:
            return type(error)


@pytest.mark.parametrize(("status", "expected"), ANSWERS.values(), ids=ANSWERS)
async def test_who_answers_without_a_link(status: int, expected: type[HubspokeError]) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(status=status)

    async with serving(answer) as url:
        assert await dialed(url) is expected


@pytest.mark.attack(48)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    asked: list[str] = []

    async def redirect(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async with serving(redirect) as url:
        assert await dialed(f"{url}/here") is Unavailable
    assert asked == ["/here"]


async def test_nobody_there() -> None:
    with sockets_of_the_system.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    assert await dialed(f"http://127.0.0.1:{port}") is Unavailable


async def test_who_speaks_another_subprotocol() -> None:
    async def accept(request: web.Request) -> web.WebSocketResponse[Any]:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        return socket

    async with serving(accept) as url:
        assert await dialed(url) is NotOffered


@pytest.mark.attack(42)
async def test_an_offer_of_compression_is_declined() -> None:
    async def accept(request: web.Request) -> web.StreamResponse:
        socket = server_socket()
        await socket.prepare(request)
        await socket.receive()
        return socket

    async with (
        serving(accept) as url,
        open_session() as session,
        session.ws_connect(url, protocols=(SUBPROTOCOL,), compress=15) as socket,
    ):
        assert socket.compress == 0
        assert socket.protocol == SUBPROTOCOL


async def test_the_first_message() -> None:
    async with sockets() as (server, client):
        await send(server, b"hello")
        assert await receive_first(client) == b"hello"
        await server.send_bytes(b"hello")
        with pytest.raises(Unavailable):
            await receive_first(client)


async def test_nothing_is_sent_on_a_closed_socket() -> None:
    async with sockets() as (server, client), asyncio.TaskGroup() as group:
        group.create_task(close(server, 1000, "enough"))
        await client.receive()
        with pytest.raises(Unavailable):
            await send(client, b"hello")


async def test_a_close_is_not_waited_for() -> None:
    async with sockets() as (server, client):

        async def chatter() -> None:
            while not client.closed:
                await client.send_str("more")
                await asyncio.sleep(0.1)

        task = asyncio.create_task(chatter())
        async with asyncio.timeout(4):
            await close(server, 1000, "enough")
        task.cancel()
        await asyncio.wait([task])
