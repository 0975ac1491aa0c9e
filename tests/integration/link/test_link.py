"""A link between two ends in one process, over real sockets: order, bounds, endings."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Any

import pytest
from aiohttp import WSMsgType

from common import link as link_module
from common import websocket
from common.errors import EnvelopeRejected, RateLimited, Unavailable
from common.exchange import EnvelopeNotTaken
from common.inbox import BadReply
from common.jose import MAX_ENVELOPE_BYTES
from common.link import OUTSTANDING, is_answer
from common.links import Carrier, Links
from common.peers import Peer
from common.websocket import REPLACED
from tests.envelopes import spoke_peer
from tests.integration.link.wires import against_socket, ends, reply, request
from tests.spoke_node import eventually


async def closed_with(socket: Any) -> tuple[int, str]:
    """Read until the other side closes; returns code and reason."""
    while (message := await socket.receive()).type in {WSMsgType.TEXT, WSMsgType.BINARY}:
        pass
    assert message.type is WSMsgType.CLOSE, message
    return message.data, message.extra


async def until_ended(link: Any) -> tuple[int, str]:
    await eventually(lambda: not link.open, "the link has ended")
    ending: tuple[int, str] = link.ending
    return ending


# --- requests and answers


async def test_both_sides_ask_and_are_answered() -> None:
    async with ends() as (hub, spoke):
        assert await hub.link.deliver(request(1)) == reply(1)
        assert await spoke.link.deliver(request(2)) == reply(1)
        assert (spoke.asked, hub.asked) == ([request(1)], [request(2)])


async def test_many_at_once_are_answered_in_their_order() -> None:
    async with ends() as (hub, spoke):
        answers = await asyncio.gather(*(hub.link.deliver(request(number)) for number in range(1, 51)))
        assert answers == [reply(number) for number in range(1, 51)]
        assert spoke.asked == [request(number) for number in range(1, 51)]


async def test_both_ways_at_once() -> None:
    async with ends() as (hub, spoke):
        size = 500_000
        asking = [end.link.deliver(request(number, size)) for number in range(20) for end in (hub, spoke)]
        assert len(await asyncio.gather(*asking)) == 40
        assert (len(hub.asked), len(spoke.asked)) == (20, 20)


async def test_a_whole_mebibyte_passes() -> None:
    async with ends() as (hub, spoke):
        raw = b"x" * MAX_ENVELOPE_BYTES
        assert await hub.link.deliver(raw) == reply(1)
        assert spoke.asked == [raw]


REFUSALS: dict[str, tuple[Exception, str, int, dict[str, Any]]] = {
    "rejected": (EnvelopeRejected("expired", "exp has passed", extra={"now": 5}), "expired", 403, {"now": 5}),
    "over the rate": (RateLimited("slow down", retry_after_s=3), "rate_limited", 429, {"retryAfterS": 3}),
    "without a store": (Unavailable("no store"), "unavailable", 503, {"retryAfterS": 1}),
    "crashed": (RuntimeError("a secret"), "internal", 500, {}),
}


@pytest.mark.parametrize(("failure", "code", "status", "members"), REFUSALS.values(), ids=REFUSALS)
async def test_a_refusal_is_the_answer_in_its_place(
    failure: Exception, code: str, status: int, members: dict[str, Any]
) -> None:
    async with ends() as (hub, spoke):
        spoke.fails_with = failure
        # What failed there, and was not refused, may have taken effect.
        with pytest.raises(EnvelopeNotTaken if status < 500 else Unavailable) as refused:
            await hub.link.deliver(request(1))
        assert refused.value.code == code
        spoke.fails_with = None
        assert await hub.link.deliver(request(2)) == reply(2)
    async with against_socket() as (hub, socket):
        hub.fails_with = failure
        await socket.send_str(request(1).decode())
        document = json.loads((await socket.receive()).data)
        assert members.items() <= document.items()
        assert (document["type"], document["status"]) == (f"/problems/{code}", status)
        assert "secret" not in json.dumps(document)


async def test_an_answer_that_nobody_waits_for_any_more_keeps_its_place() -> None:
    async with ends() as (hub, spoke):
        spoke.may_answer.clear()
        impatient = asyncio.create_task(hub.link.deliver(request(1)))
        patient = asyncio.create_task(hub.link.deliver(request(2)))
        await eventually(lambda: spoke.asked, "the first request came")
        impatient.cancel()
        await asyncio.wait([impatient])
        spoke.may_answer.set()
        assert await patient == reply(2)
        assert await hub.link.deliver(request(3)) == reply(3)


async def test_only_so_many_wait_for_answers() -> None:
    async with ends() as (hub, spoke):
        spoke.may_answer.clear()
        asking = [asyncio.create_task(hub.link.deliver(request(number))) for number in range(1, 31)]
        await eventually(lambda: spoke.asked, "the first request came")
        # A link of our own never makes the other side hold more than that, or close.
        assert len(spoke.asked) + spoke.link._requests.qsize() <= OUTSTANDING
        spoke.may_answer.set()
        assert await asyncio.gather(*asking) == [reply(number) for number in range(1, 31)]


async def test_what_waits_when_the_link_ends_is_unknown() -> None:
    async with ends() as (hub, spoke):
        spoke.may_answer.clear()
        asking = [asyncio.create_task(hub.link.deliver(request(number))) for number in range(1, 31)]
        await eventually(lambda: spoke.asked, "the first request came")
        spoke.link.end(1001, "stopping")
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 30
        with pytest.raises(Unavailable):
            await hub.link.deliver(request(31))
        assert hub.link.ending == (1001, "stopping")


async def test_a_link_that_is_cut_off_loses_its_requests_and_no_more() -> None:
    async with against_socket() as (hub, socket):
        asking = asyncio.create_task(hub.link.deliver(request(1)))
        await socket.receive()
        transport = socket.get_extra_info("socket")
        transport.shutdown(2)
        with pytest.raises(Unavailable):
            await asking
        assert (await until_ended(hub.link))[0] == 1006
        await socket.close()
    gc.collect()  # a future whose exception nobody took would complain here


# --- endings


ANSWERS = {
    "a reply": (reply(1), True),
    "a problem": (b'{"code":"expired"}', True),
    "a command": (request(1), False),
    "not base64url": (b"%%%.a.b", False),
    "no JSON": (b"AAAA.a.b", False),
    "no object": (b"W10.a.b", False),
    "nothing": (b"", False),
    "a header without end": (b"e" * 5000, False),
}


@pytest.mark.parametrize(("raw", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_what_is_an_answer(raw: bytes, expected: bool) -> None:
    assert is_answer(raw) is expected


BROKEN_RULES: dict[str, tuple[list[tuple[bytes, WSMsgType]], int]] = {
    "binary": ([(request(1), WSMsgType.BINARY)], 1003),
    "an answer to nothing": ([(reply(1), WSMsgType.TEXT)], 1002),
    "a problem about nothing": ([(b'{"code":"expired"}', WSMsgType.TEXT)], 1002),
    "too many requests": ([(request(number), WSMsgType.TEXT) for number in range(OUTSTANDING + 2)], 1008),
    "one byte too long": ([(b"x" * (MAX_ENVELOPE_BYTES + 1), WSMsgType.TEXT)], 1009),
}


@pytest.mark.parametrize(("messages", "code"), BROKEN_RULES.values(), ids=BROKEN_RULES)
async def test_who_breaks_the_rules_is_closed(messages: list[tuple[bytes, WSMsgType]], code: int) -> None:
    async with against_socket() as (hub, socket):
        hub.may_answer.clear()
        for raw, kind in messages:
            await socket.send_frame(raw, kind)
        assert (await closed_with(socket))[0] == code
        assert (await until_ended(hub.link))[0] == code
        assert len(hub.asked) <= 1


@pytest.mark.attack(42)
async def test_a_compressed_frame_is_never_inflated() -> None:
    async with against_socket() as (hub, socket):
        await socket.send_frame(b"0" * 100_000, WSMsgType.TEXT, compress=15)
        assert (await closed_with(socket))[0] == 1002
        assert hub.asked == []


async def test_after_the_end_nothing_more_is_taken() -> None:
    async with against_socket() as (hub, socket):
        hub.link.end(1001, "stopping")
        # As if it had come in the same packet as what broke a rule.
        hub.link._take(request(1))
        await closed_with(socket)
        assert hub.asked == []


async def test_nobody_waits_and_the_link_ends() -> None:
    async with against_socket() as (hub, socket):
        asking = asyncio.create_task(hub.link.deliver(request(1)))
        await socket.receive()
        asking.cancel()
        await asyncio.wait([asking])
        await socket.close()
        assert await until_ended(hub.link) == (1000, "")


@pytest.mark.attack(49)
async def test_a_problem_without_end_is_cut_off() -> None:
    async with against_socket() as (hub, socket):
        asking = asyncio.create_task(hub.link.deliver(request(1)))
        await socket.receive()
        await socket.send_str(json.dumps({"code": "expired", "more": "x" * 20_000}))
        with pytest.raises(BadReply):
            await asking


@pytest.mark.parametrize("document", ['{"code":5}', "{", '{"status":"x"}', '{"code":"NO WAY"}'])
async def test_a_problem_that_is_none(document: str) -> None:
    async with against_socket() as (hub, socket):
        asking = asyncio.create_task(hub.link.deliver(request(1)))
        await socket.receive()
        await socket.send_str(document)
        with pytest.raises(BadReply):
            await asking


async def test_an_answer_that_does_not_come_ends_the_link() -> None:
    async with against_socket(answer_s=0.05) as (hub, socket):
        with pytest.raises(Unavailable):
            await hub.link.deliver(request(1))
        await socket.receive()
        assert await closed_with(socket) == (1008, "an answer is overdue")


INACTIVE: dict[str, Peer] = {
    "suspended": spoke_peer(state="suspended"),
    "revoked": spoke_peer(state="revoked"),
    "joined anew": spoke_peer(connection=9),
    "gone": spoke_peer(instance="build-2", keys=()),
}


@pytest.mark.attack(35)
@pytest.mark.parametrize("peer", INACTIVE.values(), ids=INACTIVE)
async def test_a_peer_that_is_not_active_any_more_is_closed_at_once(peer: Peer) -> None:
    async with against_socket() as (hub, socket):
        hub.kept.peer = peer
        async with asyncio.timeout(5):
            assert await closed_with(socket) == (1008, "connection_inactive")


@pytest.mark.attack(35)
async def test_the_envelope_after_a_suspension_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "_POLL_S", 3600)
    async with against_socket() as (hub, socket):
        await socket.send_str(request(1).decode())
        assert (await socket.receive()).data == reply(1)
        hub.kept.peer = spoke_peer(state="suspended")
        hub.fails_with = EnvelopeRejected("connection_inactive", "not now")
        await socket.send_str(request(2).decode())
        await socket.send_str(request(3).decode())
        assert json.loads((await socket.receive()).data)["code"] == "connection_inactive"
        assert await closed_with(socket) == (1008, "connection_inactive")


async def test_without_a_trust_store_there_is_no_link() -> None:
    async with against_socket() as (hub, socket):
        hub.kept.away = True
        assert await closed_with(socket) == (1011, "unavailable")


async def test_the_first_reason_counts() -> None:
    async with against_socket() as (hub, socket):
        hub.link.end(1001, "first")
        hub.link.end(1008, "second")
        assert await closed_with(socket) == (1001, "first")


async def test_who_does_not_read_cannot_hold_the_link_up() -> None:
    async with against_socket() as (hub, socket), asyncio.TaskGroup() as group:
        # The bare socket reads nothing at all: neither what is sent nor the close is waited for.
        for number in range(OUTSTANDING):
            group.create_task(fails(hub.link.deliver(request(number, 900_000))))
        hub.kept.peer = spoke_peer(state="suspended")
        async with asyncio.timeout(10):
            await eventually(lambda: hub.ended, "the link is over")
    assert socket.closed


async def fails(delivery: Coroutine[Any, Any, bytes]) -> None:
    with pytest.raises(Unavailable):
        await delivery


@pytest.mark.slow
async def test_who_answers_no_pings_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "HEARTBEAT_S", 0.5)
    async with against_socket(silent=True) as (hub, socket):
        # The bare socket is not read, so nobody there answers pings; nor does it send any: those are signs of life.
        asking = asyncio.create_task(hub.link.deliver(request(1)))
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable):
                await asking
        assert (hub.link.ending[0], "PONG" in hub.link.ending[1]) == (1006, True)
        await socket.close()


@pytest.mark.slow
async def test_pings_are_answered_however_busy_the_ends_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "HEARTBEAT_S", 1.0)
    async with ends() as (hub, spoke):
        spoke.may_answer.clear()
        asking = [asyncio.create_task(hub.link.deliver(request(number, 500_000))) for number in range(1, 21)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4):
                await until_ended(hub.link)
        spoke.may_answer.set()
        assert await asyncio.gather(*asking) == [reply(number) for number in range(1, 21)]


# --- which link counts


class Posted:
    """A transport that notes what it was given."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []

    async def deliver(self, _peer: Peer, raw: bytes) -> bytes:
        self.raw.append(raw)
        return b"posted"


@pytest.mark.fault(32)
async def test_the_newest_link_counts_and_closes_the_one_before() -> None:
    links = Links()
    async with ends() as (first, at_first), ends() as (second, _):
        with links.holding(first.link) as nothing:
            assert (nothing, links.find(first.link.peer.tenant)) == (None, first.link)
            with links.holding(second.link) as replaced:
                assert replaced is first.link
                assert await until_ended(at_first.link) == (REPLACED, "replaced")
                assert links.find(second.link.peer.tenant) is second.link
        assert links.find(second.link.peer.tenant) is None


async def test_an_older_link_that_ends_later_does_not_hide_the_newer_one() -> None:
    links = Links()
    async with ends() as (first, _), ends() as (second, _):
        older = ExitStack()
        older.enter_context(links.holding(first.link))
        with links.holding(second.link):
            older.close()
            assert links.find(second.link.peer.tenant) is second.link


async def test_when_the_node_stops_all_links_say_goodbye() -> None:
    links = Links()
    async with ends() as (hub, spoke):
        with links.holding(hub.link):
            links.end_all()
            assert links.find(hub.link.peer.tenant) is None
            assert await until_ended(spoke.link) == (1001, "stopping")


async def test_a_link_is_preferred_to_a_post() -> None:
    links, post = Links(), Posted()
    async with ends() as (hub, spoke):
        carrier = Carrier(links, post)
        assert await carrier.deliver(spoke_peer(), request(1)) == b"posted"
        with links.holding(hub.link):
            assert await carrier.deliver(spoke_peer(), request(2)) == reply(1)
            assert await carrier.deliver(spoke_peer(connection=9), request(3)) == b"posted"
            await spoke.link.deliver(request(4))
            hub.link.end(1001, "stopping")
            assert await carrier.deliver(spoke_peer(), request(5)) == b"posted"
        assert post.raw == [request(1), request(3), request(5)]
        with pytest.raises(Unavailable):
            await Carrier(links, None).deliver(spoke_peer(), request(6))
