"""Sending: items out in signed envelopes, the peer's verified reply back. Both sides use it, over whatever carries
bytes.

A failure says whether the peer **refused** (`EnvelopeNotTaken`: it is wrong to think it acted) or whether nobody
knows (`Unavailable`: the same items must go again in a fresh envelope). Nothing that comes back is believed before
its signature was checked, except a refusal, which changes nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from common.clock import Clock
from common.connection import Node
from common.envelope import DEFAULT_LIFETIME_S, Claims, EnvelopeType, Items, ReplyBody, seal
from common.errors import PeerError
from common.inbox import Inbox
from common.jose import Signer
from common.keyring import NodeKeys, SigningKey
from common.peers import Peer
from common.trace_context import TraceContext, current

NO_FIELDS: Final[Mapping[str, Any]] = {}


class EnvelopeNotTaken(PeerError):
    """The peer refused a whole envelope of ours with this code; nothing of it took effect there."""

    def __init__(self, status: int, code: str, detail: str, now: object = None) -> None:
        super().__init__(detail, code=code)
        self.http_status = 502
        self.status = status
        self.now = now


class Transport(Protocol):
    """What carries an envelope to a peer and brings the answer's bytes back."""

    async def deliver(self, peer: Peer, raw: bytes) -> bytes:
        """Return the answer's bytes; raises `EnvelopeNotTaken` or `Unavailable`."""


class Exchange:
    """Signs as `me`, sends through a transport, takes only the reply that belongs to what was sent."""

    def __init__(self, me: Node, keys: NodeKeys, inbox: Inbox, transport: Transport, clock: Clock) -> None:
        self._me = me
        self._keys = keys
        self._inbox = inbox
        self._transport = transport
        self._clock = clock

    def claims(
        self, audience: str, lifetime_s: int = DEFAULT_LIFETIME_S, *, context: TraceContext | None = None
    ) -> Claims:
        """Return the claims of a fresh envelope of ours; what it asks for belongs to the span `context`."""
        now_s = self._clock.now_ms() // 1000
        given: dict[str, Any] = {} if context is None else {"traceparent": context.to_traceparent()}
        return Claims(
            v=1,
            iss=self._me.instance,
            aud=audience,
            jti=self._clock.new_id(),
            iat=now_s,
            exp=now_s + lifetime_s,
            **given,
        )

    async def send(self, peer: Peer, typ: EnvelopeType, items: Items) -> ReplyBody:
        """Send one envelope of at most 1000 items and return its reply, one result per item, in order.

        It belongs to the span within which this is called.
        Raises `EnvelopeNotTaken`, `BadReply`, `EnvelopeRejected` (a reply that is no good) or `Unavailable`.
        """
        signer = self._keys.signer_for(peer.instance)
        return await self._send(peer, typ, signer, NO_FIELDS, items, len(items.encoded))

    async def send_rotation(self, peer: Peer, signer: SigningKey, fields: Mapping[str, Any]) -> ReplyBody:
        """Send a ROTATE signed by `signer` and return its reply of one result; raises as `send` does."""
        return await self._send(peer, EnvelopeType.ROTATE, signer, fields, None, 1)

    async def _send(
        self, peer: Peer, typ: EnvelopeType, signer: Signer, fields: Mapping[str, Any], items: Items | None, count: int
    ) -> ReplyBody:
        claims = self.claims(peer.instance, context=current())
        answer = await self._transport.deliver(peer, seal(signer, typ, claims, fields, items))
        return self._inbox.admit_reply(
            answer, sent_to=peer.instance, re=claims.jti, count=count, now_s=self._clock.now_ms() / 1000
        )

    def reply(self, audience: str, re: str, results: Sequence[bytes]) -> bytes:
        """Return the signed REPLY to the envelope `re`."""
        return self._reply(self._keys.signer_for(audience), audience, re, results)

    def reply_to_join(self, audience: str, re: str, results: Sequence[bytes]) -> bytes:
        """Return the REPLY to a JOIN, under the key that our IDENTITY has just shown to its sender."""
        return self._reply(self._keys.current, audience, re, results)

    def _reply(self, signer: Signer, audience: str, re: str, results: Sequence[bytes]) -> bytes:
        return seal(signer, EnvelopeType.REPLY, self.claims(audience), {"re": re}, Items("results", results))
