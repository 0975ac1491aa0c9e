"""ROTATEs of hubs: rate and replay in the queue's store like any envelope, then the new key in the trust store."""

from __future__ import annotations

from collections.abc import Callable

from common.connection import Admitted
from common.exchange import Exchange
from common.peers import Peer
from common.rotating import RotationIntake
from spoke.policy import Policy
from spoke.queue import Queue
from spoke.queue_terms import Sender


class Rotating:
    """Answers ROTATE envelopes."""

    def __init__(
        self, queue: Queue, rotations: RotationIntake, exchange: Exchange, policy_of: Callable[[Peer], Policy]
    ) -> None:
        self._queue = queue
        self._rotations = rotations
        self._exchange = exchange
        self._policy_of = policy_of

    async def answer(self, admitted: Admitted) -> bytes:
        """Take the hub's next key and return the REPLY; raises `EnvelopeRejected`, `RateLimited`, `Unavailable`."""
        envelope, peer = admitted.envelope, admitted.peer
        self._queue.store.check_signed(envelope.claims.iat)
        self._rotations.check(admitted)
        sender = Sender(peer.tenant, peer.instance, self._policy_of(peer))
        await self._queue.accept(sender, envelope.claims.jti, envelope.raw, [])
        # A crash here leaves a marked envelope without effect; the hub tells the same rotation again in a fresh one.
        result = self._rotations.take(admitted)
        return self._exchange.reply(peer.instance, envelope.claims.jti, [result])
