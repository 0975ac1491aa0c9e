from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from common import post
from common.errors import HubspokeError, Unavailable
from common.exchange import EnvelopeNotTaken
from common.http import problems, read_body
from common.inbox import BadReply
from common.jose import MAX_ENVELOPE_BYTES
from common.listener import listening
from common.peer_url import UrlRefused
from common.post import ENVELOPES_PATH, PostTransport, fetch, open_session, read_problem
from common.tls import Reach
from tests.envelopes import spoke_peer

Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
JOSE = b"Content-Type: application/jose\r\n"
PROBLEM = b"Content-Type: application/problem+json\r\n"
GOOD = b"e30.e30.AA"


ANYWHERE = Reach(plain_http=True)
"""A name is plain HTTP beyond this machine, wherever it leads."""


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session(ANYWHERE) as opened:
        yield opened


@asynccontextmanager
async def speaking(speak: Speak) -> AsyncIterator[str]:
    """A peer that takes one request per connection and says exactly what `speak` writes."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
            await reader.readexactly(length)
            await speak(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def say(raw: bytes) -> Speak:
    async def speak(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return speak


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n" % len(body) + b"".join(headers) + b"\r\n" + body


def told(code: object, status: bytes = b"403 Forbidden", **members: object) -> bytes:
    return answer(json.dumps({"code": code, **members}).encode(), PROBLEM, status=status)


async def for_ever(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A body without end."""
    writer.write(b"HTTP/1.1 200 OK\r\n" + JOSE + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        await writer.drain()


async def problem_for_ever(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n" + PROBLEM + b"\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def headers_for_ever(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n" + JOSE)
    while True:
        writer.write(b"X: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


async def nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def byte_by_byte(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n" + JOSE + b"Content-Length: 1000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


GIB = b"Content-Length: 1073741824\r\n\r\n"
HOSTILE: dict[str, tuple[Speak, type[HubspokeError], str]] = {
    "a body without end": (for_ever, BadReply, "bad_reply"),
    "a problem without end": (problem_for_ever, BadReply, "bad_reply"),
    "headers without end": (headers_for_ever, Unavailable, "unavailable"),
    "never an answer": (nothing, Unavailable, "unavailable"),
    "byte by byte": (byte_by_byte, Unavailable, "unavailable"),
    "connection reset": (reset, Unavailable, "unavailable"),
    "closed at once": (say(b""), Unavailable, "unavailable"),
    "a gigabyte announced, nothing sent": (say(b"HTTP/1.1 200 OK\r\n" + JOSE + GIB), Unavailable, "unavailable"),
    "cut in the middle": (
        say(b"HTTP/1.1 200 OK\r\n" + JOSE + b"Content-Length: 100\r\n\r\n" + GOOD),
        Unavailable,
        "unavailable",
    ),
    "cut between chunks": (
        say(b"HTTP/1.1 200 OK\r\n" + JOSE + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
        Unavailable,
        "unavailable",
    ),
    "bad chunks": (
        say(b"HTTP/1.1 200 OK\r\n" + JOSE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n"),
        Unavailable,
        "unavailable",
    ),
    "one byte over the limit": (say(answer(b"x" * (MAX_ENVELOPE_BYTES + 1), JOSE)), BadReply, "bad_reply"),
    "gzip": (
        say(answer(gzip.compress(bytes(10_000_000)), JOSE, b"Content-Encoding: gzip\r\n")),
        BadReply,
        "bad_reply",
    ),
    "a problem in gzip": (
        say(answer(gzip.compress(b"{}"), PROBLEM, b"Content-Encoding: gzip\r\n", status=b"400 Bad Request")),
        BadReply,
        "bad_reply",
    ),
    "HTML": (say(answer(b"<html>", b"Content-Type: text/html\r\n")), BadReply, "bad_reply"),
    "no type": (say(answer(GOOD)), BadReply, "bad_reply"),
    "JSON": (say(answer(b"{}", b"Content-Type: application/json\r\n")), BadReply, "bad_reply"),
    "no content": (say(answer(b"", JOSE, status=b"204 No Content")), BadReply, "bad_reply"),
    "accepted": (say(answer(GOOD, JOSE, status=b"202 Accepted")), BadReply, "bad_reply"),
    "a proxy's error page": (
        say(answer(b"<html>", b"Content-Type: text/html\r\n", status=b"502 Bad Gateway")),
        BadReply,
        "bad_reply",
    ),
    "a refusal that is no JSON": (say(answer(b"no", PROBLEM, status=b"400 No")), BadReply, "bad_reply"),
    "a refusal that is a list": (say(answer(b"[]", PROBLEM, status=b"400 No")), BadReply, "bad_reply"),
    "a refusal without code": (say(answer(b"{}", PROBLEM, status=b"400 No")), BadReply, "bad_reply"),
    "a code that is a number": (say(told(5)), BadReply, "bad_reply"),
    "a code that would write to a terminal": (say(told("\x1b[2J")), BadReply, "bad_reply"),
    "a code over lines": (say(told("expired\nERROR")), BadReply, "bad_reply"),
    "a code as long as a page": (say(told("x" * 65)), BadReply, "bad_reply"),
    "a code in other letters": (say(told("\u0435xpired")), BadReply, "bad_reply"),
    "a refusal": (say(told("wrong_audience")), EnvelopeNotTaken, "wrong_audience"),
    "a refusal of a later version": (say(told("not_on_sundays", b"451 Later")), EnvelopeNotTaken, "not_on_sundays"),
    "the peer's store is away": (say(told("unavailable", b"503 Later")), Unavailable, "unavailable"),
    "the peer crashed": (say(told("internal", b"500 Crash")), Unavailable, "internal"),
    "no HTTP": (say(b"SSH-2.0-OpenSSH_9.6\r\n"), Unavailable, "unavailable"),
    "a status that is no number": (say(b"HTTP/1.1 abc OK\r\n\r\n"), Unavailable, "unavailable"),
    "two lengths": (say(answer(GOOD, JOSE, b"Content-Length: 3\r\n")), Unavailable, "unavailable"),
    "a header over the limit": (say(answer(GOOD, JOSE, b"X: " + b"x" * 9000 + b"\r\n")), Unavailable, "unavailable"),
}


@pytest.mark.attack(49)
@pytest.mark.parametrize(("speak", "error", "code"), HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_answer_is_cut_off_and_the_session_goes_on(
    speak: Speak, error: type[HubspokeError], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post, "_TOTAL_TIMEOUT_S", 3.0)
    async with open_session() as session, speaking(speak) as hostile, speaking(say(answer(GOOD, JOSE))) as kind:
        async with asyncio.timeout(10):
            with pytest.raises(error) as refused:
                await fetch(session, "POST", hostile, b"envelope")
            assert type(refused.value) is error
            assert refused.value.code == code
            assert refused.value.message.isprintable()
            assert await fetch(session, "POST", kind, b"envelope") == GOOD


@pytest.mark.attack(49)
async def test_of_a_gigabyte_no_more_than_the_limit_is_kept(session: aiohttp.ClientSession) -> None:
    sent = 0

    async def gigabyte(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n" + JOSE + GIB)
        for _ in range(16 * 1024):
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    async with speaking(gigabyte) as hostile:
        with pytest.raises(BadReply, match="longer than"):
            await fetch(session, "GET", hostile)
    assert sent < 32 * 1024 * 1024


async def test_what_was_refused_tells_status_code_and_time(session: aiohttp.ClientSession) -> None:
    async with speaking(say(told("expired", now=1_795_000_000))) as url:
        with pytest.raises(EnvelopeNotTaken) as refused:
            await fetch(session, "POST", url, b"x")
    assert (refused.value.status, refused.value.code, refused.value.now) == (403, "expired", 1_795_000_000)
    assert refused.value.http_status == 502


@pytest.mark.parametrize(
    ("body", "status"), [(b'{"code":"expired","status":403}', 403), (b'{"code":"expired","status":true}', 0)]
)
def test_without_a_response_the_document_says_its_status(body: bytes, status: int) -> None:
    refused = read_problem(body)
    assert isinstance(refused, EnvelopeNotTaken)
    assert refused.status == status


async def test_an_answer_of_exactly_the_limit_is_read(session: aiohttp.ClientSession) -> None:
    whole = b"x" * MAX_ENVELOPE_BYTES
    async with speaking(say(answer(whole, JOSE))) as url:
        assert await fetch(session, "POST", url, b"x") == whole


# --- where it goes ----------------------------------------------------------------------------------------


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[str, list[web.Request]]]:
    """A peer that answers well and remembers who asked."""
    seen: list[web.Request] = []

    async def take(request: web.Request) -> web.Response:
        seen.append(request)
        if request.method == "POST":
            assert await read_body(request, "application/jose") == b"envelope"
        return web.Response(body=GOOD, content_type="application/jose")

    app = web.Application(middlewares=[problems])
    app.router.add_route("*", "/{path:.*}", take)
    async with listening(app, "127.0.0.1:0") as url:
        yield url, seen


async def test_an_envelope_is_posted_to_its_place(session: aiohttp.ClientSession) -> None:
    async with receiving() as (url, seen):
        assert await PostTransport(session).deliver(spoke_peer(url=f"{url}/base/"), b"envelope") == GOOD
    (request,) = seen
    assert (request.method, request.path) == ("POST", f"/base{ENVELOPES_PATH}")
    assert request.headers["Content-Type"] == "application/jose"
    assert request.headers["Accept-Encoding"] == "identity"
    assert request.headers["User-Agent"] == "hubspoke"


async def test_a_get_has_no_body_and_no_type(session: aiohttp.ClientSession) -> None:
    async with receiving() as (url, seen):
        assert await fetch(session, "GET", f"{url}/federation/v1/identity") == GOOD
    assert not seen[0].can_read_body
    assert "Content-Type" not in seen[0].headers


async def test_a_peer_without_url_has_to_dial_in(session: aiohttp.ClientSession) -> None:
    with pytest.raises(Unavailable, match="dial in"):
        await PostTransport(session).deliver(spoke_peer(), b"envelope")


async def test_nobody_at_that_address_is_unavailable(session: aiohttp.ClientSession) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unavailable, match=f"cannot reach http://127.0.0.1:{port}"):
        await PostTransport(session).deliver(spoke_peer(url=f"http://127.0.0.1:{port}"), b"envelope")


@pytest.mark.attack(48)
@pytest.mark.parametrize(
    "url", ["http://169.254.169.254", "http://u@example.org", "file:///etc/passwd", "http://0x7f.1"]
)
async def test_a_url_that_was_stored_before_is_checked_again(url: str, session: aiohttp.ClientSession) -> None:
    with pytest.raises(UrlRefused):
        await PostTransport(session).deliver(spoke_peer(url=url), b"envelope")


@pytest.mark.attack(48)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int, session: aiohttp.ClientSession) -> None:
    async with receiving() as (target, seen):
        location = f"Location: {target}/stolen\r\n".encode()
        async with speaking(say(answer(b"", location, status=b"%d Go" % status))) as url:
            with pytest.raises(BadReply):
                await PostTransport(session).deliver(spoke_peer(url=url), b"envelope")
    assert seen == []


@pytest.mark.attack(48)
async def test_not_even_by_a_call_that_would_follow_them(session: aiohttp.ClientSession) -> None:
    async with receiving() as (target, seen):
        location = f"Location: {target}/stolen\r\n".encode()
        async with speaking(say(answer(b"", location, status=b"302 Go"))) as url:
            with pytest.raises(aiohttp.ClientError):
                await session.get(url)
    assert seen == []


@pytest.mark.attack(63)
async def test_cookies_are_not_kept(session: aiohttp.ClientSession) -> None:
    async with speaking(say(answer(GOOD, JOSE, b"Set-Cookie: a=b; Path=/\r\n"))) as url:
        await fetch(session, "GET", url)
        assert len(session.cookie_jar) == 0


Found = tuple[int, int, int, str, tuple[str, int]]


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Make the machine's resolver find these addresses for names under `.test`, one answer after the other."""
    real, left, asked = socket.getaddrinfo, list(answers), []

    def getaddrinfo(host: str, port: int, *arguments: object, **options: object) -> object:
        if not str(host).endswith(".test"):
            return real(host, port, *arguments, **options)  # type: ignore[arg-type]  # passed on as they came
        asked.append(host)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (each, port, 0, 0))
            if ":" in each
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


NO_PEERS = ["169.254.169.254", "0.0.0.0", "224.0.0.1", "fe80::1", "fd00:ec2::254"]  # noqa: S104  # refused, not bound


@pytest.mark.attack(48)
@pytest.mark.parametrize("address", NO_PEERS)
async def test_a_name_that_resolves_to_where_no_peer_may_live_is_not_connected_to(
    address: str, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = resolve_to(monkeypatch, [address])
    connected: list[object] = []
    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", connected.append)
    with pytest.raises(Unavailable):
        await PostTransport(session).deliver(spoke_peer(url="http://peer.test"), b"envelope")
    assert asked == ["peer.test"]
    assert connected == []


@pytest.mark.attack(48)
async def test_of_several_addresses_only_the_allowed_ones_are_tried(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, ["169.254.169.254", "127.0.0.1"])
    async with receiving() as (url, seen):
        port = url.rpartition(":")[2]
        assert await fetch(session, "POST", f"http://peer.test:{port}", b"envelope") == GOOD
    assert len(seen) == 1


@pytest.mark.attack(48)
async def test_a_name_is_checked_again_when_it_is_resolved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolve_to(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
    async with receiving() as (url, seen):
        peer = spoke_peer(url=f"http://peer.test:{url.rpartition(':')[2]}")
        async with open_session(ANYWHERE) as session:
            assert await PostTransport(session).deliver(peer, b"envelope") == GOOD
        async with open_session(ANYWHERE) as session:
            with pytest.raises(Unavailable):
                await PostTransport(session).deliver(peer, b"envelope")
    assert asked == ["peer.test", "peer.test"]
    assert len(seen) == 1
