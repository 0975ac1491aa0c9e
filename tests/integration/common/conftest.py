from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Protocol
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from common.http import ENVELOPE_TYPE, problems, read_body
from common.listener import listening

DEADLINE_S = 20.0
LIMIT = 1000


class Taken(list[bytes]):
    """The bodies that the handler got whole."""


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
def app(taken: Taken) -> web.Application:
    async def take(request: web.Request) -> web.Response:
        taken.append(await read_body(request, ENVELOPE_TYPE, LIMIT))
        return web.Response(body=b"taken")

    made = web.Application(middlewares=[problems])
    made.router.add_post("/take", take)
    return made


@pytest.fixture
async def url(app: web.Application) -> AsyncIterator[str]:
    async with listening(app, "127.0.0.1:0") as bound:
        yield bound


class Line:
    """A raw connection: what is sent is exactly what was written here."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, raw: bytes) -> None:
        self._writer.write(raw)
        await self._writer.drain()

    def end_sending(self) -> None:
        self._writer.write_eof()

    async def answer(self) -> bytes:
        """Return the next answer's status line, headers and body of Content-Length."""
        async with asyncio.timeout(DEADLINE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
            return head + await self._reader.readexactly(length)

    async def rest(self) -> bytes:
        """Return all that comes until the other side closes; a connection that was reset is closed, too."""
        received = bytearray()
        async with asyncio.timeout(DEADLINE_S):
            try:
                while chunk := await self._reader.read(65536):
                    received += chunk
            except ConnectionError:
                pass
        return bytes(received)

    def abort(self) -> None:
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


class Dial(Protocol):
    async def __call__(self, url: str, source: str = "127.0.0.1") -> Line: ...


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Open raw connections, closed with the test."""
    async with AsyncExitStack() as stack:

        async def connect(url: str, source: str = "127.0.0.1") -> Line:
            parts = urlsplit(url)
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port, local_addr=(source, 0))
            line = Line(reader, writer)
            stack.push_async_callback(line.close)
            return line

        yield connect


def post(body: bytes = b"", *headers: bytes, path: bytes = b"/take", host: bytes = b"Host: node") -> bytes:
    """Return a POST with exactly these headers."""
    lines = [b"POST " + path + b" HTTP/1.1", host, *headers]
    return b"\r\n".join([line for line in lines if line]) + b"\r\n\r\n" + body


TYPE = b"Content-Type: application/jose"


def good(body: bytes = b"ab", *headers: bytes) -> bytes:
    return post(body, TYPE, b"Content-Length: %d" % len(body), *headers)
