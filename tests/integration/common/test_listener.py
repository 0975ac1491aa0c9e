from __future__ import annotations

import asyncio
import socket
import time

import pytest
import structlog
from aiohttp import ClientConnectorError, ClientSession, web
from aiohttp.test_utils import make_mocked_request

from common import listener
from common.errors import LocalError
from common.http import problems
from common.listener import listening
from tests.integration.common.conftest import TYPE, Dial, Taken, good, post

CHUNKED = b"Transfer-Encoding: chunked"
NEXT = b"GET /next HTTP/1.1\r\nHost: node\r\n\r\n"

NOT_HTTP: dict[str, bytes] = {
    "no Host": post(b"ab", TYPE, b"Content-Length: 2", host=b""),
    "two Hosts": post(b"ab", b"Host: other", TYPE, b"Content-Length: 2"),
    "Content-Length and chunked": post(b"0\r\n\r\n" + NEXT, TYPE, b"Content-Length: 5", CHUNKED),
    "chunked and Content-Length": post(b"0\r\n\r\n" + NEXT, TYPE, CHUNKED, b"Content-Length: 5"),
    "two Content-Lengths": post(b"abc", TYPE, b"Content-Length: 2", b"Content-Length: 3"),
    "a list of Content-Lengths": post(b"ab", TYPE, b"Content-Length: 2, 2"),
    "Content-Length with a sign": post(b"ab", TYPE, b"Content-Length: +2"),
    "negative Content-Length": post(b"ab", TYPE, b"Content-Length: -2"),
    "hexadecimal Content-Length": post(b"ab", TYPE, b"Content-Length: 0x2"),
    "chunked is not last": post(b"0\r\n\r\n", TYPE, b"Transfer-Encoding: chunked, identity"),
    "almost chunked": post(b"0\r\n\r\n", TYPE, b"Transfer-Encoding: xchunked"),
    "chunk size with prefix": post(b"0x2\r\nab\r\n0\r\n\r\n", TYPE, CHUNKED),
    "chunk size is no number": post(b"g\r\nab\r\n0\r\n\r\n", TYPE, CHUNKED),
    "negative chunk size": post(b"-1\r\nab\r\n0\r\n\r\n", TYPE, CHUNKED),
    "chunk size over 64 bits": post(b"fffffffffffffffff\r\nab\r\n", TYPE, CHUNKED),
    "chunk longer than its size": post(b"2\r\nabXX0\r\n\r\n", TYPE, CHUNKED),
    "chunks with bare line feeds": post(b"2\nab\n0\n\n", TYPE, CHUNKED),
    "headers with bare line feeds": good().replace(b"\r\n", b"\n"),
    "space before the colon": post(b"ab", TYPE, b"Content-Length : 2"),
    "folded header": post(b"ab", TYPE, b" X: y", b"Content-Length: 2"),
    "NUL in a header": good(b"ab", b"X: \0"),
    "a header over the limit": good(b"ab", b"X: " + b"x" * 9000),
    "a request line over the limit": post(b"", path=b"/" + b"x" * 9000),
    "headers without end": good(b"ab", *(b"X%d: y" % number for number in range(500))),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.attack(44)
@pytest.mark.parametrize("raw", NOT_HTTP.values(), ids=NOT_HTTP)
async def test_what_two_parsers_could_read_differently_is_refused_and_closed(
    raw: bytes, url: str, dial: Dial, taken: Taken
) -> None:
    line = await dial(url)
    with structlog.testing.capture_logs() as logs:
        await line.send(raw)
        answer = await line.rest()
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert b"HTTP/1.1 " not in answer
    assert taken == []
    assert [entry["event"] for entry in logs] == ["connection.refused"]
    assert len(repr(logs)) < 300


@pytest.mark.attack(44)
async def test_a_request_without_a_version_is_closed_without_an_answer(url: str, dial: Dial, taken: Taken) -> None:
    for raw in (b"POST /json\nHewt: \xbachd0\r\n\r\n", b"GET /\r\n\r\n"):
        line = await dial(url)
        await line.send(raw)
        assert await line.rest() == b""
    assert taken == []


async def test_tls_is_refused_and_closed(url: str, dial: Dial) -> None:
    line = await dial(url)
    await line.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    assert (await line.rest()).startswith(b"HTTP/1.0 400 ")


async def test_a_good_request_is_taken_twice_over_one_connection(url: str, dial: Dial, taken: Taken) -> None:
    line = await dial(url)
    for body in (b"ab", b"cd"):
        await line.send(good(body))
        assert (await line.answer()).endswith(b"\r\n\r\ntaken")
    assert taken == [b"ab", b"cd"]


@pytest.mark.attack(43)
async def test_headers_that_come_byte_by_byte_are_cut_off_and_others_are_served_meanwhile(
    url: str, dial: Dial, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "FIRST_REQUEST_S", 0.5)
    slow, other = await dial(url), await dial(url)
    started = time.monotonic()

    async def trickle() -> None:
        for byte in good(b"slow"):
            await slow.send(bytes([byte]))
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    await other.send(good(b"other"))
    assert (await other.answer()).endswith(b"taken")
    assert await slow.rest() == b""
    assert time.monotonic() - started > 0.4
    trickling.cancel()
    await asyncio.gather(trickling, return_exceptions=True)
    assert taken == [b"other"]


@pytest.mark.attack(43)
async def test_a_second_request_has_a_deadline_as_well(
    url: str, dial: Dial, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "NEXT_REQUEST_S", 0.3)
    line = await dial(url)
    await line.send(good())
    await line.answer()
    await line.send(good()[:20])
    assert await line.rest() == b""
    assert taken == [b"ab"]


@pytest.mark.attack(43)
async def test_a_peer_that_never_reads_its_answer_is_cut_off(
    app: web.Application, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "NEXT_REQUEST_S", 0.5)
    whole = 64 * 1024 * 1024
    transports = []

    async def much(request: web.Request) -> web.Response:
        transports.append(request.transport)
        return web.Response(body=bytes(whole))

    app.router.add_get("/next", much)
    async with listening(app, "127.0.0.1:0") as url:
        line = await dial(url)
        await line.send(NEXT)
        async with asyncio.timeout(20):
            while not (transports and transports[0] and transports[0].is_closing()):  # noqa: ASYNC110  # aiohttp's
                await asyncio.sleep(0.02)
        assert 0 < len(await line.rest()) < whole


async def test_an_answer_in_many_pieces_arrives_whole(app: web.Application, dial: Dial) -> None:
    whole = 8 * 1024 * 1024

    async def much(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * whole)

    app.router.add_get("/next", much)
    async with listening(app, "127.0.0.1:0") as url, ClientSession() as session, session.get(f"{url}/next") as response:
        assert await response.read() == b"x" * whole


async def test_a_request_in_progress_has_all_the_time_it_wants(
    app: web.Application, dial: Dial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "FIRST_REQUEST_S", 0.2)
    monkeypatch.setattr(listener, "MAX_WAITING_PER_ADDRESS", 1)

    async def long(request: web.Request) -> web.Response:
        await asyncio.sleep(0.6)
        return web.Response(body=b"done")

    app.router.add_get("/next", long)
    async with listening(app, "127.0.0.1:0") as url:
        line = await dial(url)
        await line.send(NEXT)
        for _ in range(3):
            await dial(url)
        assert (await line.answer()).endswith(b"done")


@pytest.mark.attack(43)
async def test_too_many_that_wait_make_room_for_the_one_who_speaks(
    url: str, dial: Dial, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MAX_WAITING_PER_ADDRESS", 3)
    elsewhere = await dial(url, source="127.0.0.2")
    idle = [await dial(url) for _ in range(3)]
    newcomer = await dial(url)
    assert await idle[0].rest() == b""
    for line, body in ((newcomer, b"new"), (idle[2], b"idle"), (elsewhere, b"elsewhere")):
        await line.send(good(body))
        assert (await line.answer()).endswith(b"taken")
    assert taken == [b"new", b"idle", b"elsewhere"]


async def test_a_client_may_go_while_its_request_is_in_progress(app: web.Application, dial: Dial) -> None:
    begun, finish, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def long(request: web.Request) -> web.Response:
        begun.set()
        await finish.wait()
        ended.set()
        return web.Response()

    app.router.add_get("/next", long)
    async with listening(app, "127.0.0.1:0") as url:
        line, other = await dial(url), await dial(url)
        await line.send(NEXT)
        await begun.wait()
        line.abort()
        await other.send(good())
        await other.answer()
        finish.set()
        async with asyncio.timeout(10):
            await ended.wait()


async def test_a_client_that_ends_its_sending_ends_the_connection(url: str, dial: Dial, taken: Taken) -> None:
    line = await dial(url)
    await line.send(good()[:30])
    line.end_sending()
    assert await line.rest() == b""
    assert taken == []


async def test_a_request_whose_connection_has_gone_is_handled_all_the_same() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text="handled")

    request = make_mocked_request("GET", "/")
    answer = await listener._timed(request, handler)
    assert isinstance(answer, web.Response)
    assert answer.text == "handled"


async def test_nobody_listens_after_the_block(app: web.Application) -> None:
    async with listening(app, "127.0.0.1:0") as url:
        pass
    async with ClientSession() as session:
        with pytest.raises(ClientConnectorError):
            await session.get(url)


async def test_an_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LocalError) as refused:
            async with listening(web.Application(middlewares=[problems]), f"127.0.0.1:{port}"):
                pass
    assert refused.value.code == "listen"
    assert str(port) in refused.value.message


async def test_a_host_that_is_not_ours_is_refused() -> None:
    with pytest.raises(LocalError) as refused:
        async with listening(web.Application(), "no-such-host.invalid:0"):
            pass
    assert refused.value.code == "listen"


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


async def test_listens_on_ipv6_where_the_machine_has_it_and_says_so_where_not(app: web.Application, dial: Dial) -> None:
    if not _has_ipv6():
        with pytest.raises(LocalError, match="cannot listen on ::1"):
            async with listening(app, "[::1]:0"):
                pass
        return
    async with listening(app, "[::1]:0") as url, ClientSession() as session:
        assert url.startswith("http://[::1]:")
        async with session.post(f"{url}/take", data=b"ab", headers={"Content-Type": "application/jose"}) as answer:
            assert answer.status == 200
