"""Strict compact JWS (RFC 7515) with Ed25519 (RFC 8037, RFC 9864) and nothing else.

Decides what is the shape of an envelope: three base64url parts without padding, slack bits or white space, at most 1
MiB, and a header of exactly `alg`, `kid` and `typ`. Refuses every other header member (`jwk`, `jku`, `x5c`, `crit`,
`b64`, ...) as `malformed`, every other algorithm as `bad_signature`. What is verified is the bytes that came: nothing
is re-encoded.
"""

from __future__ import annotations

import binascii
import string
from dataclasses import dataclass
from typing import Final, Protocol

from common import strict_json
from common.errors import BadSignature, EnvelopeRejected, LocalError, Malformed

MAX_ENVELOPE_BYTES: Final = 1024 * 1024
ALGORITHM: Final = "Ed25519"
SIGNATURE_BYTES: Final = 64
PARTS: Final = 3
_HEADER_MEMBERS: Final = frozenset({"alg", "kid", "typ"})
_BASE64URL: Final = (string.ascii_letters + string.digits + "-_").encode()
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")


class Verifier(Protocol):
    """What can check a signature: `common.keyring.PublicKey` does."""

    def verify(self, signature: bytes, message: bytes) -> None:
        """Return only when `signature` is right for `message`; raises `BadSignature`."""


class Signer(Protocol):
    """What can make a signature: `common.keyring.SigningKey` does."""

    @property
    def kid(self) -> str:
        """The key id: the RFC 7638 thumbprint of the public key."""

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the Ed25519 signature of `message`."""


def encode_base64url(raw: bytes) -> bytes:
    """Encode without padding (RFC 7515 section 2)."""
    return binascii.b2a_base64(raw, newline=False).translate(_TO_URL).rstrip(b"=")


def decode_base64url(text: bytes) -> bytes:
    """Decode the one canonical spelling; raises `Malformed` for padding, `+/`, white space, slack bits (attack 19)."""
    # What is left when the alphabet is taken out: four times as fast as a regular expression.
    if text.translate(None, _BASE64URL) or len(text) % 4 == 1:
        raise Malformed("a part is not base64url without padding (RFC 7515 section 2)")
    raw = binascii.a2b_base64(text.translate(_TO_STANDARD) + b"=" * (-len(text) % 4))
    # Only the last group can have slack bits, so only it makes the round trip.
    tail = len(text) % 4
    if tail and encode_base64url(raw[-(tail - 1) :]) != text[-tail:]:
        raise Malformed("a base64url part has non-zero trailing bits")
    return raw


@dataclass(frozen=True, slots=True)
class CompactJws:
    """The three parts, checked for shape only: **nothing in it is to be believed before `verify`**."""

    kid: str
    typ: str
    payload: bytes
    signature: bytes
    signing_input: bytes

    def verify(self, key: Verifier) -> bytes:
        """Return the payload's bytes when `key` made the signature; raises `BadSignature`."""
        key.verify(self.signature, self.signing_input)
        return self.payload


def _parse_header(raw: bytes) -> tuple[str, str]:
    header = strict_json.parse(raw)
    if not isinstance(header, dict):
        raise Malformed("the header is not a JSON object")
    if unknown := header.keys() - _HEADER_MEMBERS:
        raise Malformed(f"the header has members beside alg, kid and typ: {len(unknown)}")
    if header.get("alg") != ALGORITHM:
        raise BadSignature("alg is not Ed25519")
    kid, typ = header.get("kid"), header.get("typ")
    if not isinstance(kid, str) or not isinstance(typ, str):
        raise Malformed("the header needs alg, kid and typ, all strings")
    return kid, typ


def parse_compact(raw: bytes) -> CompactJws:
    """Take an envelope apart without believing it; raises `too_large`, `Malformed` or `BadSignature`."""
    if len(raw) > MAX_ENVELOPE_BYTES:
        raise EnvelopeRejected("too_large", f"an envelope has at most {MAX_ENVELOPE_BYTES} bytes; split it")
    parts = raw.split(b".", PARTS)
    if len(parts) != PARTS or not parts[0] or not parts[1]:
        raise Malformed("an envelope is three base64url parts with dots between (RFC 7515 section 3.1)")
    header, payload, signature = (decode_base64url(part) for part in parts)
    kid, typ = _parse_header(header)
    return CompactJws(kid, typ, payload, signature, raw[: raw.rindex(b".")])


def sign_compact(signer: Signer, typ: str, payload: bytes) -> bytes:
    """Sign `payload` as a compact JWS of type `typ`; raises `LocalError` for one over the size limit."""
    header = strict_json.encode({"alg": ALGORITHM, "kid": signer.kid, "typ": typ})
    signing_input = encode_base64url(header) + b"." + encode_base64url(payload)
    envelope = signing_input + b"." + encode_base64url(signer.sign(signing_input))
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise LocalError(f"an envelope of {len(envelope)} bytes is over the limit; it had to be split before")
    return envelope
