from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadSignature
from common.jose import encode_base64url
from common.keyring import (
    KeyRefused,
    Keyring,
    OwnedKey,
    PublicKey,
    SigningKey,
    check_point,
    parse_public_jwk,
    thumbprint,
)
from tests.envelopes import HUB_KEY, NOW_S, OTHER_KEY, SPOKE_KEY

P = 2**255 - 19
RFC_8037_X = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
RFC_8037_D = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")

# The eight points of small order, and the six other ways to write one of them (CCTV, ed25519/README.md).
LOW_ORDER = {
    "order 4": "0000000000000000000000000000000000000000000000000000000000000000",
    "order 4, y = p": "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "order 4, other x": "0000000000000000000000000000000000000000000000000000000000000080",
    "order 4, other x, y = p": "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "identity": "0100000000000000000000000000000000000000000000000000000000000000",
    "identity, x = -0": "0100000000000000000000000000000000000000000000000000000000000080",
    "identity, y = p + 1": "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "identity, x = -0, y = p + 1": "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "order 8, a": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "order 8, a, other x": "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "order 8, b": "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "order 8, b, other x": "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "order 2": "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "order 2, x = -0": "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
}


def test_there_are_fourteen_encodings() -> None:
    assert len(set(LOW_ORDER.values())) == 14


def jwk_of(raw: bytes) -> dict[str, Any]:
    return {"kty": "OKP", "crv": "Ed25519", "x": encode_base64url(raw).decode()}


@pytest.mark.attack(16)
@pytest.mark.parametrize("encoding", LOW_ORDER.values(), ids=LOW_ORDER)
def test_a_low_order_key_is_refused_wherever_it_enters(encoding: str) -> None:
    raw = bytes.fromhex(encoding)
    # The library under us would take it.
    Ed25519PublicKey.from_public_bytes(raw)
    with pytest.raises(KeyRefused):
        PublicKey(raw)
    with pytest.raises(KeyRefused):
        PublicKey.from_jwk(jwk_of(raw))
    with pytest.raises(KeyRefused):
        parse_public_jwk(json.dumps(jwk_of(raw)).encode())


NON_CANONICAL = {
    f"p+{y - P}{' with sign' if sign else ''}": (y | sign << 255).to_bytes(32, "little")
    for y in range(P, 2**255)
    for sign in (0, 1)
}


@pytest.mark.attack(17)
@pytest.mark.parametrize("raw", NON_CANONICAL.values(), ids=NON_CANONICAL)
def test_a_non_canonical_key_is_refused_wherever_it_enters(raw: bytes) -> None:
    with pytest.raises(KeyRefused):
        PublicKey(raw)
    with pytest.raises(KeyRefused):
        PublicKey.from_jwk(jwk_of(raw))


def test_the_last_canonical_encoding_of_no_low_order_is_taken() -> None:
    check_point((P - 2).to_bytes(32, "little"))
    check_point((2).to_bytes(32, "little"))


@pytest.mark.parametrize("count", [0, 31, 33, 64])
def test_a_key_has_32_bytes(count: int) -> None:
    with pytest.raises(KeyRefused, match="has 32 bytes"):
        PublicKey(b"\x05" * count)


@given(st.binary(min_size=32, max_size=32))
def test_any_32_bytes_make_a_key_or_are_refused_and_forge_nothing(raw: bytes) -> None:
    try:
        key = PublicKey(raw)
    except KeyRefused:
        return
    with pytest.raises(BadSignature):
        key.verify(bytes(64), b"message")


def test_the_thumbprint_of_rfc_8037() -> None:
    key = PublicKey.from_jwk({"kty": "OKP", "crv": "Ed25519", "x": RFC_8037_X})
    assert key.kid == thumbprint(key.raw) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert key.fingerprint == "SHA256:kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert SigningKey(Ed25519PrivateKey.from_private_bytes(RFC_8037_D)).public == key


def test_a_jwk_makes_the_round_trip() -> None:
    assert PublicKey.from_jwk(HUB_KEY.public.to_jwk()) == HUB_KEY.public
    assert parse_public_jwk(json.dumps(HUB_KEY.public.to_jwk()).encode()) == HUB_KEY.public
    assert PublicKey.from_jwk({**HUB_KEY.public.to_jwk(), "kid": "x", "use": "sig"}) == HUB_KEY.public


GOOD_JWK = HUB_KEY.public.to_jwk()
BAD_JWKS: dict[str, Any] = {
    "no object": [GOOD_JWK],
    "null": None,
    "other kty": {**GOOD_JWK, "kty": "EC"},
    "other crv": {**GOOD_JWK, "crv": "X25519"},
    "crv a list": {**GOOD_JWK, "crv": ["Ed25519"]},
    "private": {**GOOD_JWK, "d": encode_base64url(bytes(32)).decode()},
    "private but empty": {**GOOD_JWK, "d": ""},
    "no x": {"kty": "OKP", "crv": "Ed25519"},
    "x a number": {**GOOD_JWK, "x": 5},
    "x padded": {**GOOD_JWK, "x": GOOD_JWK["x"] + "="},
    "x with a newline": {**GOOD_JWK, "x": GOOD_JWK["x"] + "\n"},
    "x with slack bits": {**GOOD_JWK, "x": GOOD_JWK["x"][:-1] + "B"},
    "x with standard base64": {**GOOD_JWK, "x": "+" * 43},
    "x not ASCII": {**GOOD_JWK, "x": "é" * 43},
    "x a lone surrogate": {**GOOD_JWK, "x": "\ud800" * 43},
    "x too short": {**GOOD_JWK, "x": "QUJD"},
    "x empty": {**GOOD_JWK, "x": ""},
}


@pytest.mark.parametrize("jwk", BAD_JWKS.values(), ids=BAD_JWKS)
def test_refuses_a_jwk(jwk: Any) -> None:
    with pytest.raises(KeyRefused) as refused:
        PublicKey.from_jwk(jwk)
    assert refused.value.code == "key_refused"


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[]", b'{"kty":"OKP","kty":"OKP"}'])
def test_a_file_that_is_no_jwk_is_refused(raw: bytes) -> None:
    with pytest.raises(KeyRefused):
        parse_public_jwk(raw)


@pytest.mark.attack(18)
@pytest.mark.parametrize("count", [0, 32, 63, 65, 96, 128])
def test_a_signature_has_64_bytes(count: int) -> None:
    good = HUB_KEY.sign(b"message")
    with pytest.raises(BadSignature):
        HUB_KEY.public.verify((good * 2)[:count], b"message")


def test_verify_returns_for_the_right_signature_only() -> None:
    signature = HUB_KEY.sign(b"message")
    HUB_KEY.public.verify(signature, b"message")
    for key, message in ((HUB_KEY, b"Message"), (OTHER_KEY, b"message")):
        with pytest.raises(BadSignature):
            key.public.verify(signature, message)


def test_equality_hash_and_repr_of_keys() -> None:
    again = PublicKey(HUB_KEY.public.raw)
    assert {again, HUB_KEY.public} == {again}
    assert again != OTHER_KEY.public
    assert again != again.raw
    assert repr(again) == f"PublicKey(SHA256:{again.kid})"


def test_a_signing_key_shows_nothing_private() -> None:
    assert repr(HUB_KEY) == f"SigningKey({HUB_KEY.public.fingerprint})"
    assert str(HUB_KEY) == repr(HUB_KEY)


def test_a_signing_key_signs_and_derives_with_the_key_it_was_made_of() -> None:
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(RFC_8037_D))
    key.public.verify(key.sign(b"message"), b"message")
    assert key.derive_secret("a") != HUB_KEY.derive_secret("a")


def test_a_derived_secret_depends_on_key_and_purpose_only() -> None:
    secret = HUB_KEY.derive_secret("a")
    assert len(secret) == 32
    assert secret == HUB_KEY.derive_secret("a")
    assert len({secret, HUB_KEY.derive_secret("b"), OTHER_KEY.derive_secret("a")}) == 3


def test_the_keyring_finds_keys_with_their_owners() -> None:
    ring = Keyring([OwnedKey("hub", HUB_KEY.public), OwnedKey("spoke", SPOKE_KEY.public)])
    assert ring.find(HUB_KEY.kid, NOW_S).owner == "hub"
    assert ring.find(SPOKE_KEY.kid, NOW_S).owner == "spoke"


@pytest.mark.parametrize(
    "kid", ["", "x", "*", "../../etc/passwd", "\0", OTHER_KEY.kid, HUB_KEY.kid + " ", "k" * 100_000]
)
def test_an_unknown_key_id_is_a_bad_signature(kid: str) -> None:
    with pytest.raises(BadSignature):
        Keyring([OwnedKey("hub", HUB_KEY.public)]).find(kid, NOW_S)


@pytest.mark.attack(31)
def test_a_key_counts_until_the_second_it_retires() -> None:
    ring = Keyring([OwnedKey("hub", HUB_KEY.public, retires_at=NOW_S)])
    assert ring.find(HUB_KEY.kid, NOW_S - 0.001).key == HUB_KEY.public
    with pytest.raises(BadSignature) as refused:
        ring.find(HUB_KEY.kid, NOW_S)
    assert "retired" in refused.value.reason
    assert refused.value.message == BadSignature("unknown").message


def test_one_key_has_one_owner() -> None:
    with pytest.raises(KeyRefused, match="have the same key"):
        Keyring([OwnedKey("a", HUB_KEY.public), OwnedKey("b", HUB_KEY.public)])
    Keyring([OwnedKey("a", HUB_KEY.public), OwnedKey("a", HUB_KEY.public)])


def test_a_keyring_lists_all_its_keys_retired_ones_too() -> None:
    keys = (OwnedKey("a", HUB_KEY.public), OwnedKey("b", SPOKE_KEY.public, 5))
    assert Keyring(keys).all() == keys
