"""A spoke whose only way out is a CONNECT proxy: POST and link, with TLS to the hub inside.

The hub's name resolves nowhere but at the proxy, so whatever reaches the hub went through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from common.errors import HubspokeError
from common.post import fetch, open_session
from tests.integration.hub.hub_node import HubNode
from tests.integration.link.pair import Pair, join
from tests.integration.spoke.repositories import make_repository
from tests.spoke_node import SpokeNode

NAME = "hub.invalid"


def make_certificate(directory: Path) -> Path:
    """Return a PEM file with a key and a certificate for NAME that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = directory / "hub.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return file


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()  # also when it is cancelled, or the other end would be left to the garbage collector


async def join_streams(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, context: None = None
) -> None:
    there = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))
    finally:
        # Of pumps that were cancelled before their first step neither has closed anything.
        there[1].close()
        writer.close()


class Ways:
    """The TLS in front of the hub, the proxy before that, and what the proxy was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.refuses = False
        self.proxy = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def _terminate_tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._tracked(join_streams(reader, writer, self._hub_port))

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.split(b"\r\n")[0].decode())
        if self.refuses:
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await self._tracked(join_streams(reader, writer, self._tls_port))

    async def _tracked(self, work: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await work  # type: ignore[misc]  # a coroutine

    @asynccontextmanager
    async def open(self, hub_url: str, certificate: Path) -> AsyncIterator[None]:
        """Listen on both."""
        self._hub_port = int(hub_url.rpartition(":")[2])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        async with (
            await asyncio.start_server(self._terminate_tls, "127.0.0.1", 0, ssl=context) as tls,
            await asyncio.start_server(self._connect, "127.0.0.1", 0) as proxy,
        ):
            self._tls_port = tls.sockets[0].getsockname()[1]
            self.proxy = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
            yield
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.mark.slow
async def test_a_spoke_behind_a_proxy_joins_links_and_works(tmp_path: Path) -> None:
    certificate, ways = make_certificate(tmp_path), Ways()
    with HubNode(tmp_path) as hub:
        listen = hub.url.removeprefix("http://")
        text = hub.place.settings_file.read_text()
        url = f'listen = "{listen}"\nurl = "https://{NAME}"'
        hub.place.settings_file.write_text(text.replace('listen = "127.0.0.1:0"', url))
        await hub.restart()
        async with ways.open(f"http://{listen}", certificate):
            # A proxy's own credentials come from its URL; a .netrc would be read by nobody.
            env = {
                "HTTPS_PROXY": ways.proxy.replace("//", "//user:secret@"),
                "NO_PROXY": "other.invalid",
                "SSL_CERT_FILE": str(certificate),
            }
            async with SpokeNode(tmp_path, env=env) as spoke:
                hub.url = f"http://{listen}"
                await join(hub, spoke)
                pair = Pair(hub, spoke, make_repository(tmp_path / "repository"))
                await pair.up()
                await pair.until(await pair.spawn("print hello"), "completed")
                assert "secret" not in spoke.log()
    assert set(ways.asked) == {f"CONNECT {NAME}:443 HTTP/1.1"}


async def test_a_proxy_that_refuses_or_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = Ways()
    ways.refuses = True
    async with ways.open("http://127.0.0.1:1", make_certificate(tmp_path)), open_session() as session:
        monkeypatch.setenv("HTTPS_PROXY", ways.proxy)
        with pytest.raises(HubspokeError) as refused:
            await fetch(session, "GET", f"https://{NAME}/federation/v1/identity")
        assert refused.value.code == "unavailable"
        monkeypatch.setenv("NO_PROXY", "invalid")
        with pytest.raises(HubspokeError):
            await fetch(session, "GET", f"https://{NAME}/federation/v1/identity")
    assert len(ways.asked) == 1
