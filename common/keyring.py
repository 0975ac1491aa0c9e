"""Ed25519 keys as the protocol names them: thumbprints, fingerprints, JWKs, and which keys of whom count now.

Decides which public keys may exist at all: low-order and non-canonical point encodings are refused wherever a key
enters or is loaded (PROTOCOL section 1, attack rows 16 and 17), because libraries verify forged constants under them.
Decides which key a `kid` names at a moment, and whose it is. Knows nothing of files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common import strict_json
from common.errors import BadSignature, Malformed, PeerError
from common.jose import SIGNATURE_BYTES, decode_base64url, encode_base64url

PUBLIC_KEY_BYTES: Final = 32
SECRET_BYTES: Final = 32
_P: Final = 2**255 - 19
_SIGN_BIT: Final = 1 << 255
_ORDER_8_Y: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_LOW_ORDER_Y: Final = frozenset({0, 1, _P - 1, _ORDER_8_Y, _P - _ORDER_8_Y})
"""The y of the eight points whose order divides 8; with either sign bit, and with y + p, they make the 14 encodings."""


class KeyRefused(PeerError):
    """A public key that must not be registered or loaded."""

    code = "key_refused"


def check_point(raw: bytes) -> None:
    """Raise `KeyRefused` unless `raw` is 32 bytes of a canonical encoding outside the small subgroup."""
    if len(raw) != PUBLIC_KEY_BYTES:
        raise KeyRefused(f"an Ed25519 public key has {PUBLIC_KEY_BYTES} bytes, this one {len(raw)}")
    y = int.from_bytes(raw, "little") & (_SIGN_BIT - 1)
    if y >= _P:
        raise KeyRefused("the public key is a non-canonical point encoding; make a new key")
    if y in _LOW_ORDER_Y:
        raise KeyRefused("the public key is a low-order point, under which anybody can sign; make a new key")


def thumbprint(raw: bytes) -> str:
    """Return the RFC 7638 SHA-256 thumbprint of the OKP JWK (RFC 8037), 43 characters of base64url."""
    canonical = b'{"crv":"Ed25519","kty":"OKP","x":"%s"}' % encode_base64url(raw)
    return encode_base64url(hashlib.sha256(canonical).digest()).decode()


class PublicKey:
    """A public key that has passed `check_point`; there is no other way to make one."""

    __slots__ = ("_key", "kid", "raw")

    def __init__(self, raw: bytes) -> None:
        check_point(raw)
        self.raw = raw
        self.kid = thumbprint(raw)
        self._key = Ed25519PublicKey.from_public_bytes(raw)

    @property
    def fingerprint(self) -> str:
        """What people compare out of band: `SHA256:` and the key id."""
        return f"SHA256:{self.kid}"

    def verify(self, signature: bytes, message: bytes) -> None:
        """Return only when `signature` is right for `message`; raises `BadSignature`."""
        if len(signature) != SIGNATURE_BYTES:
            raise BadSignature("the signature has a wrong length")
        try:
            self._key.verify(signature, message)
        except InvalidSignature as error:
            raise BadSignature("the signature is wrong") from error

    def to_jwk(self) -> dict[str, str]:
        """Return the public OKP JWK of RFC 8037."""
        return {"kty": "OKP", "crv": "Ed25519", "x": encode_base64url(self.raw).decode()}

    @classmethod
    def from_jwk(cls, jwk: Any) -> PublicKey:
        """Read an OKP JWK; `kid`, `alg` and `use` are ignored, a private `d` is refused. Raises `KeyRefused`."""
        if not isinstance(jwk, dict) or jwk.get("kty") != "OKP" or jwk.get("crv") != "Ed25519":
            raise KeyRefused('a key is a JWK with "kty":"OKP" and "crv":"Ed25519" (RFC 8037)')
        if "d" in jwk:
            raise KeyRefused("this JWK holds a private key; register the public one and replace the key pair")
        x = jwk.get("x")
        if not isinstance(x, str):
            raise KeyRefused('the JWK has no "x"')
        try:
            return cls(decode_base64url(x.encode("utf-8", "replace")))
        except Malformed as error:
            raise KeyRefused('the "x" of the JWK is not base64url') from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and other.raw == self.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"PublicKey({self.fingerprint})"


class SigningKey:
    """An Ed25519 private key; its repr shows the public fingerprint only."""

    __slots__ = ("_key", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key().public_bytes_raw())

    @property
    def kid(self) -> str:
        """The key id of the public half."""
        return self.public.kid

    @property
    def current(self) -> SigningKey:
        """Itself: a key alone is all the keys of a node that never rotates."""
        return self

    def signer_for(self, _audience: str) -> SigningKey:
        """Return itself, whoever the envelope is for."""
        return self

    def public_keys(self, _now_s: float) -> tuple[PublicKey, ...]:
        """Return its public half."""
        return (self.public,)

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the Ed25519 signature of `message`."""
        return self._key.sign(message)

    def derive_secret(self, purpose: str) -> bytes:
        """Return 32 secret bytes for one purpose, the same ones as long as this is the key (HKDF, RFC 5869)."""
        return HKDF(SHA256(), SECRET_BYTES, salt=None, info=purpose.encode()).derive(self._key.private_bytes_raw())

    def __repr__(self) -> str:
        return f"SigningKey({self.public.fingerprint})"


class NodeKeys(Protocol):
    """A node's own keys: the current one, and the one that a peer knows while it has not heard of the current one."""

    @property
    def current(self) -> SigningKey:
        """The key that this node is known by now."""

    def signer_for(self, _audience: str, /) -> SigningKey:
        """Return the key to sign with for the instance `audience`."""

    def public_keys(self, _now_s: float, /) -> tuple[PublicKey, ...]:
        """Return what an IDENTITY shows at `now_s`, the current one first."""


@dataclass(frozen=True, slots=True)
class OwnedKey:
    """A public key with the instance that owns it; `retires_at` (epoch seconds) ends the overlap of a rotation."""

    owner: str
    key: PublicKey
    retires_at: int | None = None

    def counts_at(self, now_s: float) -> bool:
        """Whether the key still verifies at `now_s`."""
        return self.retires_at is None or now_s < self.retires_at


class Keyring:
    """All registered keys, found by `kid`. Immutable: a change of trust makes a new one."""

    __slots__ = ("_by_kid",)

    def __init__(self, keys: Iterable[OwnedKey]) -> None:
        self._by_kid: dict[str, OwnedKey] = {}
        for owned in keys:
            if (other := self._by_kid.get(owned.key.kid)) and other.owner != owned.owner:
                raise KeyRefused(f"{owned.owner} and {other.owner} have the same key {owned.key.fingerprint}")
            self._by_kid[owned.key.kid] = owned

    def all(self) -> tuple[OwnedKey, ...]:
        """Return all keys, retired ones too."""
        return tuple(self._by_kid.values())

    def find(self, kid: str, now_s: float) -> OwnedKey:
        """Return the key that `kid` names now; raises `BadSignature` for unknown and retired ones alike."""
        owned = self._by_kid.get(kid)
        if owned is None:
            raise BadSignature("the key id is unknown")
        if not owned.counts_at(now_s):
            raise BadSignature("the key is retired")
        return owned


def parse_public_jwk(raw: bytes) -> PublicKey:
    """Read a JWK file's bytes; raises `KeyRefused`."""
    try:
        return PublicKey.from_jwk(strict_json.parse(raw))
    except Malformed as error:
        raise KeyRefused("the key file is not a JSON Web Key") from error
