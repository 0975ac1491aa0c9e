"""Fuzzes the codec: whatever comes, it is an envelope, or it is refused with `EnvelopeRejected`, and nothing else.

The first byte says how the rest is used: as it is, as the header or the payload of an envelope that is signed rightly,
as an introduction, or as members to add to a good header. An accepted payload must mean to us what it means to the JSON
parser of the standard library, and hold no member twice; an accepted envelope must be one that OpenSSL verifies, in its
one spelling.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import atheris
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

with atheris.instrument_imports(include=["common"]):
    from common import strict_json
    from common.envelope import EnvelopeType, verify
    from common.errors import EnvelopeRejected
    from common.introduction import introduce
    from tests.envelopes import HUB, HUB_KEY, NOW_S, SPOKE, bodies, claims, header, sign, spoke_trust
    from tests.fuzz.fuzzing import fuzz
    from tests.fuzz.planted import plant

TYPES = list(EnvelopeType)
MODES = 5
TRUST = spoke_trust()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


def _check_accepted(raw: bytes) -> None:
    """Fail unless HUB's key signed exactly this, asked without a line of ours."""
    parts = raw.split(b".")
    decoded = [base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)) for part in parts]
    assert [base64.urlsafe_b64encode(part).rstrip(b"=") for part in decoded] == parts, raw
    Ed25519PublicKey.from_public_bytes(HUB_KEY.public.raw).verify(decoded[2], b".".join(parts[:2]))


def target(data: bytes) -> None:
    """Take one input."""
    if not data:
        return
    mode, rest = data[0] % MODES, data[1:]
    typ = TYPES[data[0] // MODES % len(TYPES)]
    try:
        if mode == 0:
            verify(rest, TRUST.keyring, NOW_S)
            _check_accepted(rest)
        elif mode == 1:
            verify(sign(rest, typ=typ), TRUST.keyring, NOW_S)
            assert strict_json.parse(rest) == json.loads(rest, object_pairs_hook=_once)
        elif mode == 2:
            verify(sign({**claims(), **bodies()[typ]}, head=rest), TRUST.keyring, NOW_S)
            assert json.loads(rest, object_pairs_hook=_once) == header(json.loads(rest)["typ"])
        elif mode == 3:
            added = strict_json.parse(rest)
            if isinstance(added, dict):
                verify(sign({**claims(), **bodies()[typ]}, head={**header(typ), **added}), TRUST.keyring, NOW_S)
                assert added.items() <= header(added.get("typ", typ)).items(), added
        else:
            introduction = introduce(
                sign(rest, typ=EnvelopeType.JOIN), EnvelopeType.JOIN, audience=SPOKE, now_s=NOW_S, skew_s=60
            )
            assert introduction.key == HUB_KEY.public
    except EnvelopeRejected:
        return


def seeds() -> Iterator[bytes]:
    """Good envelopes of each type, in each mode."""
    for number, typ in enumerate(TYPES):
        payload = json.dumps({**claims(iss=HUB), **bodies()[typ]}).encode()
        yield bytes([number * MODES]) + sign(payload, typ=typ)
        yield bytes([number * MODES + 1]) + payload
        yield bytes([number * MODES + 2]) + json.dumps(header(typ)).encode()
        yield bytes([number * MODES + 3]) + b'{"typ":"%s"}' % typ.encode()
        yield bytes([number * MODES + 4]) + payload


if __name__ == "__main__":
    fuzz("codec", target, seeds(), plant())
