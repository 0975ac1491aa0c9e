"""Envelopes: from received bytes to a `VerifiedEnvelope`, and from claims to signed bytes (PROTOCOL section 2).

One way in: shape, header, key lookup, **signature**, payload, ownership. `verify` either returns a
`VerifiedEnvelope`, which nothing else can construct, or raises `EnvelopeRejected`; there is no boolean to forget and
no flag to skip a step. Audience, connection, direction and window are the next checks, in `common.connection`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationError

from common import jose, strict_json
from common.agent_state import AgentStatus
from common.commands import MAX_COMMANDS, Command, parse_commands
from common.errors import BadSignature, EnvelopeRejected, Malformed
from common.keyring import Keyring
from common.own_form import read_own_form
from common.wire import Audience, InstanceId, Integer, Nonce, NotNull, StrictModel, Uuid7, first_problem

MAX_LIFETIME_S: Final = 300
DEFAULT_LIFETIME_S: Final = 60
MAX_ITEMS: Final = MAX_COMMANDS
ANYONE: Final = "any"
"""The audience of an IDENTITY envelope (PROTOCOL section 3)."""

# What of 1 MiB is left for the JSON of an array's items, after base64url, header, signature and claims.
MAX_ITEMS_BYTES: Final = jose.MAX_ENVELOPE_BYTES // 4 * 3 - 2048


TraceParent = Annotated[str, Field(pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]


class EnvelopeType(StrEnum):
    """The `typ` of the header."""

    COMMAND = "command+jwt"
    REPLY = "reply+jwt"
    EVENT = "event+jwt"
    HELLO = "hello+jwt"
    IDENTITY = "identity+jwt"
    JOIN = "join+jwt"
    ROTATE = "rotate+jwt"


class Claims(StrictModel):
    """The claims that every envelope carries; times are whole seconds since the epoch."""

    # No Literal[1]: that one takes true and 1.0 as well.
    v: Annotated[int, Field(ge=1, le=1)]
    iss: InstanceId
    aud: Audience
    jti: Uuid7
    iat: Integer
    exp: Integer
    traceparent: Annotated[TraceParent | None, NotNull] = None


class CommandError(StrictModel):
    """Why one command was refused."""

    code: Annotated[str, Field(max_length=64)]
    detail: str
    retryable: bool


class Slice(StrictModel):
    """A piece of a log or of a patch."""

    offset: Integer
    data: str
    next_offset: Integer
    eof: bool


class Result(StrictModel):
    """The answer to one command, event, JOIN or ROTATE: `id` and one of the others."""

    id: str
    agent: AgentStatus | None = None
    error: CommandError | None = None
    log: Slice | None = None
    diff: Slice | None = None
    connection: str | dict[str, Any] | None = None
    seq: Integer | None = None
    epoch: Integer | None = None


class CommandBody(StrictModel):
    """What a hub asks of a spoke; the commands are parsed by `common.commands`."""

    commands: list[Any]


class ReplyBody(StrictModel):
    """The answers to the envelope whose `jti` is `re`, in its order."""

    re: Uuid7
    results: Annotated[list[Result], Field(max_length=MAX_ITEMS)]


class Event(StrictModel):
    """One transition of an agent."""

    agent: AgentStatus


class EventBody(StrictModel):
    """What happened to the receiver's agents."""

    events: Annotated[list[Event], Field(min_length=1, max_length=MAX_ITEMS)]


class HelloBody(StrictModel):
    """One side of the link's handshake."""

    nonce: Nonce
    challenge: Nonce | None = None
    capacity: dict[str, Any] | None = None
    labels: dict[str, Any] | None = None


class IdentityClaim(StrictModel):
    """Who an instance says it is; the first key is the current one."""

    instance: InstanceId
    kind: Literal["hub", "spoke"]
    url: Annotated[str, Field(max_length=2048)] | None
    keys: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=8)]
    protocols: Annotated[list[int], Field(min_length=1, max_length=16)]


class IdentityBody(StrictModel):
    """The answer of `GET /federation/v1/identity`."""

    identity: IdentityClaim


class JoinBody(StrictModel):
    """A wish to be connected, with an invite or without."""

    identity: IdentityClaim
    invite: Uuid7 | None = None
    mac: Nonce | None = None


class RotateBody(StrictModel):
    """The next key of the sender, with the proof that it holds it."""

    next: dict[str, Any]
    epoch: Annotated[int, Field(ge=1)]
    proof: Annotated[str, Field(max_length=128)]


Body = CommandBody | ReplyBody | EventBody | HelloBody | IdentityBody | JoinBody | RotateBody

_BODIES: Final[Mapping[EnvelopeType, type[Body]]] = {
    EnvelopeType.COMMAND: CommandBody,
    EnvelopeType.REPLY: ReplyBody,
    EnvelopeType.EVENT: EventBody,
    EnvelopeType.HELLO: HelloBody,
    EnvelopeType.IDENTITY: IdentityBody,
    EnvelopeType.JOIN: JoinBody,
    EnvelopeType.ROTATE: RotateBody,
}


class _Reply(ReplyBody, Claims):
    """A whole payload."""


class _Events(EventBody, Claims):
    """A whole payload."""


_WHOLE: Final[Mapping[EnvelopeType, type[_Reply | _Events]]] = {
    EnvelopeType.REPLY: _Reply,
    EnvelopeType.EVENT: _Events,
}
"""Of what there are many in an envelope, and read by `own_form` where it can be."""
_FREE: Final = (b'"result":{', b'"connection":')
"""What may hold anything: an envelope with one of these is read strictly."""
_SEAL: Final = object()


class VerifiedEnvelope:
    """An envelope whose signature was made by a key of `claims.iss`: only `verify` makes one.

    `raw` is the exact bytes that came and were verified.
    """

    __slots__ = ("body", "claims", "commands", "kid", "raw", "typ")

    def __init__(
        self, seal: object, raw: bytes, jws: jose.CompactJws, typ: EnvelopeType, claims: Claims, body: Body
    ) -> None:
        if seal is not _SEAL:
            raise TypeError("a VerifiedEnvelope is made by verify() only")
        self.raw = raw
        self.typ = typ
        self.kid = jws.kid
        self.claims = claims
        self.body = body
        self.commands: tuple[Command, ...] = (
            tuple(parse_commands(body.commands)) if isinstance(body, CommandBody) else ()
        )


def parse_type(jws: jose.CompactJws) -> EnvelopeType:
    """Return the envelope's type; raises `Malformed` for one that the protocol does not know."""
    try:
        return EnvelopeType(jws.typ)
    except ValueError as error:
        raise Malformed("typ is none of the protocol's envelope types") from error


def parse_payload(typ: EnvelopeType, payload: bytes) -> tuple[Claims, Body]:
    """Read a payload whose signature has been checked; raises `Malformed` naming the first wrong member."""
    claims, body = _read_quickly(typ, payload) or _read_strictly(typ, payload)
    if not 0 < claims.exp - claims.iat <= MAX_LIFETIME_S:
        raise Malformed(f"exp must lie 1 to {MAX_LIFETIME_S} s after iat")
    return claims, body


def _read_quickly(typ: EnvelopeType, payload: bytes) -> tuple[Claims, Body] | None:
    model = _WHOLE.get(typ)
    if model is None or any(free in payload for free in _FREE):
        return None
    found = read_own_form(model, payload)
    return None if found is None else (found, found)


def _read_strictly(typ: EnvelopeType, payload: bytes) -> tuple[Claims, Body]:
    members = strict_json.parse(payload)
    if not isinstance(members, dict):
        raise Malformed("the payload is not a JSON object")
    of_claims = {name: members.pop(name) for name in Claims.model_fields if name in members}
    try:
        claims = Claims.model_validate(of_claims)
        # The Python names of members are ours; on the wire they are unknown members.
        body = _BODIES[typ].model_validate(members, by_alias=True, by_name=False)
    except ValidationError as error:
        raise Malformed(first_problem(error)) from error
    return claims, body


def check_window(claims: Claims, now_s: float, skew_s: int) -> None:
    """Raise `not_yet_valid` or `expired`, with this node's time in `now`, unless the claims hold at `now_s`."""
    now = {"now": int(now_s)}
    if claims.iat > now_s + skew_s:
        raise EnvelopeRejected("not_yet_valid", "iat lies in the future; compare the clocks", extra=now)
    if claims.exp <= now_s - skew_s:
        raise EnvelopeRejected("expired", "exp has passed; sign a fresh envelope, and compare the clocks", extra=now)


def verify(raw: bytes, keyring: Keyring, now_s: float) -> VerifiedEnvelope:
    """Check shape, signature, payload and ownership of received bytes; raises `EnvelopeRejected`."""
    jws = jose.parse_compact(raw)
    typ = parse_type(jws)
    owned = keyring.find(jws.kid, now_s)
    claims, body = parse_payload(typ, jws.verify(owned.key))
    if claims.iss != owned.owner:
        raise BadSignature("iss does not own the key that signed")
    return VerifiedEnvelope(_SEAL, raw, jws, typ, claims, body)


@dataclass(frozen=True, slots=True)
class Items:
    """The one array of a body, its items already encoded as JSON: nothing is encoded twice."""

    name: Literal["commands", "results", "events"]
    encoded: Sequence[bytes]

    def to_json(self) -> bytes:
        """Return the member `"name":[...]`."""
        return b'"%s":[%s]' % (self.name.encode(), b",".join(self.encoded))


def seal(
    signer: jose.Signer,
    typ: EnvelopeType,
    claims: Claims,
    fields: Mapping[str, Any],
    items: Items | None = None,
) -> bytes:
    """Sign an envelope of `claims`, the body's `fields` and its array of `items`; returns the compact JWS."""
    payload = strict_json.encode({**claims.model_dump(exclude_none=True), **fields})
    if items is not None:
        payload = payload[:-1] + b"," + items.to_json() + b"}"
    return jose.sign_compact(signer, typ, payload)


def check_fits(item: bytes) -> None:
    """Raise `too_large` for an encoded item that no envelope can carry; ask before a promise is made about it."""
    if len(item) > MAX_ITEMS_BYTES:
        raise EnvelopeRejected("too_large", f"one item has at most {MAX_ITEMS_BYTES} bytes of JSON; send less text")


def batches(encoded: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Cut encoded items into runs that fit one envelope each, by count and by size, keeping the order.

    Raises `too_large` at an item that fits no envelope (see `check_fits`), after the runs before it.
    """
    batch: list[bytes] = []
    size = 0
    for item in encoded:
        check_fits(item)
        if batch and (len(batch) == MAX_ITEMS or size + len(item) + 1 > MAX_ITEMS_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += len(item) + 1
    if batch:
        yield batch
