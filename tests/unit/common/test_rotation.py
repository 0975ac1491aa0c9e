from __future__ import annotations

from typing import Any

import pytest

from common.envelope import RotateBody
from common.errors import BadSignature, CommandRefused, EnvelopeRejected, Malformed
from common.jose import encode_base64url
from common.keyring import OwnedKey, SigningKey
from common.peers import OwnRotation, Trust
from common.rotation import (
    MAX_KEYS,
    NextKey,
    check_rotation,
    next_epoch,
    parse_rotation,
    rotate_fields,
    rotated_keys,
    settled,
    without_key,
)
from tests.envelopes import HUB, HUB_KEY, NOW_S, OTHER_KEY, SPOKE, SPOKE_KEY, hub_peer, key_of, spoke_peer

NEXT = key_of(7)
LATER = key_of(8)


def fields(
    key: SigningKey = NEXT, signer: SigningKey = HUB_KEY, epoch: int = 1, audience: str = SPOKE
) -> dict[str, Any]:
    return rotate_fields(signer.kid, key, epoch, audience)


def parsed(members: dict[str, Any], kid: str = HUB_KEY.kid) -> NextKey:
    return parse_rotation(RotateBody.model_validate(members), kid, SPOKE)


def test_a_rotation_names_the_next_key_and_its_epoch() -> None:
    assert parsed(fields(epoch=5)) == NextKey(NEXT.public, 5, HUB_KEY.kid)


def test_the_proof_is_the_text_of_the_protocol_signed_by_the_next_key() -> None:
    text = f"hubspoke-rotate-v1.{HUB_KEY.kid}.{NEXT.kid}.5.{SPOKE}"
    assert fields(epoch=5)["proof"] == encode_base64url(NEXT.sign(text.encode())).decode()


LOW_ORDER = {"kty": "OKP", "crv": "Ed25519", "x": "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}
BAD: dict[str, tuple[dict[str, Any], type[EnvelopeRejected]]] = {
    "no key": ({**fields(), "next": {}}, Malformed),
    "a low-order key": ({**fields(), "next": LOW_ORDER}, Malformed),
    "a private key": ({**fields(), "next": {**NEXT.public.to_jwk(), "d": "AAAA"}}, Malformed),
    "a proof that is no base64url": ({**fields(), "proof": "A" * 85 + "="}, Malformed),
    "a proof that is no ASCII": ({**fields(), "proof": "\u00e4" * 86}, Malformed),
    "no proof": ({**fields(), "proof": ""}, BadSignature),
    "zeros for a proof": ({**fields(), "proof": "A" * 86}, BadSignature),
    "the proof of another epoch": ({**fields(epoch=1), "epoch": 2}, BadSignature),
    "the proof for another audience": (fields(audience="build-2"), BadSignature),
    "the proof after another key": (fields(signer=OTHER_KEY), BadSignature),
    "the proof of another key": ({**fields(), "next": LATER.public.to_jwk()}, BadSignature),
    "the proof made by the old key": (
        {**fields(key=HUB_KEY), "next": NEXT.public.to_jwk()},
        BadSignature,
    ),
}


@pytest.mark.attack(32)
@pytest.mark.parametrize(("members", "refusal"), BAD.values(), ids=BAD)
def test_without_a_key_and_its_proof_it_is_refused(members: dict[str, Any], refusal: type[EnvelopeRejected]) -> None:
    with pytest.raises(EnvelopeRejected) as refused:
        parsed(members)
    assert type(refused.value) is refusal


def following(key: SigningKey = NEXT, epoch: int = 6, signed_by: SigningKey = HUB_KEY) -> NextKey:
    return NextKey(key.public, epoch, signed_by.kid)


def test_a_greater_epoch_under_the_current_key_is_news() -> None:
    assert check_rotation(hub_peer(epoch=5), following(epoch=6)) is True


ROTATED = hub_peer(
    epoch=6, keys=(OwnedKey(HUB, NEXT.public), OwnedKey(HUB, HUB_KEY.public, retires_at=NOW_S + 60)), connection=1
)
REFUSED: dict[str, tuple[NextKey, str]] = {
    "the same epoch": (following(LATER, 6, NEXT), "stale"),
    "an older epoch": (following(LATER, 5, NEXT), "stale"),
    "to the current key in an older epoch": (following(NEXT, 5, NEXT), "stale"),
    "to the current key in an older epoch, by the former key": (following(NEXT, 5, HUB_KEY), "not_allowed"),
    "by the former key in its overlap": (following(LATER, 7, HUB_KEY), "not_allowed"),
    "back to the former key": (following(HUB_KEY, 7, NEXT), "not_allowed"),
    "to the former key by itself": (following(HUB_KEY, 7, HUB_KEY), "not_allowed"),
}


@pytest.mark.attack(32)
@pytest.mark.parametrize(("next_key", "code"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_follow_is_refused(next_key: NextKey, code: str) -> None:
    with pytest.raises(CommandRefused) as refused:
        check_rotation(ROTATED, next_key)
    assert refused.value.code == code


def test_the_same_rotation_again_is_known_whoever_of_the_two_signed_it() -> None:
    assert check_rotation(ROTATED, following(NEXT, 6, HUB_KEY)) is False
    assert check_rotation(ROTATED, following(NEXT, 6, NEXT)) is False


def test_the_current_key_may_bring_a_greater_epoch_of_itself() -> None:
    """It joined anew with its next key, and only now tells of the rotation before."""
    assert check_rotation(ROTATED, following(NEXT, 7, NEXT)) is True
    assert rotated_keys(ROTATED, following(NEXT, 7, NEXT), NOW_S) == ROTATED.keys


def test_former_keys_keep_the_end_of_their_first_overlap() -> None:
    keys = rotated_keys(ROTATED, following(LATER, 7, NEXT), NOW_S + 1000)
    assert keys == (
        OwnedKey(HUB, LATER.public),
        OwnedKey(HUB, NEXT.public, NOW_S + 1000),
        OwnedKey(HUB, HUB_KEY.public, NOW_S + 60),
    )


def test_only_the_latest_keys_are_kept() -> None:
    peer = hub_peer()
    for number in range(20):
        peer = hub_peer(keys=rotated_keys(peer, following(key_of(100 + number)), NOW_S + number))
    assert len(peer.keys) == MAX_KEYS
    assert peer.current_key == key_of(119).public
    assert peer.keys[-1].retires_at == NOW_S + 13


def test_an_operator_takes_a_former_key_away() -> None:
    assert without_key(ROTATED, HUB_KEY.public.fingerprint) == (OwnedKey(HUB, NEXT.public),)


@pytest.mark.parametrize(("key", "code"), [(NEXT, "not_allowed"), (LATER, "not_found")], ids=["current", "unknown"])
def test_an_operator_cannot_take_any_other_key_away(key: SigningKey, code: str) -> None:
    with pytest.raises(CommandRefused) as refused:
        without_key(ROTATED, key.public.fingerprint)
    assert refused.value.code == code


def test_an_epoch_is_a_time_and_always_grows() -> None:
    assert next_epoch(0, NOW_S) == NOW_S
    assert next_epoch(NOW_S, NOW_S) == NOW_S + 1
    assert next_epoch(NOW_S + 100, NOW_S) == NOW_S + 101


ERROR = {"code": "stale", "detail": "old", "retryable": False}
ANSWERS: dict[str, tuple[dict[str, Any], str | None]] = {
    "taken": ({"id": "K", "epoch": 3}, None),
    "refused": ({"id": "K", "error": ERROR}, "stale: old"),
    "another key": ({"id": "L", "epoch": 3}, "the answer is about another key"),
    "another epoch": ({"id": "K", "epoch": 4}, "the answer is about another epoch"),
    "no epoch": ({"id": "K"}, "the answer is about another epoch"),
}


@pytest.mark.parametrize(("result", "problem"), ANSWERS.values(), ids=ANSWERS)
def test_an_acknowledgement_names_the_key_and_the_epoch(result: dict[str, Any], problem: str | None) -> None:
    assert settled(result, "K", 3) == problem


def test_who_has_not_acknowledged_is_unaware_unless_revoked() -> None:
    ours = OwnRotation(9, SPOKE_KEY.public, NEXT.public, NOW_S, NOW_S + 60)
    peers = [
        hub_peer(instance="aware", acknowledged=9, keys=()),
        hub_peer(instance="away", acknowledged=8, keys=()),
        hub_peer(instance="resting", state="suspended", keys=()),
        hub_peer(instance="gone", state="revoked", keys=()),
    ]
    assert Trust(peers).unaware() == ()
    trust = Trust(peers, [ours])
    assert trust.rotation == ours
    assert [peer.instance for peer in trust.unaware()] == ["away", "resting"]


def test_a_key_alone_is_all_the_keys_of_a_node_that_never_rotates() -> None:
    assert HUB_KEY.current is HUB_KEY.signer_for(SPOKE) is HUB_KEY
    assert HUB_KEY.public_keys(NOW_S) == (HUB_KEY.public,)
    assert spoke_peer().acknowledged == 0
