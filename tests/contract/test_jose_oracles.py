"""Two JOSE libraries that share no code with ours read what we sign, and we read what they sign."""

from __future__ import annotations

import json
from typing import Any, Protocol

import pytest
from joserfc import jws as joserfc_jws
from joserfc.errors import BadSignatureError
from joserfc.jwk import OKPKey
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS, InvalidJWSSignature

from common.envelope import Claims, EnvelopeType, Items, seal, verify
from common.errors import EnvelopeRejected
from common.jose import encode_base64url, sign_compact
from tests.envelopes import HUB_KEY, NOW_S, bodies, claims, command, header, sign, spawn, spoke_trust

PRIVATE_JWK: dict[str, str | list[str]] = {**HUB_KEY.public.to_jwk(), "d": encode_base64url(bytes([1]) * 32).decode()}
RING = spoke_trust().keyring


class Library(Protocol):
    """What the contract asks of a JOSE library."""

    def sign(self, protected: dict[str, Any], payload: bytes) -> bytes: ...

    def verify(self, raw: bytes) -> tuple[dict[str, Any], bytes] | None:
        """Return header and payload, or None for a wrong signature."""

    def thumbprint(self) -> str: ...


class Joserfc:
    key = OKPKey.import_key(PRIVATE_JWK)

    def sign(self, protected: dict[str, Any], payload: bytes) -> bytes:
        return joserfc_jws.serialize_compact(protected, payload, self.key, algorithms=["Ed25519"]).encode()

    def verify(self, raw: bytes) -> tuple[dict[str, Any], bytes] | None:
        try:
            found = joserfc_jws.deserialize_compact(raw, self.key, algorithms=["Ed25519"])
        except BadSignatureError:
            return None
        return found.protected, found.payload

    def thumbprint(self) -> str:
        return self.key.thumbprint()


class Jwcrypto:
    key = JWK(**PRIVATE_JWK)

    def sign(self, protected: dict[str, Any], payload: bytes) -> bytes:
        made = JWS(payload)
        made.add_signature(self.key, protected=json.dumps(protected))
        return str(made.serialize(compact=True)).encode()

    def verify(self, raw: bytes) -> tuple[dict[str, Any], bytes] | None:
        found = JWS()
        found.deserialize(raw.decode())
        try:
            found.verify(self.key)
        except InvalidJWSSignature:
            return None
        return dict(found.jose_header), bytes(found.payload)

    def thumbprint(self) -> str:
        return str(self.key.thumbprint())


libraries = pytest.mark.parametrize("library", [Joserfc(), Jwcrypto()], ids=["joserfc", "jwcrypto"])
types = pytest.mark.parametrize("typ", EnvelopeType)
# joserfc takes 126 kB unless its registry is told otherwise.
PAYLOADS = {
    "empty": b"",
    "one byte": b"x",
    "two bytes": b"\0\xff",
    "three bytes": b"abc",
    "JSON": json.dumps(command()).encode(),
    "90 kB": bytes(range(256)) * 360,
}


@libraries
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_the_library_verifies_what_we_sign(library: Library, payload: bytes) -> None:
    raw = sign_compact(HUB_KEY, "command+jwt", payload)
    assert library.verify(raw) == (header(), payload)


@libraries
@types
def test_the_library_reads_our_envelopes(library: Library, typ: EnvelopeType) -> None:
    found = library.verify(seal(HUB_KEY, typ, Claims(**claims()), bodies()[typ]))
    assert found is not None
    assert found[0] == header(typ.value)
    assert json.loads(found[1]) == {**claims(), **bodies()[typ]}


@libraries
@types
def test_we_take_the_envelopes_that_the_library_signs(library: Library, typ: EnvelopeType) -> None:
    payload = json.dumps({**claims(), **bodies()[typ]}, indent=1).encode()
    envelope = verify(library.sign(header(typ.value), payload), RING, NOW_S)
    assert envelope.typ is typ
    assert envelope.claims == Claims(**claims())


@libraries
def test_both_make_the_same_bytes(library: Library) -> None:
    """Ed25519 is deterministic: the same header and payload have one signature."""
    items = Items("commands", [json.dumps(spawn()).encode()])
    ours = seal(HUB_KEY, EnvelopeType.COMMAND, Claims(**claims()), {}, items)
    found = library.verify(ours)
    assert found is not None
    assert library.sign(header(), found[1]).split(b".")[1] == ours.split(b".")[1]
    theirs = library.sign(header(), found[1])
    assert verify(theirs, RING, NOW_S).commands == verify(ours, RING, NOW_S).commands


@libraries
def test_the_thumbprint_is_the_same(library: Library) -> None:
    assert library.thumbprint() == HUB_KEY.kid


@libraries
def test_neither_takes_a_changed_signature(library: Library) -> None:
    good = sign(command())
    other = sign(command(aud="build-2"))
    mixed = good.rpartition(b".")[0] + b"." + other.rpartition(b".")[2]
    assert library.verify(mixed) is None
    with pytest.raises(EnvelopeRejected):
        verify(mixed, RING, NOW_S)
