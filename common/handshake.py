"""The handshake of a link, decided from bytes (PROTOCOL section 3).

The hub sends a challenge; the spoke answers it in a signed HELLO that carries a challenge of its own; the hub answers
that one. A HELLO is admitted like any envelope (signature, audience, connection, direction, window) and must repeat the
challenge of this very link, so one that was recorded elsewhere opens nothing: it is `replayed`. What the spoke tells of
its capacity and labels is shown to people and decides nothing; what is not known there is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from common import strict_json
from common.agent_state import Count
from common.connection import Admitted
from common.envelope import Claims, EnvelopeType, HelloBody, seal
from common.errors import EnvelopeRejected, Malformed
from common.jose import Signer, encode_base64url
from common.peers import Peer
from common.wire import Nonce, StrictModel, TolerantModel, first_problem

LINK_PATH: Final = "/federation/v1/link"
SUBPROTOCOL: Final = "federation.v1"
NONCE_BYTES: Final = 32
ONLY_HELLO: Final = frozenset({EnvelopeType.HELLO})
"""What `admit` takes during the handshake, and at no other time."""
_MAX_LABELS: Final = 64
_MAX_LABEL: Final = 256


class Capacity(TolerantModel):
    """How many agents a spoke runs at once, and how many ran and waited when the link was opened."""

    agents: Count
    running: Count
    queued: Count


class _Challenge(StrictModel):
    challenge: Nonce


@dataclass(frozen=True, slots=True)
class Hello:
    """A HELLO that answered our challenge; `challenge` is the sender's own, empty in the hub's."""

    peer: Peer
    challenge: str
    capacity: Capacity | None
    labels: Mapping[str, str]


def encode_nonce(randomness: bytes) -> str:
    """Return 32 random bytes as a challenge."""
    if len(randomness) != NONCE_BYTES:
        raise ValueError(f"a challenge takes {NONCE_BYTES} random bytes, got {len(randomness)}")
    return encode_base64url(randomness).decode()


def encode_challenge(nonce: str) -> bytes:
    """Return the hub's first message."""
    return strict_json.encode({"challenge": nonce})


def parse_challenge(raw: bytes) -> str:
    """Return the challenge in the hub's first message; raises `Malformed`."""
    try:
        return _Challenge.model_validate(strict_json.parse(raw)).challenge
    except ValidationError as error:
        raise Malformed(f"the first message of a link is a challenge: {first_problem(error)}") from error


def make_hello(
    signer: Signer,
    claims: Claims,
    *,
    nonce: str,
    challenge: str | None = None,
    capacity: Capacity | None = None,
    labels: Mapping[str, str] | None = None,
) -> bytes:
    """Return a signed HELLO that answers `nonce`; the spoke's carries its own challenge."""
    told: dict[str, Any] = {
        "nonce": nonce,
        "challenge": challenge,
        "capacity": capacity and capacity.model_dump(by_alias=True),
        "labels": labels and dict(labels),
    }
    return seal(signer, EnvelopeType.HELLO, claims, {name: value for name, value in told.items() if value})


def check_hello(admitted: Admitted, nonce: str) -> Hello:
    """Return what an admitted HELLO says; raises `EnvelopeRejected` `replayed` when it answers another challenge."""
    body = admitted.envelope.body
    if not isinstance(body, HelloBody):
        raise TypeError("the handshake admits nothing but a HELLO")
    if body.nonce != nonce:
        raise EnvelopeRejected("replayed", "the HELLO does not answer the challenge of this link; dial again")
    return Hello(admitted.peer, body.challenge or "", _capacity(body), _labels(body))


def _capacity(body: HelloBody) -> Capacity | None:
    if body.capacity is None:
        return None
    try:
        return Capacity.model_validate(body.capacity)
    except ValidationError as error:
        raise Malformed(f"capacity: {first_problem(error)}") from error


def _labels(body: HelloBody) -> dict[str, str]:
    short = {
        name: value
        for name, value in (body.labels or {}).items()
        if isinstance(value, str) and max(len(name), len(value)) <= _MAX_LABEL
    }
    return dict(list(short.items())[:_MAX_LABELS])
