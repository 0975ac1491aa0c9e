"""Fuzzes the HTTP of a node over a real socket: whatever is sent, it answers or closes, and never crashes.

Half of the inputs are a request as it is, the others the body of a good one.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import atheris

with atheris.instrument_imports(include=["common", "hub.api"]):
    import structlog
    from aiohttp import web

    from common import http
    from common.commands import SpawnFields
    from common.http import ENVELOPE_TYPE, JSON_TYPE, json_response, read_body, read_json
    from common.inbox import Inbox
    from common.listener import listening
    from tests.envelopes import ME_SPOKE, NOW_S, command, sign, spawn, spoke_trust
    from tests.fuzz.fuzzing import fuzz
    from tests.fuzz.planted import plant

PATHS = {b"/envelopes": ENVELOPE_TYPE, b"/json": JSON_TYPE}
_crashes: list[str] = []


class _Trust:
    def current(self) -> Any:
        return spoke_trust()


def _note_crash(_logger: Any, _method: str, event: Any) -> Any:
    if event["event"] == "request.crashed":
        _crashes.append(str(event))
    raise structlog.DropEvent


def _application() -> web.Application:
    inbox = Inbox(ME_SPOKE, _Trust())

    async def take(request: web.Request) -> web.Response:
        admitted = inbox.admit(await read_body(request, ENVELOPE_TYPE), NOW_S)
        return web.Response(text=admitted.peer.instance)

    async def take_json(request: web.Request) -> web.Response:
        return json_response((await read_json(request, SpawnFields)).model_dump(by_alias=True))

    app = web.Application(middlewares=[http.problems])
    app.add_routes([web.post("/envelopes", take), web.post("/json", take_json)])
    return app


def _serve(ready: threading.Event, place: list[str]) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: _crashes.append(str(context)))
        async with listening(_application(), "127.0.0.1:0") as url:
            place.append(url)
            ready.set()
            await asyncio.Event().wait()

    asyncio.run(serve())


def request(path: bytes, body: bytes) -> bytes:
    """Return a good request with this body."""
    kind = PATHS[path].encode()
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % (path, kind, len(body)) + body


def exchange(address: tuple[str, int], raw: bytes) -> bytes:
    """Send bytes, say that no more will come, and return all that is answered."""
    with socket.create_connection(address, 10) as line:
        answer = bytearray()
        try:
            line.sendall(raw)
            line.shutdown(socket.SHUT_WR)
            while chunk := line.recv(65536):
                answer += chunk
        except ConnectionError:  # refused in the middle of what we send
            pass
        return bytes(answer)


def seeds() -> Iterator[bytes]:
    """Good requests, as they are and as bodies."""
    envelope, wish = sign(command()), json.dumps(spawn()).encode()
    yield b"\0" + request(b"/envelopes", envelope)
    yield b"\0" + request(b"/json", wish)
    yield b"\0POST /json HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    yield b"\0GET / HTTP/1.1\r\n\r\n"
    yield b"\1" + envelope
    yield b"\2" + wish


def main() -> None:
    """Start the listener and fuzz it."""
    planted = plant()
    structlog.configure(processors=[_note_crash])
    ready, place = threading.Event(), list[str]()
    threading.Thread(target=_serve, args=(ready, place), daemon=True).start()
    ready.wait(10)
    url = urlsplit(place[0])
    address = (str(url.hostname), int(url.port or 0))

    def target(data: bytes) -> None:
        mode, rest = data[:1], data[1:]
        raw = rest if mode in {b"", b"\0"} else request(b"/envelopes" if mode == b"\1" else b"/json", rest)
        answer = exchange(address, raw)
        assert not answer or answer.startswith(b"HTTP/1."), answer[:80]
        assert not answer.startswith(b"HTTP/1.1 500"), answer[:200]
        assert not _crashes, _crashes

    fuzz("http", target, seeds(), planted)


if __name__ == "__main__":
    main()
