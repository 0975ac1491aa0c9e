"""Serving an application on one address, and how long a connection may keep us waiting (attack rows 43, 44).

aiohttp bounds the size of a request's line and headers, not their time. Here a connection that has begun no request is
closed after `FIRST_REQUEST_S`, and after `NEXT_REQUEST_S` once it has had an answer, which also ends a peer that never
reads it. Only so many may wait per address: the one that has waited longest makes room, so that whoever sends a
request at once is served beside a flood. Only so many bodies of one address are waited for, so that slow ones hold
neither memory nor descriptors. What the parser refuses is closed and one line in the log, nothing inflated.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Final, cast

import structlog
from aiohttp import web

from common.errors import LocalError, RateLimited
from common.listen_address import parse_listen

FIRST_REQUEST_S: Final = 10.0
NEXT_REQUEST_S: Final = 75.0
MAX_WAITING_PER_ADDRESS: Final = 256
MAX_BODIES_PER_ADDRESS: Final = 128
MAX_HEADER_BYTES: Final = 8190
_LINGER_S: Final = 2.0
_SHUTDOWN_S: Final = 3.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log: Final = structlog.get_logger("listener")


class _ParserLog(logging.Handler):
    """Takes what aiohttp would log with a traceback for every stranger that speaks no HTTP."""

    def emit(self, record: logging.LogRecord) -> None:
        cause = (record.exc_info or (None,))[0]
        _log.warning("connection.refused", detail=record.getMessage(), reason=getattr(cause, "__name__", None))


def _parser_logger() -> logging.Logger:
    logger = logging.Logger("hubspoke.parser", logging.WARNING)
    logger.addHandler(_ParserLog())
    return logger


class _Waiting:
    """The connections without a request in progress, by address, the one that has waited longest first.

    `bodies` counts the bodies that are waited for, by address.
    """

    def __init__(self) -> None:
        self._by_address: dict[str, dict[_Connection, None]] = {}
        self.bodies: Counter[str] = Counter()

    def add(self, connection: _Connection) -> None:
        waiting = self._by_address.setdefault(connection.address, {})
        waiting[connection] = None
        if len(waiting) > MAX_WAITING_PER_ADDRESS:
            next(iter(waiting)).cut()

    def discard(self, connection: _Connection) -> None:
        waiting = self._by_address.get(connection.address, {})
        waiting.pop(connection, None)
        if not waiting:
            self._by_address.pop(connection.address, None)


class _Connection(asyncio.Protocol):
    """One connection: passes everything on to aiohttp's protocol and keeps the time between requests."""

    def __init__(self, inner: web.RequestHandler, waiting: _Waiting) -> None:
        self._inner = inner
        self._waiting = waiting
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # None when the other side has gone already.
        self.address = (transport.get_extra_info("peername") or [""])[0]
        self._inner.connection_made(transport)
        self._expect_request(FIRST_REQUEST_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> None:
        self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def cut(self) -> None:
        # Not close(): that waits for what the other side does not read.
        self._stop_waiting()
        self._transport.abort()

    def _expect_request(self, seconds: float) -> None:
        self._deadline = asyncio.get_running_loop().call_later(seconds, self.cut)
        self._waiting.add(self)

    def _stop_waiting(self) -> None:
        self._deadline.cancel()
        self._waiting.discard(self)

    @contextmanager
    def awaiting_body(self) -> Iterator[None]:
        bodies = self._waiting.bodies
        if bodies[self.address] >= MAX_BODIES_PER_ADDRESS:
            raise RateLimited("too many requests of this address have not sent their body yet; try again")
        bodies[self.address] += 1
        try:
            yield
        finally:
            bodies[self.address] -= 1
            if not bodies[self.address]:
                del bodies[self.address]

    async def serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._stop_waiting()
        try:
            return await handler(request)
        finally:
            if not self._transport.is_closing():
                self._expect_request(NEXT_REQUEST_S)


def awaiting_body(request: web.Request) -> AbstractContextManager[None]:
    """Count the request among those of its address whose body has not come yet; raises `RateLimited` over the limit.

    A body that is there already is not waited for, and not counted.
    """
    connection = request.transport.get_protocol() if request.transport else None
    if request.content.is_eof() or not isinstance(connection, _Connection):
        return nullcontext()
    return connection.awaiting_body()


@web.middleware
async def _timed(request: web.Request, handler: Handler) -> web.StreamResponse:
    connection = request.transport.get_protocol() if request.transport else None
    # A connection that has gone already needs no watching.
    return await (connection.serve(request, handler) if isinstance(connection, _Connection) else handler(request))


@asynccontextmanager
async def listening(app: web.Application, listen: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve `app` on `HOST:PORT` until the block ends; yields the URL with the real port (0 takes a free one).

    Whether it may do without `tls` is for `common.tls.check_listen` to say.

    Raises `LocalError` `listen` when the address cannot be had.
    """
    host, port = parse_listen(listen)
    app.middlewares.insert(0, _timed)
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_parser_logger(),
        auto_decompress=False,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        lingering_time=_LINGER_S,
        shutdown_timeout=_SHUTDOWN_S,
    )
    await runner.setup()
    try:
        async with _accepting(runner, host, port, tls) as bound:
            yield bound
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _accepting(runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None) -> AsyncIterator[str]:
    waiting = _Waiting()
    new_handler = cast(web.Server, runner.server)
    try:
        server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(new_handler(), waiting),
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else FIRST_REQUEST_S,
            ssl_shutdown_timeout=None if tls is None else _LINGER_S,
        )
    except OSError as error:
        # asyncio repeats the address in strerror; a name that does not resolve has a negative number of its own.
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise LocalError(
            f"cannot listen on {host} port {port}: {why}; choose another address", code="listen"
        ) from error
    try:
        bound_host, bound_port = server.sockets[0].getsockname()[:2]
        scheme = "http" if tls is None else "https"
        yield (
            f"{scheme}://[{bound_host}]:{bound_port}" if ":" in bound_host else f"{scheme}://{bound_host}:{bound_port}"
        )
    finally:
        server.close()
