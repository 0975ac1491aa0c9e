from __future__ import annotations

import hashlib
import hmac
import json
import traceback
from typing import Any

import pytest

from common.invites import (
    PREFIX,
    Invite,
    InviteRefused,
    check_mac,
    compute_mac,
    decode_secret,
    encode_secret,
    parse_invite,
    secret_of,
)
from common.jose import encode_base64url
from tests.envelopes import HUB, HUB_KEY, NOW_S, OTHER_KEY, SPOKE_KEY, id_of

SECRET = secret_of(id_of(4), HUB_KEY)
GOOD: dict[str, Any] = {
    "hub": HUB,
    "url": "https://hub.example.org",
    "fingerprint": HUB_KEY.public.fingerprint,
    "invite": id_of(4),
    "secret": encode_secret(SECRET),
    "exp": NOW_S + 86_400,
}


def text_of(content: Any) -> str:
    return PREFIX + encode_base64url(json.dumps(content).encode()).decode()


def test_an_invite_makes_the_round_trip() -> None:
    invite = Invite(**GOOD)
    assert parse_invite(invite.encode()) == invite
    assert parse_invite(f"  {invite.encode()}\n") == invite
    assert parse_invite(text_of(GOOD)) == invite
    assert decode_secret(invite.secret) == SECRET


def test_a_secret_is_written_as_base64url() -> None:
    assert encode_secret(b"\xff" * 32) == "_" * 42 + "8"
    assert decode_secret("_" * 42 + "8") == b"\xff" * 32


BAD = {
    "empty": "",
    "no invite": "hello",
    "prefix of another version": text_of(GOOD).replace("hubspoke1", "hubspoke2"),
    "prefix only": PREFIX,
    "cut off": text_of(GOOD)[:-9],
    "padded": text_of(GOOD) + "=",
    "white space inside": text_of(GOOD)[:40] + " " + text_of(GOOD)[40:],
    "lone surrogate": PREFIX + "\ud800",
    "not ASCII": PREFIX + "é",
    "not JSON": PREFIX + "QUJD",
    "not an object": text_of([GOOD]),
    "unknown member": text_of({**GOOD, "x": 1}),
    "member missing": text_of({name: GOOD[name] for name in GOOD if name != "secret"}),
    "bad hub": text_of({**GOOD, "hub": "Hub"}),
    "url a number": text_of({**GOOD, "url": 5}),
    "url too long": text_of({**GOOD, "url": "h" * 2049}),
    "fingerprint without its prefix": text_of({**GOOD, "fingerprint": HUB_KEY.kid}),
    "fingerprint with a newline": text_of({**GOOD, "fingerprint": GOOD["fingerprint"] + "\n"}),
    "bad id": text_of({**GOOD, "invite": "x"}),
    "short secret": text_of({**GOOD, "secret": "A" * 42}),
    "secret with slack bits": text_of({**GOOD, "secret": "A" * 42 + "B"}),
    "exp a string": text_of({**GOOD, "exp": "5"}),
    "exp a float": text_of({**GOOD, "exp": 5.0}),
    "exp true": text_of({**GOOD, "exp": True}),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_refuses_what_is_no_invite(text: str) -> None:
    with pytest.raises(InviteRefused) as refused:
        parse_invite(text)
    assert refused.value.code == "invite_refused"


def test_neither_repr_nor_a_refusal_shows_the_secret() -> None:
    invite = Invite(**GOOD)
    secrets = {GOOD["secret"], GOOD["secret"][:20], str(SECRET)}
    shown = [repr(invite), str(invite), f"{invite}"]
    for content in ({**GOOD, "exp": "5"}, {"secret": GOOD["secret"]}, {**GOOD, "secret": GOOD["secret"] + "A"}):
        with pytest.raises(InviteRefused) as refused:
            parse_invite(text_of(content))
        shown += traceback.format_exception(refused.value)
    assert not [text for text in shown for secret in secrets if secret in text]


def test_the_secret_belongs_to_the_invite_and_the_key() -> None:
    assert secret_of(id_of(4), HUB_KEY) == SECRET
    assert len({SECRET, secret_of(id_of(5), HUB_KEY), secret_of(id_of(4), OTHER_KEY)}) == 3
    assert len(SECRET) == 32


def test_the_mac_is_what_the_protocol_says() -> None:
    expected = hmac.new(SECRET, f"{SPOKE_KEY.kid}.{HUB}".encode(), hashlib.sha256).digest()
    mac = compute_mac(SECRET, SPOKE_KEY.kid, HUB)
    assert mac == encode_base64url(expected).decode()
    check_mac(SECRET, SPOKE_KEY.kid, HUB, mac)


MAC = compute_mac(SECRET, SPOKE_KEY.kid, HUB)
WRONG_MACS = {
    "empty": (SECRET, SPOKE_KEY.kid, HUB, ""),
    "prefix": (SECRET, SPOKE_KEY.kid, HUB, MAC[:-1]),
    "longer": (SECRET, SPOKE_KEY.kid, HUB, MAC + "A"),
    "not ASCII": (SECRET, SPOKE_KEY.kid, HUB, "é"),
    "other key": (SECRET, OTHER_KEY.kid, HUB, MAC),
    "other audience": (SECRET, SPOKE_KEY.kid, "hub-us", MAC),
    "other secret": (bytes(32), SPOKE_KEY.kid, HUB, MAC),
}


@pytest.mark.parametrize(("secret", "kid", "aud", "mac"), WRONG_MACS.values(), ids=WRONG_MACS)
def test_a_wrong_mac_is_refused(secret: bytes, kid: str, aud: str, mac: str) -> None:
    with pytest.raises(InviteRefused):
        check_mac(secret, kid, aud, mac)
