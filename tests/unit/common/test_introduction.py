from __future__ import annotations

from typing import Any

import pytest

from common.envelope import EnvelopeType
from common.errors import EnvelopeRejected
from common.introduction import Introduction, identity_claim, introduce
from common.jose import encode_base64url
from common.keyring import SigningKey
from tests.envelopes import HUB, NONCE, NOW_S, OTHER_KEY, SPOKE, SPOKE_KEY, claims, command, header, id_of, sign

IDENTITY = identity_claim(SPOKE, "spoke", None, (SPOKE_KEY.public, OTHER_KEY.public))
JOIN, WHO = EnvelopeType.JOIN, EnvelopeType.IDENTITY


def join(key: SigningKey = SPOKE_KEY, head: Any = None, **changes: Any) -> bytes:
    payload = {**claims(iss=SPOKE, aud=HUB), "identity": IDENTITY, **changes}
    return sign(payload, key=key, typ=JOIN, head=head)


def introduced(raw: bytes, typ: EnvelopeType = JOIN, now_s: float = NOW_S) -> Introduction:
    return introduce(raw, typ, audience=HUB, now_s=now_s, skew_s=60)


def test_an_identity_names_its_keys_the_current_one_first() -> None:
    assert identity_claim(HUB, "hub", "https://hub.example.org", (OTHER_KEY.public, SPOKE_KEY.public)) == {
        "instance": HUB,
        "kind": "hub",
        "url": "https://hub.example.org",
        "keys": [OTHER_KEY.public.to_jwk(), SPOKE_KEY.public.to_jwk()],
        "protocols": [1],
    }


def test_a_join_by_request() -> None:
    introduction = introduced(join())
    assert (introduction.instance, introduction.kind, introduction.url) == (SPOKE, "spoke", None)
    assert introduction.key == SPOKE_KEY.public
    assert (introduction.invite, introduction.mac) == (None, None)


def test_a_join_by_invite() -> None:
    introduction = introduced(join(invite=id_of(4), mac=NONCE))
    assert (introduction.invite, introduction.mac) == (id_of(4), NONCE)


def test_an_identity() -> None:
    identity = {**IDENTITY, "url": "https://spoke.example.org"}
    raw = sign({**claims(iss=SPOKE, aud="any"), "identity": identity}, key=SPOKE_KEY, typ=WHO)
    introduction = introduce(raw, WHO, audience="any", now_s=NOW_S, skew_s=60)
    assert introduction.url == "https://spoke.example.org"
    assert (introduction.invite, introduction.mac) == (None, None)


LOW_ORDER_JWK = {"kty": "OKP", "crv": "Ed25519", "x": encode_base64url(bytes(32)).decode()}
REFUSED: dict[str, tuple[bytes, str]] = {
    "signed by a key that is not the first": (join(key=OTHER_KEY), "bad_signature"),
    "kid of the first key, signed by another": (
        join(key=OTHER_KEY, head=header("join+jwt", SPOKE_KEY)),
        "bad_signature",
    ),
    "another instance than the identity": (join(iss="build-2"), "bad_signature"),
    "low-order key": (join(identity={**IDENTITY, "keys": [LOW_ORDER_JWK]}), "malformed"),
    "no key": (join(identity={**IDENTITY, "keys": [{}]}), "malformed"),
    "private key": (join(identity={**IDENTITY, "keys": [{**SPOKE_KEY.public.to_jwk(), "d": "A"}]}), "malformed"),
    "other protocols": (join(identity={**IDENTITY, "protocols": [2, 3]}), "malformed"),
    "no identity": (sign(claims(iss=SPOKE, aud=HUB), key=SPOKE_KEY, typ=JOIN), "malformed"),
    "other audience": (join(aud="hub-us"), "wrong_audience"),
    "future": (join(iat=NOW_S + 61, exp=NOW_S + 120), "not_yet_valid"),
    "expired": (join(iat=NOW_S - 200, exp=NOW_S - 100), "expired"),
    "a command": (sign(command()), "wrong_direction"),
    "an identity": (sign({**claims(), "identity": IDENTITY}, key=SPOKE_KEY, typ=WHO), "wrong_direction"),
    "unknown type": (sign({**claims(), "identity": IDENTITY}, key=SPOKE_KEY, typ="JWT"), "malformed"),
    "not an envelope": (b"x", "malformed"),
}


@pytest.mark.parametrize(("raw", "code"), REFUSED.values(), ids=REFUSED)
def test_refuses_as_a_join(raw: bytes, code: str) -> None:
    with pytest.raises(EnvelopeRejected) as refused:
        introduced(raw)
    assert refused.value.code == code


def test_every_changed_byte_of_a_join_is_refused() -> None:
    good = join(invite=id_of(4), mac=NONCE)
    for at in range(len(good)):
        with pytest.raises(EnvelopeRejected):
            introduced(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])


def test_only_identity_and_join_introduce_anybody() -> None:
    with pytest.raises(TypeError):
        introduced(sign(command()), EnvelopeType.COMMAND)
