"""The rows of the attack table that a good signature does not stop: audience, direction, window, state of the peer."""

from __future__ import annotations

from typing import Any

import pytest

from common.envelope import EnvelopeType
from common.errors import EnvelopeRejected
from common.inbox import Inbox
from common.keyring import OwnedKey
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


class Kept:
    def __init__(self, *peers: Peer) -> None:
        self._trust = Trust(peers)

    def current(self) -> Trust:
        return self._trust


SPOKE_INBOX = Inbox(ME_SPOKE, Kept(hub_peer()))
HUB_INBOX = Inbox(ME_HUB, Kept(spoke_peer()))


def rejected(inbox: Inbox, raw: bytes, code: str) -> EnvelopeRejected:
    with pytest.raises(EnvelopeRejected) as refused:
        inbox.admit(raw, NOW_S)
    assert refused.value.code == code
    return refused.value


def test_the_envelope_that_all_cases_start_from_is_good() -> None:
    assert SPOKE_INBOX.admit(sign(command()), NOW_S).peer.instance == HUB


AUDIENCES: dict[str, tuple[Any, str]] = {
    "another spoke": ("build-2", "wrong_audience"),
    "the sender": (HUB, "wrong_audience"),
    "prefix of us": ("build", "wrong_audience"),
    "prefix of us, to the hyphen": ("build-", "wrong_audience"),
    "we are a prefix": ("build-10", "wrong_audience"),
    "other case": ("Build-1", "wrong_audience"),
    "all upper case": ("BUILD-1", "wrong_audience"),
    "trailing dot": ("build-1.", "wrong_audience"),
    "subdomain": ("build-1.example.org", "wrong_audience"),
    "anybody": ("any", "wrong_audience"),
    "list with us": ([SPOKE], "malformed"),
    "list with others": ([SPOKE, "build-2"], "malformed"),
    "empty list": ([], "malformed"),
    "empty": ("", "malformed"),
    "glob": ("*", "malformed"),
    "address": ("https://build-1", "malformed"),
    "white space": ("build-1 ", "malformed"),
    "newline": ("build-1\n", "malformed"),
    "NUL": ("build-1\0", "malformed"),
    "homoglyph": ("bu\u0456ld-1", "malformed"),
    "null": (None, "malformed"),
    "object": ({SPOKE: 1}, "malformed"),
}


@pytest.mark.attack(26)
@pytest.mark.parametrize(("audience", "code"), AUDIENCES.values(), ids=AUDIENCES)
def test_wrong_audience(audience: Any, code: str) -> None:
    rejected(SPOKE_INBOX, sign(command(aud=audience)), code)


@pytest.mark.attack(27)
def test_a_peer_cannot_speak_for_another() -> None:
    other_hub = hub_peer(instance="hub-us", connection=7, keys=(OwnedKey("hub-us", OTHER_KEY.public),))
    inbox = Inbox(ME_SPOKE, Kept(hub_peer(), other_hub))
    inbox.admit(sign(command(iss="hub-us"), key=OTHER_KEY), NOW_S)
    rejected(inbox, sign(command(iss=HUB), key=OTHER_KEY), "bad_signature")
    rejected(inbox, sign(command(iss="hub-us"), key=HUB_KEY), "bad_signature")


@pytest.mark.attack(28)
def test_our_own_envelope_comes_back() -> None:
    ours = sign({**claims(iss=SPOKE, aud=HUB), **bodies()[EnvelopeType.EVENT]}, key=SPOKE_KEY, typ=EnvelopeType.EVENT)
    HUB_INBOX.admit(ours, NOW_S)
    rejected(SPOKE_INBOX, ours, "bad_signature")


@pytest.mark.attack(28)
def test_our_own_command_comes_back_to_the_hub_even_if_it_knows_its_own_key() -> None:
    ours = sign(command())
    rejected(HUB_INBOX, ours, "bad_signature")
    knows_itself = Inbox(ME_HUB, Kept(spoke_peer(), hub_peer(connection=9)))
    rejected(knows_itself, ours, "wrong_audience")
    rejected(knows_itself, sign(command(aud=HUB)), "wrong_direction")


@pytest.mark.attack(29)
@pytest.mark.parametrize("typ", sorted(set(EnvelopeType) - {EnvelopeType.COMMAND, EnvelopeType.ROTATE}))
def test_another_type_where_a_command_belongs(typ: EnvelopeType) -> None:
    rejected(SPOKE_INBOX, sign({**claims(), **bodies()[typ]}, typ=typ), "wrong_direction")
    rejected(SPOKE_INBOX, sign(command(), typ=typ), "malformed")


@pytest.mark.attack(29)
def test_a_command_that_calls_itself_a_rotation() -> None:
    rejected(SPOKE_INBOX, sign(command(), typ=EnvelopeType.ROTATE), "malformed")


@pytest.mark.attack(29)
def test_a_command_where_an_event_belongs() -> None:
    raw = sign({**command(), "iss": SPOKE, "aud": HUB}, key=SPOKE_KEY)
    rejected(HUB_INBOX, raw, "wrong_direction")


TIMES: dict[str, tuple[dict[str, Any], str]] = {
    "lives 301 s": ({"exp": NOW_S + 301}, "malformed"),
    "lives ten years": ({"exp": NOW_S + 315_360_000}, "malformed"),
    "lives no second": ({"exp": NOW_S}, "malformed"),
    "exp before iat": ({"exp": NOW_S - 1}, "malformed"),
    "from the future": ({"iat": NOW_S + 61, "exp": NOW_S + 120}, "not_yet_valid"),
    "from the far future": ({"iat": NOW_S + 10**9, "exp": NOW_S + 10**9 + 60}, "not_yet_valid"),
    "just expired": ({"iat": NOW_S - 120, "exp": NOW_S - 60}, "expired"),
    "expired long ago": ({"iat": 0, "exp": 60}, "expired"),
    "before the epoch": ({"iat": -100, "exp": -50}, "expired"),
    "in milliseconds": ({"iat": NOW_S * 1000, "exp": NOW_S * 1000 + 60}, "not_yet_valid"),
}


@pytest.mark.attack(30)
@pytest.mark.parametrize(("times", "code"), TIMES.values(), ids=TIMES)
def test_window(times: dict[str, Any], code: str) -> None:
    refused = rejected(SPOKE_INBOX, sign(command(**times)), code)
    if code != "malformed":
        assert refused.extra == {"now": NOW_S}


@pytest.mark.attack(34)
@pytest.mark.parametrize("state", ["pending", "suspended"])
def test_before_approval(state: str) -> None:
    rejected(Inbox(ME_SPOKE, Kept(hub_peer(state=state))), sign(command()), "connection_inactive")


@pytest.mark.attack(34)
@pytest.mark.attack(31)
def test_strangers_and_the_revoked_get_the_same_answer() -> None:
    stranger = rejected(SPOKE_INBOX, sign(command(), key=OTHER_KEY), "bad_signature")
    revoked = rejected(Inbox(ME_SPOKE, Kept(hub_peer(state="revoked"))), sign(command()), "bad_signature")
    retired = hub_peer(keys=(OwnedKey(HUB, HUB_KEY.public, retires_at=NOW_S),))
    after_overlap = rejected(Inbox(ME_SPOKE, Kept(retired)), sign(command()), "bad_signature")
    assert stranger.message == revoked.message == after_overlap.message
    assert stranger.extra == revoked.extra == after_overlap.extra == {}
