"""The way from one machine of a page to another: a proxy that alone knows where a name is.

Hub and spoke take it as they take any proxy (`HTTPS_PROXY`, docs/link.md), so the names, ports and certificates of a
page are used as they stand there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address_of: Callable[[str], str]) -> None:
    request = (await reader.readuntil(b"\r\n\r\n")).decode()
    host, _, port = request.split()[1].partition(":")
    try:
        there = await asyncio.open_connection(address_of(host), int(port))
    except OSError:
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        return
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    try:
        await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))
    finally:
        await _close(there[1])


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def network(address_of: Callable[[str], str]) -> AsyncIterator[str]:
    """Yield the URL of a CONNECT proxy that looks names up with `address_of`; ports stay what they are."""
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _carry(reader, writer, address_of)
        finally:
            await _close(writer)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(carry(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
