from __future__ import annotations

import json
from typing import Any

import pytest

from common.connection import Admitted, admit
from common.envelope import Claims, EnvelopeType, verify
from common.errors import EnvelopeRejected, Malformed
from common.handshake import (
    ONLY_HELLO,
    Capacity,
    Hello,
    check_hello,
    encode_challenge,
    encode_nonce,
    make_hello,
    parse_challenge,
)
from common.inbox import Inbox
from common.keyring import SigningKey
from common.peers import Peer, Trust
from tests.envelopes import (
    HUB,
    HUB_KEY,
    ME_HUB,
    ME_SPOKE,
    NOW_S,
    OTHER_KEY,
    SPOKE,
    SPOKE_KEY,
    bodies,
    claims,
    command,
    hub_peer,
    sign,
    spoke_peer,
)

C1, C2 = encode_nonce(bytes(range(32))), encode_nonce(bytes(32))
CAPACITY = Capacity(agents=4, running=1, queued=7)
TO_HUB = claims(iss=SPOKE, aud=HUB)


class Kept:
    def __init__(self, *peers: Peer) -> None:
        self.peers = peers

    def current(self) -> Trust:
        return Trust(self.peers)


def hello_of_spoke(*, key: SigningKey = SPOKE_KEY, **changes: Any) -> bytes:
    body = {"nonce": C1, "challenge": C2, "capacity": CAPACITY.model_dump(), "labels": {"os": "linux"}}
    return sign({**TO_HUB, **body, **changes}, key=key, typ="hello+jwt")


def greet_hub(raw: bytes, peer: Peer | None = None, now_s: float = NOW_S) -> Hello:
    return Inbox(ME_HUB, Kept(peer or spoke_peer())).admit_hello(raw, nonce=C1, now_s=now_s)


def test_a_challenge_is_32_bytes() -> None:
    assert encode_nonce(b"\xff" * 32) == "_" * 42 + "8"
    for wrong in (b"", bytes(31), bytes(33)):
        with pytest.raises(ValueError, match="32 random bytes"):
            encode_nonce(wrong)


def test_the_first_message() -> None:
    assert encode_challenge(C1) == b'{"challenge":"%s"}' % C1.encode()
    assert parse_challenge(encode_challenge(C1)) == C1


NO_CHALLENGES = {
    "empty": b"",
    "no object": b"[]",
    "no challenge": b"{}",
    "not a string": b'{"challenge":5}',
    "too short": json.dumps({"challenge": C1[:-1]}).encode(),
    "too long": json.dumps({"challenge": C1 + "A"}).encode(),
    "padded": json.dumps({"challenge": C1 + "="}).encode(),
    "more members": json.dumps({"challenge": C1, "more": 1}).encode(),
    "twice": b'{"challenge":"%s","challenge":"%s"}' % (C1.encode(), C1.encode()),
    "an envelope": hello_of_spoke(),
}


@pytest.mark.parametrize("raw", NO_CHALLENGES.values(), ids=NO_CHALLENGES)
def test_what_is_no_challenge(raw: bytes) -> None:
    with pytest.raises(Malformed):
        parse_challenge(raw)


def test_the_whole_handshake() -> None:
    told = make_hello(SPOKE_KEY, Claims(**TO_HUB), nonce=C1, challenge=C2, capacity=CAPACITY, labels={"os": "linux"})
    assert greet_hub(told) == Hello(spoke_peer(), C2, CAPACITY, {"os": "linux"})
    answer = make_hello(HUB_KEY, Claims(**claims()), nonce=C2)
    hello = Inbox(ME_SPOKE, Kept(hub_peer())).admit_hello(answer, nonce=C2, now_s=NOW_S)
    assert hello == Hello(hub_peer(), "", None, {})
    payload = verify(answer, Trust([hub_peer()]).keyring, NOW_S).body.model_dump(exclude_none=True)
    assert payload == {"nonce": C2}


REJECTED: dict[str, tuple[bytes, str]] = {
    "recorded on another link": (hello_of_spoke(nonce=C2), "replayed"),
    "for another hub, passed on": (hello_of_spoke(aud="hub-us"), "wrong_audience"),
    "signed by a stranger": (hello_of_spoke(key=OTHER_KEY), "bad_signature"),
    "our own, sent back": (make_hello(HUB_KEY, Claims(**claims()), nonce=C1), "bad_signature"),
    "expired": (hello_of_spoke(iat=NOW_S - 400, exp=NOW_S - 200), "expired"),
    "from the future": (hello_of_spoke(iat=NOW_S + 100, exp=NOW_S + 160), "not_yet_valid"),
    "an event": (
        sign({**TO_HUB, **bodies()[EnvelopeType.EVENT]}, key=SPOKE_KEY, typ="event+jwt"),
        "wrong_direction",
    ),
    "a nonce of another form": (hello_of_spoke(nonce=C1[:-1]), "malformed"),
    "capacity of another type": (hello_of_spoke(capacity={"agents": "4", "running": 0, "queued": 0}), "malformed"),
    "capacity with too little": (hello_of_spoke(capacity={"agents": 4}), "malformed"),
    "a capacity below nothing": (hello_of_spoke(capacity={"agents": -1, "running": 0, "queued": 0}), "malformed"),
    "capacity no object": (hello_of_spoke(capacity=4), "malformed"),
    "an unknown member": (hello_of_spoke(more=1), "malformed"),
}


@pytest.mark.parametrize(("raw", "code"), REJECTED.values(), ids=REJECTED)
def test_what_opens_no_link(raw: bytes, code: str) -> None:
    with pytest.raises(EnvelopeRejected) as refused:
        greet_hub(raw)
    assert refused.value.code == code


@pytest.mark.parametrize(("state", "code"), [("pending", "connection_inactive"), ("suspended", "connection_inactive")])
def test_only_an_active_peer_opens_a_link(state: Any, code: str) -> None:
    with pytest.raises(EnvelopeRejected) as refused:
        greet_hub(hello_of_spoke(), spoke_peer(state=state))
    assert refused.value.code == code


def test_a_hello_is_taken_during_the_handshake_only() -> None:
    inbox = Inbox(ME_HUB, Kept(spoke_peer()))
    with pytest.raises(EnvelopeRejected) as refused:
        inbox.admit(hello_of_spoke(), NOW_S)
    assert refused.value.code == "wrong_direction"


def test_what_a_spoke_tells_is_kept_within_bounds_and_the_rest_ignored() -> None:
    labels = {
        "ok": "y" * 256,
        "k" * 256: "",
        "number": 5,
        "long": "x" * 257,
        "y" * 257: "long",
        **{f"n{n}": "" for n in range(100)},
    }
    hello = greet_hub(hello_of_spoke(labels=labels, capacity={**CAPACITY.model_dump(), "gpus": 8}))
    assert hello.capacity == CAPACITY
    assert list(hello.labels) == ["ok", "k" * 256, *(f"n{n}" for n in range(62))]


def test_only_a_hello_can_be_checked_as_one() -> None:
    trust = Trust([hub_peer()])
    admitted: Admitted = admit(verify(sign(command()), trust.keyring, NOW_S), trust, ME_SPOKE, NOW_S)
    with pytest.raises(TypeError):
        check_hello(admitted, C1)
    assert frozenset({EnvelopeType.HELLO}) == ONLY_HELLO
