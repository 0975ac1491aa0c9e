"""The one way in for envelopes, whichever transport brought the bytes.

`Inbox.admit` takes the checks of PROTOCOL section 3 up to the window, against the trust as it is at that moment and
with one reading of the clock. What it returns may be acted on; rate, replay and effect follow in one step in the
store.
"""

from __future__ import annotations

from typing import Protocol

from common.connection import Admitted, Node, admit
from common.envelope import EnvelopeType, ReplyBody, verify
from common.errors import PeerError
from common.handshake import ONLY_HELLO, Hello, check_hello
from common.peers import Trust

_ONLY_REPLY = frozenset({EnvelopeType.REPLY})


class TrustSource(Protocol):
    """Where trust is kept: `common.trust_store.TrustStore`."""

    def current(self) -> Trust:
        """Return the trust as last committed by any process of this node."""


class BadReply(PeerError):
    """A peer answered our request with something that is no answer to it (attack row 49)."""

    code = "bad_reply"
    http_status = 502


class Inbox:
    """Admits received bytes for one node."""

    def __init__(self, me: Node, trust: TrustSource) -> None:
        self._me = me
        self._trust = trust

    def admit(self, raw: bytes, now_s: float) -> Admitted:
        """Return the admitted envelope; raises `EnvelopeRejected`."""
        trust = self._trust.current()
        return admit(verify(raw, trust.keyring, now_s), trust, self._me, now_s)

    def admit_hello(self, raw: bytes, *, nonce: str, now_s: float) -> Hello:
        """Return a peer's HELLO that answers our challenge `nonce`; raises `EnvelopeRejected`."""
        trust = self._trust.current()
        return check_hello(admit(verify(raw, trust.keyring, now_s), trust, self._me, now_s, ONLY_HELLO), nonce)

    def admit_reply(self, raw: bytes, *, sent_to: str, re: str, count: int, now_s: float) -> ReplyBody:
        """Return the reply of `sent_to` to our envelope `re` of `count` items.

        Raises `BadReply` when it answers something else, `EnvelopeRejected` when it is no good envelope.
        """
        trust = self._trust.current()
        envelope = admit(verify(raw, trust.keyring, now_s), trust, self._me, now_s, _ONLY_REPLY).envelope
        body = envelope.body
        if not isinstance(body, ReplyBody) or envelope.claims.iss != sent_to:
            raise BadReply(f"the answer is not a reply of {sent_to}")
        if body.re != re or len(body.results) != count:
            raise BadReply(f"the reply of {sent_to} answers another envelope")
        return body
