from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from common.envelope import EnvelopeType, Items, ReplyBody, verify
from common.errors import EnvelopeRejected, HubspokeError, Unavailable
from common.exchange import EnvelopeNotTaken, Exchange
from common.http import ENVELOPE_TYPE, problems, read_body
from common.ids import uuid7
from common.inbox import BadReply, Inbox
from common.jose import decode_base64url
from common.keyring import OwnedKey, PublicKey, SigningKey
from common.listener import listening
from common.peers import Peer, Trust
from common.post import ENVELOPES_PATH, PostTransport, open_session
from tests.envelopes import HUB, HUB_KEY, ME_HUB, NOW_S, OTHER_KEY, SPOKE, SPOKE_KEY, hub_peer, id_of, sign, spoke_peer

Answer = Callable[[dict[str, Any]], bytes]
OTHER = "build-2"


class FixedClock:
    def now_ms(self) -> int:
        return NOW_S * 1000

    def new_id(self) -> str:
        return uuid7(NOW_S * 1000, bytes([7]) * 10)


class HubKeys:
    @property
    def current(self) -> SigningKey:
        return HUB_KEY

    def signer_for(self, _audience: str) -> SigningKey:
        return HUB_KEY

    def public_keys(self, _now_s: float) -> tuple[PublicKey, ...]:
        return (HUB_KEY.public,)


class Kept:
    """The hub's trust: two spokes."""

    def current(self) -> Trust:
        other = spoke_peer(instance=OTHER, connection=3, keys=(OwnedKey(OTHER, OTHER_KEY.public),))
        return Trust([spoke_peer(), other])


class SpokeOnTheWire:
    """A spoke that takes envelopes over HTTP and answers them as it is told."""

    def __init__(self) -> None:
        self.answer: Answer = reply
        self.received: list[bytes] = []

    async def take(self, request: web.Request) -> web.Response:
        raw = await read_body(request, ENVELOPE_TYPE)
        self.received.append(raw)
        asked = json.loads(decode_base64url(raw.split(b".")[1]))
        return web.Response(body=self.answer(asked), content_type=ENVELOPE_TYPE)


def reply(asked: dict[str, Any], key: SigningKey = SPOKE_KEY, typ: str = "reply+jwt", **changes: Any) -> bytes:
    """The good reply to what was asked, changed as told."""
    good = {
        "v": 1,
        "iss": SPOKE,
        "aud": HUB,
        "jti": id_of(50),
        "iat": NOW_S,
        "exp": NOW_S + 60,
        "re": asked["jti"],
        "results": [
            {"id": each["id"], "error": {"code": "draining", "detail": "", "retryable": True}}
            for each in asked["commands"]
        ],
    }
    return sign({**good, **changes}, key=key, typ=typ)


def result(number: int) -> dict[str, Any]:
    return {"id": id_of(number), "error": {"code": "draining", "detail": "", "retryable": True}}


@pytest.fixture
async def wire() -> AsyncIterator[tuple[SpokeOnTheWire, Exchange, Peer]]:
    spoke = SpokeOnTheWire()
    app = web.Application(middlewares=[problems])
    app.router.add_post(ENVELOPES_PATH, spoke.take)
    async with listening(app, "127.0.0.1:0") as url, open_session() as session:
        inbox = Inbox(ME_HUB, Kept())
        yield spoke, Exchange(ME_HUB, HubKeys(), inbox, PostTransport(session), FixedClock()), spoke_peer(url=url)


def items(*numbers: int) -> Items:
    return Items(
        "commands", [b'{"id":"%s","command":"status","agentId":"%s"}' % (2 * (id_of(n).encode(),)) for n in numbers]
    )


Wire = tuple[SpokeOnTheWire, Exchange, Peer]


async def test_what_is_sent_is_verified_there_and_its_reply_here(wire: Wire) -> None:
    spoke, exchange, peer = wire
    body = await exchange.send(peer, EnvelopeType.COMMAND, items(1, 2))
    assert [each.id for each in body.results] == [id_of(1), id_of(2)]
    (raw,) = spoke.received
    sent = verify(raw, Trust([hub_peer()]).keyring, NOW_S)
    assert (sent.claims.iss, sent.claims.aud, sent.claims.iat, sent.claims.exp) == (HUB, SPOKE, NOW_S, NOW_S + 60)


def shuffled(asked: dict[str, Any]) -> bytes:
    raw = bytearray(reply(asked))
    middle = len(raw) // 2
    raw[middle] = ord("A") if raw[middle] != ord("A") else ord("B")
    return bytes(raw)


HOSTILE: dict[str, tuple[Answer, type[HubspokeError], str]] = {
    "answers another envelope": (lambda asked: reply(asked, re=id_of(1)), BadReply, "bad_reply"),
    "a result too few": (lambda asked: reply(asked, results=[result(1)]), BadReply, "bad_reply"),
    "a result too many": (lambda asked: reply(asked, results=[result(n) for n in (1, 2, 3)]), BadReply, "bad_reply"),
    "signed by another peer as itself": (lambda asked: reply(asked, OTHER_KEY, iss=OTHER), BadReply, "bad_reply"),
    "signed by another peer as this one": (lambda asked: reply(asked, OTHER_KEY), EnvelopeRejected, "bad_signature"),
    "signed with our own key": (lambda asked: reply(asked, HUB_KEY), EnvelopeRejected, "bad_signature"),
    "for another hub": (lambda asked: reply(asked, aud="hub-us"), EnvelopeRejected, "wrong_audience"),
    "expired": (lambda asked: reply(asked, iat=NOW_S - 400, exp=NOW_S - 300), EnvelopeRejected, "expired"),
    "one byte changed": (shuffled, EnvelopeRejected, "bad_signature"),
    "an event": (
        lambda asked: sign(
            {"v": 1, "iss": SPOKE, "aud": HUB, "jti": id_of(50), "iat": NOW_S, "exp": NOW_S + 60, "events": []},
            key=SPOKE_KEY,
            typ="event+jwt",
        ),
        EnvelopeRejected,
        "malformed",
    ),
    "a reply under another type": (
        lambda asked: reply(asked, typ="event+jwt"),
        EnvelopeRejected,
        "malformed",
    ),
    "no envelope": (lambda asked: b"<html>", EnvelopeRejected, "malformed"),
    "nothing": (lambda asked: b"", EnvelopeRejected, "malformed"),
}


@pytest.mark.attack(49)
@pytest.mark.parametrize(("answer", "error", "code"), HOSTILE.values(), ids=HOSTILE)
async def test_only_the_signed_reply_to_what_was_sent_is_taken(
    answer: Answer, error: type[HubspokeError], code: str, wire: Wire
) -> None:
    spoke, exchange, peer = wire
    spoke.answer = answer
    with pytest.raises(error) as refused:
        await exchange.send(peer, EnvelopeType.COMMAND, items(1, 2))
    assert refused.value.code == code
    spoke.answer = reply
    assert len((await exchange.send(peer, EnvelopeType.COMMAND, items(1, 2))).results) == 2


@pytest.mark.attack(28)
async def test_our_own_envelope_sent_back_is_no_reply(wire: Wire) -> None:
    spoke, exchange, peer = wire
    spoke.answer = lambda asked: spoke.received[-1]
    with pytest.raises(EnvelopeRejected) as refused:
        await exchange.send(peer, EnvelopeType.COMMAND, items(1))
    assert refused.value.code == "bad_signature"


async def test_a_refusal_and_a_failure_are_told_apart(wire: Wire) -> None:
    spoke, exchange, peer = wire

    def refuse(_asked: dict[str, Any]) -> bytes:
        raise EnvelopeRejected("expired", "too late", extra={"now": NOW_S + 900})

    spoke.answer = refuse
    with pytest.raises(EnvelopeNotTaken) as refused:
        await exchange.send(peer, EnvelopeType.COMMAND, items(1))
    assert (refused.value.code, refused.value.now) == ("expired", NOW_S + 900)

    def fail(_asked: dict[str, Any]) -> bytes:
        raise Unavailable("no store")

    spoke.answer = fail
    with pytest.raises(Unavailable):
        await exchange.send(peer, EnvelopeType.COMMAND, items(1))


def test_a_reply_of_ours_names_what_it_answers() -> None:
    class Nowhere:
        async def deliver(self, peer: Peer, raw: bytes) -> bytes:
            raise Unavailable("nobody")

    exchange = Exchange(ME_HUB, HubKeys(), Inbox(ME_HUB, Kept()), Nowhere(), FixedClock())
    raw = exchange.reply(SPOKE, id_of(9), [b'{"id":"%s","seq":1}' % id_of(1).encode()])
    sent = verify(raw, Trust([hub_peer()]).keyring, NOW_S)
    assert isinstance(sent.body, ReplyBody)
    assert (sent.claims.iss, sent.claims.aud, sent.body.re) == (HUB, SPOKE, id_of(9))
