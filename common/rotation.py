"""The rules of rotating a key (PROTOCOL section 6), for who rotates and for who hears of it.

A ROTATE is believed when the **current** key of its sender signed it, the next key proves by a signature of its own
that its holder takes part, and the epoch is greater than any before. A former key in its overlap still signs commands,
but may not name a successor: whoever stole it could otherwise take the place back. A key that was given up never comes
back. The same rotation told again, also by the new key, is known already and answered the same (attack row 32).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.envelope import RotateBody
from common.errors import BadSignature, CommandRefused, Malformed
from common.jose import decode_base64url, encode_base64url
from common.keyring import KeyRefused, OwnedKey, PublicKey, SigningKey
from common.peers import Peer

MAX_KEYS: Final = 8
"""How many keys of a peer are kept, the retired ones among them: what they signed may still wait in the queue."""
DEFAULT_OVERLAP_H: Final = 24


@dataclass(frozen=True, slots=True)
class NextKey:
    """What a ROTATE asks for, its proof checked: from now on `key`, in `epoch`; the key `signed_by` signed it."""

    key: PublicKey
    epoch: int
    signed_by: str


def _proof_text(former_kid: str, next_kid: str, epoch: int, audience: str) -> bytes:
    return f"hubspoke-rotate-v1.{former_kid}.{next_kid}.{epoch}.{audience}".encode("ascii")


def rotate_fields(signer_kid: str, key: SigningKey, epoch: int, audience: str) -> dict[str, Any]:
    """Return the members of a ROTATE to `audience` that the key `signer_kid` is going to sign."""
    proof = key.sign(_proof_text(signer_kid, key.kid, epoch, audience))
    return {"next": key.public.to_jwk(), "epoch": epoch, "proof": encode_base64url(proof).decode()}


def parse_rotation(body: RotateBody, kid: str, audience: str) -> NextKey:
    """Read a ROTATE to us, signed by the key `kid`; raises `Malformed` (no usable key) or `BadSignature` (no proof)."""
    try:
        key = PublicKey.from_jwk(body.next)
    except KeyRefused as error:
        raise Malformed(f"next: {error.message}") from error
    proof = decode_base64url(body.proof.encode("utf-8", "replace"))
    try:
        key.verify(proof, _proof_text(kid, key.kid, body.epoch, audience))
    except BadSignature as error:
        raise BadSignature("the next key did not sign the proof of this rotation") from error
    return NextKey(key, body.epoch, kid)


def check_rotation(peer: Peer, following: NextKey) -> bool:
    """Return whether the rotation is news, False when it is known already.

    Raises `CommandRefused` with `stale` (epoch), or `not_allowed` (signed by a former key, or to one).
    """
    if following.key == peer.current_key and following.epoch >= peer.epoch:
        return following.epoch > peer.epoch
    if following.signed_by != peer.current_key.kid:
        raise CommandRefused("not_allowed", "only the current key names its successor")
    if following.epoch <= peer.epoch:
        raise CommandRefused("stale", f"the epoch must be greater than {peer.epoch}")
    if any(owned.key == following.key for owned in peer.keys):
        raise CommandRefused("not_allowed", "a key that was given up does not come back; make a new one")
    return True


def rotated_keys(peer: Peer, following: NextKey, retires_at: int) -> tuple[OwnedKey, ...]:
    """Return the peer's keys after the rotation: the next one first, the former ones until they retire."""
    if following.key == peer.current_key:
        return peer.keys
    former = (
        OwnedKey(owned.owner, owned.key, retires_at if owned.retires_at is None else owned.retires_at)
        for owned in peer.keys
    )
    return (OwnedKey(peer.instance, following.key), *former)[:MAX_KEYS]


def without_key(peer: Peer, fingerprint: str) -> tuple[OwnedKey, ...]:
    """Return the peer's keys without a former one, for an operator who no longer trusts it.

    Raises `CommandRefused`: `not_found`, or `not_allowed` for the current key, without which there is no connection.
    """
    if peer.current_key.fingerprint == fingerprint:
        raise CommandRefused(
            "not_allowed", f"that is the current key of {peer.instance}: revoke the peer, and let it join anew"
        )
    rest = tuple(owned for owned in peer.keys if owned.key.fingerprint != fingerprint)
    if len(rest) == len(peer.keys):
        raise CommandRefused("not_found", f"{peer.instance} has no key of that fingerprint; see peer show")
    return rest


def next_epoch(last: int, now_s: int) -> int:
    """Return the epoch of a new rotation: a time, so that it grows also when the count of those before was lost."""
    return max(last + 1, now_s)


def settled(result: Mapping[str, Any], kid: str, epoch: int) -> str | None:
    """Read the one result that answers a ROTATE: None when it was taken, else why not."""
    if result.get("id") != kid:
        return "the answer is about another key"
    if error := result.get("error"):
        return f"{error['code']}: {error['detail']}"
    return None if result.get("epoch") == epoch else "the answer is about another epoch"
