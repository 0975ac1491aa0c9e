"""TLS on real sockets: what is shown, who believes it, when it is taken up anew, where it must not be missing."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession, web
from structlog.testing import capture_logs

from common.configuration import NodeSection, TlsSection
from common.errors import Unavailable
from common.http import ENVELOPE_TYPE
from common.peers import Peer
from common.post import PostTransport, fetch, open_session
from common.serving import serving
from common.tls import STRICT, Pair, PlainHttpRefused, Reach, ServerTls, TlsError, check_listen
from common.websocket import dial
from tests.certificates import Authority
from tests.spoke_node import eventually


class Settings:
    def __init__(self, tls: TlsSection, listen: str = "127.0.0.1:0", **node: Any) -> None:
        self.node = NodeSection(id="hub-eu", listen=listen, **node)
        self.tls = tls


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def pair(tmp_path: Path, authority: Authority) -> Pair:
    return Pair(*authority.issue(tmp_path))


@pytest.fixture
def reach(tmp_path: Path, authority: Authority) -> Reach:
    return Reach(authority.write(tmp_path / "ca.crt"))


def app() -> web.Application:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=b"hello", content_type=ENVELOPE_TYPE)

    made = web.Application()
    made.router.add_route("*", "/{path:.*}", answer)
    return made


@asynccontextmanager
async def served(pair: Pair | None, directory: Path, **node: Any) -> AsyncIterator[str]:
    shown = {} if pair is None else {"certificate": pair.certificate, "key": pair.key}
    async with serving(app(), Settings(TlsSection(**shown), **node), directory) as url:
        yield url


async def test_a_peer_that_believes_the_authority_gets_its_answer(pair: Pair, reach: Reach, tmp_path: Path) -> None:
    async with served(pair, tmp_path) as url, open_session(reach) as session:
        assert url.startswith("https://127.0.0.1:")
        assert await fetch(session, "GET", f"{url}/x") == b"hello"
        peer = Peer(instance="hub-eu", kind="hub", state="active", connection=1, keys=(), url=url)
        assert await PostTransport(session).deliver(peer, b"x") == b"hello"


async def test_files_are_found_in_the_directory_of_the_node(authority: Authority, reach: Reach, tmp_path: Path) -> None:
    authority.issue(tmp_path)
    named = Pair(Path("node.crt"), Path("node.pem"))
    own = TlsSection(ca=Path("ca.crt")).reach(tmp_path, plain_http=False)
    assert own == reach
    async with served(named, tmp_path) as url, open_session(own) as session:
        assert await fetch(session, "GET", url) == b"hello"


class TestWhomIsNotBelieved:
    async def test_an_authority_that_nobody_named(self, pair: Pair, tmp_path: Path) -> None:
        async with served(pair, tmp_path) as url, open_session() as session:
            with pytest.raises(Unavailable, match=r"its certificate is not believed \(.*see \[tls\] ca"):
                await fetch(session, "GET", url)

    async def test_another_authority(self, pair: Pair, tmp_path: Path) -> None:
        other = Reach(Authority().write(tmp_path / "other.crt"))
        async with served(pair, tmp_path) as url, open_session(other) as session:
            with pytest.raises(Unavailable, match="its certificate is not believed"):
                await fetch(session, "GET", url)

    async def test_a_certificate_for_another_host(self, authority: Authority, reach: Reach, tmp_path: Path) -> None:
        pair = Pair(*authority.issue(tmp_path, host="hub.example.org"))
        async with served(pair, tmp_path) as url, open_session(reach) as session:
            with pytest.raises(Unavailable, match=r"not believed \(IP address mismatch.*see \[tls\] ca"):
                await fetch(session, "GET", url)

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1], ids=["1.0", "1.1"])
    async def test_old_versions(self, pair: Pair, tmp_path: Path, version: ssl.TLSVersion) -> None:
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname = False
        old.verify_mode = ssl.CERT_NONE
        with pytest.warns(DeprecationWarning, match="deprecated"):
            old.minimum_version = old.maximum_version = version
        old.set_ciphers("ALL:@SECLEVEL=0")
        async with served(pair, tmp_path) as url:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection("127.0.0.1", urlsplit(url).port, ssl=old)

    def test_ours_begins_at_1_2(self, pair: Pair, reach: Reach) -> None:
        for context in (reach.context(), STRICT.context(), ServerTls(pair).context, pair.pinned()):
            assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_plain_http_gets_no_answer_from_a_tls_listener(pair: Pair, tmp_path: Path) -> None:
    async with served(pair, tmp_path) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


class TestReachingOneself:
    async def test_by_exactly_the_certificate_that_is_shown(self, authority: Authority, tmp_path: Path) -> None:
        pair = Pair(*authority.issue(tmp_path, host="hub.example.org"))
        async with (
            served(pair, tmp_path) as url,
            ClientSession() as session,
            session.get(url, ssl=pair.pinned()) as response,
        ):
            assert await response.read() == b"hello"

    async def test_by_no_other_of_the_same_authority(self, authority: Authority, tmp_path: Path) -> None:
        pair, other = Pair(*authority.issue(tmp_path)), Pair(*authority.issue(tmp_path, "other"))
        async with served(pair, tmp_path) as url, ClientSession() as session:
            with pytest.raises(OSError, match="certificate verify failed"):
                await session.get(url, ssl=other.pinned())

    def test_without_a_certificate(self, tmp_path: Path) -> None:
        with pytest.raises(TlsError):
            Pair(tmp_path / "none", tmp_path / "none").pinned()
        assert TlsSection().of_oneself(tmp_path) is None


class TestNewFiles:
    async def test_are_taken_up_without_a_restart(self, authority: Authority, pair: Pair, tmp_path: Path) -> None:
        shown = ServerTls(pair)
        before = pair.pinned()
        async with shown.watched(0.01):
            await self.shows(shown, before)
            authority.issue(tmp_path)
            await eventually(lambda: self.is_believed(shown, pair.pinned()), "the new one is shown")
            assert not await self.is_believed(shown, before)

    async def shows(self, shown: ServerTls, context: ssl.SSLContext) -> None:
        server = await asyncio.start_server(lambda _r, writer: writer.close(), "127.0.0.1", 0, ssl=shown.context)
        async with server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), ssl=context)
            writer.close()

    async def is_believed(self, shown: ServerTls, context: ssl.SSLContext) -> bool:
        try:
            await self.shows(shown, context)
        except ssl.SSLError:
            return False
        return True

    async def test_that_do_not_fit_leave_the_old_ones(self, authority: Authority, pair: Pair, tmp_path: Path) -> None:
        shown, before = ServerTls(pair), pair.pinned()
        other = Pair(*authority.issue(tmp_path, "other"))
        other.certificate.replace(pair.certificate)
        with pytest.raises(TlsError, match="KEY_VALUES_MISMATCH"):
            shown.reload()
        await self.shows(shown, before)
        assert not shown.reload()
        other.key.replace(pair.key)
        assert shown.reload()
        assert not await self.is_believed(shown, before)

    async def test_that_are_gone_for_a_moment(self, authority: Authority, pair: Pair, tmp_path: Path) -> None:
        shown, before = ServerTls(pair), pair.pinned()
        with capture_logs() as logs:
            async with shown.watched(0.01):
                pair.key.unlink()
                await eventually(lambda: [log for log in logs if log["event"] == "tls.not_reloaded"], "it is noticed")
                await self.shows(shown, before)
                authority.issue(tmp_path)
                await eventually(lambda: self.is_believed(shown, pair.pinned()), "the new one is shown")


class TestFiles:
    def test_a_key_that_everybody_reads(self, pair: Pair) -> None:
        pair.key.chmod(0o604)
        with pytest.raises(TlsError, match="chmod o-rw"):
            ServerTls(pair)
        pair.key.chmod(0o640)
        ServerTls(pair)

    def test_a_file_that_is_none(self, pair: Pair, tmp_path: Path) -> None:
        pair.certificate.write_text("no certificate")
        with pytest.raises(TlsError, match=r"node\.crt"):
            ServerTls(pair)
        with pytest.raises(TlsError, match="as \\[tls\\] ca"):
            Reach(pair.certificate).context()
        with pytest.raises(TlsError, match="No such file"):
            Reach(tmp_path / "none").context()

    @pytest.mark.parametrize("half", [{"certificate": Path("a")}, {"key": Path("a")}], ids=["certificate", "key"])
    def test_half_a_pair(self, half: dict[str, Path]) -> None:
        with pytest.raises(ValueError, match="belong together"):
            TlsSection(**half)


LISTEN = {
    "loopback": ("127.0.0.1:0", True),
    "localhost": ("localhost:0", True),
    "IPv6 loopback": ("[::1]:0", True),
    "everywhere": ("0.0.0.0:0", False),
    "IPv6 everywhere": ("[::]:0", False),
    "an address": ("192.0.2.7:8700", False),
    "a name": ("hub.example.org:8700", False),
}


class TestPlainHttp:
    @pytest.mark.parametrize(("listen", "is_fine"), LISTEN.values(), ids=LISTEN.keys())
    def test_is_served_to_this_machine_only(self, listen: str, is_fine: bool) -> None:
        check_listen(listen, has_tls=True, plain_http=False)
        check_listen(listen, has_tls=False, plain_http=True)
        if is_fine:
            check_listen(listen, has_tls=False, plain_http=False)
        else:
            with pytest.raises(TlsError, match="insecure_plain_http = true"):
                check_listen(listen, has_tls=False, plain_http=False)

    async def test_a_node_that_would_serve_it_to_others_does_not_start(self, tmp_path: Path) -> None:
        with pytest.raises(TlsError):
            async with served(None, tmp_path, listen="0.0.0.0:0"):
                pytest.fail("it listens")
        async with served(None, tmp_path, listen="0.0.0.0:0", insecure_plain_http=True) as url:
            assert url.startswith("http://0.0.0.0:")

    @pytest.mark.parametrize("url", ["http://192.0.2.7:1", "http://hub.example.org", "http://[2001:db8::1]:1"])
    async def test_does_not_leave_this_machine(self, url: str) -> None:
        async with open_session() as session:
            with pytest.raises(PlainHttpRefused) as refused:
                await fetch(session, "POST", url, b"x")
            assert refused.value.code == "plain_http"
            with pytest.raises(PlainHttpRefused):
                async with dial(session, url):
                    pytest.fail("it dialed")

    @pytest.mark.parametrize(
        ("url", "is_fine"),
        [
            ("http://127.0.0.1:1/x", True),
            ("ws://localhost:1/x", True),
            ("https://hub.example.org", True),
            ("wss://hub.example.org", True),
            ("ws://hub.example.org", False),
            ("http://127.0.0.1.example.org", False),
        ],
    )
    def test_which_urls(self, url: str, is_fine: bool) -> None:
        Reach(plain_http=True).check(url)
        if is_fine:
            STRICT.check(url)
        else:
            with pytest.raises(PlainHttpRefused):
                STRICT.check(url)
