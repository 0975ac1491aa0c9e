"""WebSockets as links use them: our subprotocol, whole messages of at most 1 MiB, never compressed, self-made pings.

Translates what aiohttp raises, and closes without waiting long for the other side.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, Literal

import aiohttp
from aiohttp import WSMsgType, web

from common.errors import HubspokeError, Unavailable
from common.handshake import SUBPROTOCOL
from common.jose import MAX_ENVELOPE_BYTES
from common.post import cannot_reach
from common.proxy import proxy_for

HEARTBEAT_S: Final = 15.0
_CLOSE_S: Final = 2.0
# aiohttp refuses what is as long as its limit.
_MAX_MESSAGE: Final = MAX_ENVELOPE_BYTES + 1

GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED: Final = 1003
LOST: Final = 1006
POLICY: Final = 1008
INTERNAL: Final = 1011
REPLACED: Final = 4001
"""The close code that tells a side that a newer link of the same instance took its place (fault row 32)."""

ServerSocket = web.WebSocketResponse[Literal[False]]
ClientSocket = aiohttp.ClientWebSocketResponse[Literal[False]]
Socket = ServerSocket | ClientSocket


class NotOffered(HubspokeError):
    """The hub answers, but has no link for us."""

    code = "link_not_offered"
    http_status = 502


def server_socket(subprotocol: str = SUBPROTOCOL) -> ServerSocket:
    """Return a WebSocket to answer an upgrade with; an offer of compression is declined."""
    return web.WebSocketResponse(
        protocols=(subprotocol,),
        compress=False,
        max_msg_size=_MAX_MESSAGE,
        heartbeat=HEARTBEAT_S,
        timeout=_CLOSE_S,
        decode_text=False,
    )


@asynccontextmanager
async def dial(session: aiohttp.ClientSession, url: str, subprotocol: str = SUBPROTOCOL) -> AsyncIterator[ClientSocket]:
    """Open a WebSocket to a hub's link; raises `NotOffered`, or `Unavailable` when nobody answers as a hub would."""
    try:
        socket = await session.ws_connect(
            url,
            protocols=(subprotocol,),
            compress=0,
            max_msg_size=_MAX_MESSAGE,
            heartbeat=HEARTBEAT_S,
            timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
            decode_text=False,
            proxy=proxy_for(url),
        )
    except aiohttp.WSServerHandshakeError as error:
        # 408 and 429 are the 4xx that ask to come again soon.
        if 400 <= error.status < 500 and error.status not in {408, 429}:  # noqa: PLR2004  # the class of HTTP statuses
            raise NotOffered(f"{url} answers {error.status}: this hub has no link for us now") from error
        raise Unavailable(f"{url} answers {error.status}") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise cannot_reach(url, error) from error
    try:
        if socket.protocol != subprotocol:
            raise NotOffered(f"{url} does not speak {subprotocol}")
        yield socket
    finally:
        await close(socket, GOING_AWAY, "stopping")


async def send(socket: Socket, raw: bytes) -> None:
    """Send one text message; raises `Unavailable` when the socket is closed."""
    try:
        await socket.send_frame(raw, WSMsgType.TEXT)
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable("the link is closed") from error


async def receive_first(socket: Socket) -> bytes:
    """Return one message of the handshake; raises `Unavailable` when something else comes."""
    message = await socket.receive()
    if message.type is not WSMsgType.TEXT:
        raise Unavailable("the link was closed before its handshake was over")
    return bytes(message.data)


async def close(socket: Socket, code: int, reason: str) -> None:
    """Close in good form, but do not wait long for the other side to do so."""
    # aiohttp's own limit starts anew with each message that still comes.
    with suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            await socket.close(code=code, message=reason.encode())
