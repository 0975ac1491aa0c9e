from __future__ import annotations

from typing import Any

import pytest

from common.errors import EnvelopeRejected
from common.inbox import BadReply, Inbox
from common.keyring import OwnedKey, SigningKey
from common.peers import Peer, Trust
from tests.envelopes import (
    HUB,
    ME_HUB,
    ME_SPOKE,
    NOW_S,
    OTHER_KEY,
    SPOKE,
    SPOKE_KEY,
    agent_status,
    claims,
    command,
    hub_peer,
    id_of,
    sign,
    spoke_peer,
)

OTHER_SPOKE = "build-2"


class Kept:
    """Trust that a test changes."""

    def __init__(self, *peers: Peer) -> None:
        self.peers = peers

    def current(self) -> Trust:
        return Trust(self.peers)


def test_admits_a_good_envelope() -> None:
    admitted = Inbox(ME_SPOKE, Kept(hub_peer())).admit(sign(command()), NOW_S)
    assert admitted.peer == hub_peer()
    assert len(admitted.envelope.commands) == 1


def test_what_is_refused_after_its_signature_was_good_has_a_sender() -> None:
    inbox = Inbox(ME_SPOKE, Kept(hub_peer()))
    for raw, sender in ((sign(command(aud="build-9")), HUB), (sign(command(), key=OTHER_KEY), None)):
        with pytest.raises(EnvelopeRejected) as refused:
            inbox.admit(raw, NOW_S)
        assert refused.value.sender == sender


def test_the_trust_of_the_moment_counts() -> None:
    kept = Kept(hub_peer())
    inbox = Inbox(ME_SPOKE, kept)
    inbox.admit(sign(command()), NOW_S)
    for state, code in (("suspended", "connection_inactive"), ("revoked", "bad_signature")):
        kept.peers = (hub_peer(state=state),)
        with pytest.raises(EnvelopeRejected) as refused:
            inbox.admit(sign(command()), NOW_S)
        assert refused.value.code == code


OTHER_PEER = spoke_peer(instance=OTHER_SPOKE, connection=3, keys=(OwnedKey(OTHER_SPOKE, OTHER_KEY.public),))
HUB_INBOX = Inbox(ME_HUB, Kept(spoke_peer(), OTHER_PEER))


def reply(*, key: SigningKey = SPOKE_KEY, typ: str = "reply+jwt", **changes: Any) -> bytes:
    results = [{"id": id_of(2), "agent": agent_status()}]
    return sign({**claims(iss=SPOKE, aud=HUB), "re": id_of(1), "results": results, **changes}, key=key, typ=typ)


def admit_reply(raw: bytes) -> int:
    return len(HUB_INBOX.admit_reply(raw, sent_to=SPOKE, re=id_of(1), count=1, now_s=NOW_S).results)


def test_admits_the_reply_to_a_request() -> None:
    assert admit_reply(reply()) == 1


EVENT = {**claims(iss=SPOKE, aud=HUB), "events": [{"agent": agent_status()}]}
NO_ANSWERS: dict[str, tuple[bytes, str]] = {
    "to another envelope": (reply(re=id_of(9)), "bad_reply"),
    "of another peer": (reply(iss=OTHER_SPOKE, key=OTHER_KEY), "bad_reply"),
    "too few results": (reply(results=[]), "bad_reply"),
    "too many results": (reply(results=[{"id": id_of(2)}] * 2), "bad_reply"),
    "an event": (sign(EVENT, key=SPOKE_KEY, typ="event+jwt"), "wrong_direction"),
    "signed by another peer": (reply(key=OTHER_KEY), "bad_signature"),
    "for another hub": (reply(aud="hub-us"), "wrong_audience"),
    "expired": (reply(iat=NOW_S - 1000, exp=NOW_S - 900), "expired"),
    "nothing": (b"", "malformed"),
}


@pytest.mark.attack(49)
@pytest.mark.parametrize(("raw", "code"), NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_what_is_no_answer_to_the_request(raw: bytes, code: str) -> None:
    with pytest.raises((BadReply, EnvelopeRejected)) as refused:
        admit_reply(raw)
    assert refused.value.code == code


def test_a_reply_that_nobody_asked_for_is_not_admitted() -> None:
    with pytest.raises(EnvelopeRejected) as refused:
        HUB_INBOX.admit(reply(), NOW_S)
    assert refused.value.code == "wrong_direction"


@pytest.mark.attack(31)
@pytest.mark.parametrize("kind", ["event", "reply", "hello"])
def test_a_key_counts_until_the_second_it_retires_whatever_it_signs(kind: str) -> None:
    keys = (OwnedKey(SPOKE, OTHER_KEY.public), OwnedKey(SPOKE, SPOKE_KEY.public, retires_at=NOW_S + 1))
    inbox, nonce = Inbox(ME_HUB, Kept(spoke_peer(keys=keys))), "A" * 43
    greeting = sign({**claims(iss=SPOKE, aud=HUB), "nonce": nonce}, key=SPOKE_KEY, typ="hello+jwt")

    def admit(now_s: float) -> object:
        if kind == "event":
            return inbox.admit(sign(EVENT, key=SPOKE_KEY, typ="event+jwt"), now_s)
        if kind == "reply":
            return inbox.admit_reply(reply(), sent_to=SPOKE, re=id_of(1), count=1, now_s=now_s)
        return inbox.admit_hello(greeting, nonce=nonce, now_s=now_s)

    assert admit(NOW_S + 0.9)
    with pytest.raises(EnvelopeRejected) as refused:
        admit(NOW_S + 1)
    assert refused.value.code == "bad_signature"
