"""Fuzzes the codec: whatever comes, it is an envelope, or it is refused with `EnvelopeRejected`, and nothing else.

The first byte says how the rest is used: as it is, as the header or the payload of an envelope that is signed rightly,
or as an introduction. An accepted payload must mean to us what it means to the JSON parser of the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import atheris

with atheris.instrument_imports(include=["common"]):
    from common import strict_json
    from common.envelope import EnvelopeType, verify
    from common.errors import EnvelopeRejected
    from common.introduction import introduce
    from tests.envelopes import HUB, HUB_KEY, NOW_S, SPOKE, bodies, claims, header, sign, spoke_trust
    from tests.fuzz.fuzzing import fuzz

TYPES = list(EnvelopeType)
TRUST = spoke_trust()


def target(data: bytes) -> None:
    """Take one input."""
    if not data:
        return
    mode, rest = data[0] % 4, data[1:]
    typ = TYPES[data[0] // 4 % len(TYPES)]
    try:
        if mode == 0:
            verify(rest, TRUST.keyring, NOW_S)
        elif mode == 1:
            verify(sign(rest, typ=typ), TRUST.keyring, NOW_S)
            assert strict_json.parse(rest) == json.loads(rest)
        elif mode == 2:
            verify(sign({**claims(), **bodies()[typ]}, head=rest), TRUST.keyring, NOW_S)
            assert json.loads(rest) == header(json.loads(rest)["typ"])
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
        yield bytes([number * 4]) + sign(payload, typ=typ)
        yield bytes([number * 4 + 1]) + payload
        yield bytes([number * 4 + 2]) + json.dumps(header(typ)).encode()
        yield bytes([number * 4 + 3]) + payload


if __name__ == "__main__":
    fuzz("codec", target, seeds())
