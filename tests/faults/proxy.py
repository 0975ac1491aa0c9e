"""A TCP proxy that tests cut: connections broken, refused, or their answers swallowed after the request went through.

    async with Proxy(lambda: ("127.0.0.1", 8700)) as proxy:
        proxy.cut()                 # ends what is open and refuses what comes
        proxy.mend()
        proxy.swallow_answers(1)    # the next answer is lost and its connection with it

The target is asked for at each connection, so it may move. A path is a Unix socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self

Target = tuple[str, int] | str
_CHUNK: Final = 65_536


class Proxy:
    """Listens on a free port of loopback while inside `async with`."""

    def __init__(self, target: Callable[[], Target]) -> None:
        self._target = target
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_cut = False
        self._to_swallow = 0
        self._server: asyncio.Server | None = None
        self.port = 0
        self.swallowed = 0
        """How many answers were lost so far."""
        self.connections = 0
        """How many were ever made through it."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        while self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def url(self) -> str:
        """Where it listens, as the URL of a node."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break what is open and refuse what comes."""
        self._is_cut = True
        for writer in self._open:
            writer.transport.abort()

    def mend(self) -> None:
        """Let everything through again."""
        self._is_cut = False

    def swallow_answers(self, count: int) -> None:
        """Break, instead of passing on, the next `count` pieces of answers: what was asked has been done."""
        self._to_swallow = count

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._open.add(writer)
        try:
            if not self._is_cut:
                await self._connect(reader, writer)
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = self._target()
        try:
            if isinstance(target, str):
                back, forth = await asyncio.open_unix_connection(target)
            else:
                back, forth = await asyncio.open_connection(*target)
        except OSError:
            return
        self._open.add(forth)
        self.connections += 1
        try:
            asking = asyncio.create_task(self._pass_on(reader, forth, answers=False))
            await self._pass_on(back, writer, answers=True)
            asking.cancel()
            await asyncio.wait([asking])
        finally:
            self._open.discard(forth)
            forth.transport.abort()

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool) -> None:
        with suppress(ConnectionError):
            while data := await source.read(_CHUNK):
                if answers and self._to_swallow:
                    self._to_swallow -= 1
                    self.swallowed += 1
                    return
                sink.write(data)
                await sink.drain()
            if not answers:
                sink.write_eof()
