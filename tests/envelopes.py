"""Keys, identities and envelopes for tests: good ones, and every way to sign what no sender of ours would.

`sign` takes any header and any payload bytes, so that a test can be wrong in exactly one place.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.connection import Node
from common.envelope import EnvelopeType
from common.ids import uuid7
from common.jose import encode_base64url
from common.keyring import OwnedKey, SigningKey
from common.peers import Peer, Trust

NOW_S: Final = 1_795_000_000
HUB: Final = "hub-eu"
SPOKE: Final = "build-1"


def key_of(seed: int) -> SigningKey:
    """The same key for the same seed."""
    return SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


HUB_KEY: Final = key_of(1)
SPOKE_KEY: Final = key_of(2)
OTHER_KEY: Final = key_of(3)

ME_SPOKE: Final = Node(SPOKE, "spoke")
ME_HUB: Final = Node(HUB, "hub")


def id_of(number: int, now_s: int = NOW_S) -> str:
    """The same UUIDv7 for the same number."""
    return uuid7(now_s * 1000, number.to_bytes(10, "big"))


def hub_peer(**changes: Any) -> Peer:
    """The hub as its spoke knows it."""
    return Peer(**{"instance": HUB, "kind": "hub", "state": "active", "connection": 1, "keys": _owned(HUB), **changes})


def spoke_peer(**changes: Any) -> Peer:
    """The spoke as its hub knows it."""
    of_spoke = {"instance": SPOKE, "kind": "spoke", "state": "active", "connection": 2, "keys": _owned(SPOKE)}
    return Peer(**{**of_spoke, **changes})


def _owned(instance: str) -> tuple[OwnedKey, ...]:
    return (OwnedKey(instance, {HUB: HUB_KEY, SPOKE: SPOKE_KEY}[instance].public),)


def spoke_trust(**changes: Any) -> Trust:
    """The trust of the spoke: the hub, changed as asked."""
    return Trust([hub_peer(**changes)])


def claims(**changes: Any) -> dict[str, Any]:
    """Claims of the hub to the spoke, in the window at NOW_S."""
    good = {"v": 1, "iss": HUB, "aud": SPOKE, "jti": id_of(1), "iat": NOW_S, "exp": NOW_S + 60}
    return {**good, **changes}


def spawn(**changes: Any) -> dict[str, Any]:
    """A spawn with every member given, the optional ones with other values than their defaults."""
    good = {
        "id": id_of(2),
        "command": "spawn",
        "taskId": "T-42",
        "agentType": "worker",
        "context": {
            "repository": "https://git.example.org/team/app.git",
            "branch": "main",
            "workItems": ["fix the login redirect"],
            "skills": ["python"],
        },
        "priority": 4,
        "timeoutS": 1800,
        "maxAttempts": 2,
    }
    return {**good, **changes}


def agent_status(**changes: Any) -> dict[str, Any]:
    """A complete AgentStatus as it goes over the wire."""
    good = {
        "agentId": id_of(2),
        "taskId": "T-42",
        "agentType": "worker",
        "status": "killed",
        "seq": 4,
        "attempt": 1,
        "queuedAt": "2026-11-22T08:00:00.000Z",
        "startedAt": "2026-11-22T08:00:01.000Z",
        "finishedAt": "2026-11-22T08:00:02.000Z",
        "reason": "killed_by_peer",
        "exitCode": 3,
        "signal": "SIGTERM",
        "result": {"summary": "half done"},
        "granted": {"priority": 5, "timeoutS": 3600, "maxAttempts": 3},
        "queue": {"position": 1, "waitingFor": "slot"},
        "receipt": {"signals": [{"signal": "SIGTERM", "at": "2026-11-22T08:00:02.000Z"}], "survivors": 0},
    }
    return {**good, **changes}


TRACE: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NONCE: Final = "A" * 43
IDENTITY: Final[Mapping[str, Any]] = MappingProxyType(
    {"instance": HUB, "kind": "hub", "url": None, "keys": [HUB_KEY.public.to_jwk()], "protocols": [1]}
)


def bodies() -> dict[EnvelopeType, dict[str, Any]]:
    """A complete body of each type of envelope."""
    identity = dict(IDENTITY)
    return {
        EnvelopeType.COMMAND: {"commands": [spawn()]},
        EnvelopeType.REPLY: {"re": id_of(1), "results": [{"id": id_of(2), "agent": agent_status()}]},
        EnvelopeType.EVENT: {"events": [{"agent": agent_status()}]},
        EnvelopeType.HELLO: {"nonce": NONCE, "challenge": NONCE, "capacity": {"agents": 1}, "labels": {"a": "b"}},
        EnvelopeType.IDENTITY: {"identity": identity},
        EnvelopeType.JOIN: {"identity": identity, "invite": id_of(4), "mac": NONCE},
        EnvelopeType.ROTATE: {"next": HUB_KEY.public.to_jwk(), "epoch": 1, "proof": "A" * 86},
    }


def command(*commands: Any, **changes: Any) -> dict[str, Any]:
    """The payload of a COMMAND."""
    return {**claims(), "commands": list(commands) or [spawn()], **changes}


def header(typ: Any = "command+jwt", key: SigningKey = HUB_KEY, **changes: Any) -> dict[str, Any]:
    """The three members of a good header, changed as asked; a change to `...` leaves the member out."""
    members = {"alg": "Ed25519", "kid": key.kid, "typ": typ, **changes}
    return {name: value for name, value in members.items() if value is not ...}


def to_bytes(value: bytes | Mapping[str, Any]) -> bytes:
    """JSON of a mapping; bytes as they are."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def sign(
    payload: bytes | Mapping[str, Any],
    *,
    key: SigningKey = HUB_KEY,
    head: bytes | Mapping[str, Any] | None = None,
    typ: str = "command+jwt",
) -> bytes:
    """Sign whatever is given as a compact JWS, without any check."""
    of_header = header(typ, key) if head is None else head
    signing_input = encode_base64url(to_bytes(of_header)) + b"." + encode_base64url(to_bytes(payload))
    return signing_input + b"." + encode_base64url(key.sign(signing_input))


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every member of every object in `value` is."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield (*path, name)
            yield from paths(member, (*path, name))
    elif isinstance(value, list):
        for number, member in enumerate(value):
            yield from paths(member, (*path, number))


def edited(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with the member at `path` set to `new`, or dropped for `...`."""
    changed = copy.deepcopy(value)
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    if new is ...:
        del holder[path[-1]]
    else:
        holder[path[-1]] = new
    return changed
