"""The floor under one spawn at a time: a signed message over a WebSocket to another process, and its signed answer.

Both are signed and verified as envelopes are; nothing is parsed, kept or queued. As a program this file is the other
process: it prints its port.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

from aiohttp import ClientSession, WSMsgType, web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.jose import parse_compact, sign_compact
from common.keyring import SigningKey
from common.websocket import dial, receive_first, send, server_socket
from tests.bench.measure import Measured, measure

# Any key, the same in both processes.
_KEY: Final = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
_COMMAND: Final = b"x" * 300
"""About as long as an envelope of one spawn."""


async def _answer(request: web.Request) -> web.StreamResponse:
    socket = server_socket()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            payload = parse_compact(message.data).verify(_KEY.public)
            await send(socket, sign_compact(_KEY, "reply+jwt", payload))
    return socket


async def _serve() -> None:
    app = web.Application()
    app.add_routes([web.get("/", _answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


async def signed_round_trip(_scratch: Path, in_flight: int, seconds: float) -> Measured:
    """Measure it over one socket, which takes one at a time."""
    other = await asyncio.create_subprocess_exec(sys.executable, "-m", __spec__.name, stdout=asyncio.subprocess.PIPE)
    assert other.stdout is not None
    try:
        port, turn = int(await other.stdout.readline()), asyncio.Lock()
        async with ClientSession() as session, dial(session, f"http://127.0.0.1:{port}/") as socket:

            async def call() -> None:
                async with turn:
                    await send(socket, sign_compact(_KEY, "command+jwt", _COMMAND))
                    parse_compact(await receive_first(socket)).verify(_KEY.public)

            return await measure(call, in_flight, seconds)
    finally:
        other.terminate()
        await other.wait()


if __name__ == "__main__":
    asyncio.run(_serve())
