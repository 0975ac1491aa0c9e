"""TLS: what a node shows to those who dial it, and whom it believes when it dials. TLS 1.2 and newer only.

Plain HTTP carries tokens and work items for anybody on the way to read, so it is refused beyond this machine, in and
out, unless the configuration says in so many words that it is wanted. Envelopes are signed either way. A certificate
that is replaced on the disk is taken up without a restart; a pair that does not fit is refused and the old one stays.
"""

from __future__ import annotations

import asyncio
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from common.errors import LocalError, Unavailable
from common.listen_address import parse_listen
from common.peer_url import is_loopback, is_loopback_host

POLL_S: Final = 2.0
_log: Final = structlog.get_logger("tls")


class TlsError(LocalError):
    """A certificate or key that cannot be used; the message names the file."""

    code = "tls"


class PlainHttpRefused(Unavailable):
    """A URL without TLS that leads off this machine."""

    code = "plain_http"


@dataclass(frozen=True, slots=True)
class Reach:
    """How this node dials: the authorities it believes (the system's without `ca`), whether plain HTTP may leave."""

    ca: Path | None = None
    plain_http: bool = False

    def context(self) -> ssl.SSLContext:
        """Return the context of outgoing calls; raises `TlsError`."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"cannot use {self.ca} as [tls] ca: {_why(error)}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def check(self, url: str) -> None:
        """Raise `PlainHttpRefused` for a URL that would carry a request off this machine in the clear."""
        if not self.plain_http and not url.startswith(("https://", "wss://")) and not is_loopback(url):
            raise PlainHttpRefused(
                "the peer's URL is plain http: give it TLS, or set [node] insecure_plain_http = true"
            )


STRICT: Final = Reach()
"""Plain HTTP stays on this machine, and the authorities are those of the system."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate (with its chain) and its private key, PEM files."""

    certificate: Path
    key: Path

    def load_into(self, context: ssl.SSLContext) -> None:
        """Make a context show this certificate; raises `TlsError`."""
        try:
            mode = self.key.stat().st_mode
            if mode & (stat.S_IROTH | stat.S_IWOTH):
                raise TlsError(f"{self.key} can be read by everybody; run: chmod o-rw {self.key}, and replace the key")
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"cannot use {self.certificate} with {self.key}: {_why(error)}") from error

    def state(self) -> tuple[object, ...]:
        """Return what changes when one of the files does."""
        return tuple(_state(path) for path in (self.certificate, self.key))

    def pinned(self) -> ssl.SSLContext:
        """Return a context that believes exactly this certificate, whatever name it is for: to reach oneself."""
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.load_verify_locations(self.certificate)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(f"cannot use {self.certificate}: {_why(error)}") from error
        return context


class ServerTls:
    """What a listener shows; new files are taken up inside `watched`."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._state = pair.state()
        self.context = _server_context()
        pair.load_into(self.context)

    def reload(self) -> bool:
        """Take up files that have changed since; returns whether there were. Raises `TlsError`, and the old stay."""
        state = self._pair.state()
        if state == self._state:
            return False
        self._state = state
        # Tried elsewhere first: a live context would be left with a certificate that does not fit its key.
        self._pair.load_into(_server_context())
        self._pair.load_into(self.context)
        return True

    @asynccontextmanager
    async def watched(self, poll_s: float = POLL_S) -> AsyncIterator[None]:
        """Look for new files until the block ends."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._watch(poll_s))
            try:
                yield
            finally:
                task.cancel()

    async def _watch(self, poll_s: float) -> None:
        while True:
            await asyncio.sleep(poll_s)
            try:
                if self.reload():
                    _log.info("tls.reloaded", certificate=str(self._pair.certificate))
            except TlsError as error:
                _log.error("tls.not_reloaded", reason=error.message)


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def check_listen(listen: str, *, has_tls: bool, plain_http: bool) -> None:
    """Raise `TlsError` for an address that others can reach, without TLS and without their being meant to."""
    host, _ = parse_listen(listen)
    if not has_tls and not plain_http and not is_loopback_host(host):
        raise TlsError(
            f"others can reach {listen}, and what they send could be read on the way: set [tls] certificate and key, "
            "listen on 127.0.0.1 behind a proxy, or set [node] insecure_plain_http = true"
        )


def _state(path: Path) -> object:
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return found.st_ino, found.st_mtime_ns, found.st_size


def _why(error: OSError | ssl.SSLError) -> str:
    return getattr(error, "reason", None) or error.strerror or type(error).__name__
