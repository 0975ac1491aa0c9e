"""Introductions: IDENTITY and JOIN, the two envelopes that bring the key they are verified with (PROTOCOL section 5).

Decides only that the sender **holds** the first key it names (possession). Whether to believe it is the caller's
business: by an invite's secret, by a fingerprint that a person compared. An `Introduction` is no `VerifiedEnvelope`,
so nothing that acts on commands or events can take one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from common import jose
from common.envelope import (
    Claims,
    EnvelopeType,
    IdentityBody,
    IdentityClaim,
    JoinBody,
    check_window,
    parse_payload,
    parse_type,
)
from common.errors import BadSignature, EnvelopeRejected, Malformed
from common.keyring import KeyRefused, PublicKey
from common.peers import Kind

PROTOCOL_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Introduction:
    """Who somebody says they are, with proof that they hold `key`."""

    claims: Claims
    kind: Kind
    url: str | None
    key: PublicKey
    invite: str | None
    mac: str | None

    @property
    def instance(self) -> str:
        """The instance id that is claimed."""
        return self.claims.iss


def _current_key(identity: IdentityClaim, kid: str) -> PublicKey:
    try:
        key = PublicKey.from_jwk(identity.keys[0])
    except KeyRefused as error:
        raise Malformed(error.message) from error
    if key.kid != kid:
        raise BadSignature("kid is not the thumbprint of the identity's first key")
    return key


def introduce(raw: bytes, typ: EnvelopeType, *, audience: str, now_s: float, skew_s: int) -> Introduction:
    """Check an IDENTITY or JOIN against the first key that it carries itself; raises `EnvelopeRejected`."""
    jws = jose.parse_compact(raw)
    if parse_type(jws) is not typ:
        raise EnvelopeRejected("wrong_direction", f"this place takes {typ} only")
    claims, body = parse_payload(typ, jws.payload)
    if not isinstance(body, IdentityBody | JoinBody):
        raise TypeError(f"{typ} introduces nobody")
    key = _current_key(body.identity, jws.kid)
    jws.verify(key)
    if claims.iss != body.identity.instance:
        raise BadSignature("iss is not the instance that the identity names")
    if claims.aud != audience:
        raise EnvelopeRejected("wrong_audience", f"this is {audience}; the envelope is for another instance")
    check_window(claims, now_s, skew_s)
    if PROTOCOL_VERSION not in body.identity.protocols:
        raise Malformed(f"the instance does not speak protocol {PROTOCOL_VERSION}")
    invite, mac = (body.invite, body.mac) if isinstance(body, JoinBody) else (None, None)
    return Introduction(claims, body.identity.kind, body.identity.url, key, invite, mac)


def identity_claim(instance: str, kind: Kind, url: str | None, keys: tuple[PublicKey, ...]) -> dict[str, Any]:
    """Return the `identity` member of IDENTITY and JOIN, the current key first."""
    return {
        "instance": instance,
        "kind": kind,
        "url": url,
        "keys": [key.to_jwk() for key in keys],
        "protocols": [PROTOCOL_VERSION],
    }
