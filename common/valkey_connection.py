"""Connections to Valkey that can be cancelled, the one to an embedded server's directory, and the pool of them.

Decides how long one request or one answer may take. redis-py's own `socket_timeout` is left unset: it sends inside
`asyncio.wait_for`, which on Python 3.11 swallows a cancellation that arrives as the send completes, so a task that
calls Valkey in a loop might never end. `asyncio.timeout` does not.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final

from hiredis import pack_command
from redis.asyncio import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as ValkeyConnectionError
from redis.exceptions import DataError
from redis.exceptions import TimeoutError as ValkeyTimeoutError

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection as _Base
else:
    _Base = object

SOCKET_NAME: Final = "valkey.sock"


class _Bounded(_Base):
    """Packs in C. Bounds sending and each answer, unless the caller brings a timeout (pub/sub does); None: for ever."""

    def __init__(self, *, answer_timeout_s: float | None, **options: Any) -> None:
        self._answer_timeout_s = answer_timeout_s
        super().__init__(**options)

    def pack_command(self, *args: Any) -> list[bytes]:
        # redis-py's asyncio connections pack in Python, 15 times slower, and our scripts take thousands of arguments.
        command = args[0].encode() if isinstance(args[0], str) else args[0]
        try:
            return [pack_command((*command.split(), *args[1:]))]
        except TypeError as error:
            raise DataError(f"an argument is neither text, bytes nor a number: {error}") from error

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        try:
            async with asyncio.timeout(self._answer_timeout_s):
                await super().send_packed_command(command, check_health)
        except TimeoutError as error:  # the connection is closed already, redis-py does that when it is cancelled
            raise ValkeyTimeoutError("a request could not be sent in time") from error

    async def read_response(self, disable_decoding: bool = False, timeout: float | None = None, **options: Any) -> Any:
        own_timeout_s = self._answer_timeout_s if timeout is None else None
        try:
            async with asyncio.timeout(own_timeout_s):
                return await super().read_response(disable_decoding, timeout, **options)
        except TimeoutError as error:
            raise ValkeyTimeoutError("no answer in time") from error


class _TcpConnection(_Bounded, Connection):
    pass


class _TlsConnection(_Bounded, SSLConnection):
    pass


class _UnixConnection(_Bounded, UnixDomainSocketConnection):
    pass


class DirectoryConnection(_UnixConnection):
    """Connects to the socket in a directory however long its path is: a socket's address has 107 bytes."""

    async def _connect(self) -> None:
        directory = self.path
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.path = f"/proc/self/fd/{fd}/{SOCKET_NAME}"
        try:
            await super()._connect()  # type: ignore[no-untyped-call]  # redis-py has no types there
        finally:
            self.path = directory
            os.close(fd)


class FairPool(ConnectionPool):
    """At most `max_connections`; whoever finds none waits `wait_s` seconds for one, first come first served.

    In redis-py's own blocking pool whoever asks at the right moment is first: under load some wait in vain.
    """

    def __init__(self, *, wait_s: float, max_connections: int, **options: Any) -> None:
        super().__init__(max_connections=max_connections, **options)
        self._wait_s = wait_s
        self._places = asyncio.Semaphore(max_connections)

    async def get_connection(self, *_names: Any, **_options: Any) -> Any:
        """Return an open connection; raises what redis-py does when there is none in time."""
        try:
            async with asyncio.timeout(self._wait_s if self._places.locked() else None):
                await self._places.acquire()
        except TimeoutError as error:
            raise ValkeyConnectionError("no connection became free in time") from error
        try:
            connection: Any = self.get_available_connection()  # type: ignore[no-untyped-call]  # redis-py has no types there
        except BaseException:
            self._places.release()
            raise
        try:
            await self.ensure_connection(connection)
        except BaseException:
            await self.release(connection)
            raise
        return connection

    async def release(self, connection: Any) -> None:
        """Take a connection back for whoever waits longest."""
        try:
            await super().release(connection)
        finally:
            self._places.release()


CONNECTION_CLASSES: Final = {"redis": _TcpConnection, "rediss": _TlsConnection, "unix": _UnixConnection}
"""By the scheme of the URL."""
