"""What spokes send by themselves: EVENT envelopes, admitted, recorded with their replay mark in one step, acknowledged.

An event for an agent of another spoke is answered with `not_allowed` for that event alone, and changes nothing (attack
38). The acknowledgement goes out only after Valkey has what was said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common import strict_json
from common.clock import Clock
from common.connection import Node
from common.envelope import EventBody
from common.errors import COMMAND_RETRYABLE, EnvelopeRejected
from common.exchange import Exchange
from common.inbox import Inbox
from hub.agents import Agents, ReplayMark
from hub.metrics import Metrics
from hub.settlement import Settlement, of_events

_FOREIGN = {
    "code": "not_allowed",
    "detail": "this agent is not of this connection",
    "retryable": COMMAND_RETRYABLE["not_allowed"],
}


class Intake:
    """Takes envelopes of spokes; both transports end here. `heard` is told the tenant of every good one."""

    def __init__(
        self,
        me: Node,
        inbox: Inbox,
        agents: Agents,
        exchange: Exchange,
        clock: Clock,
        metrics: Metrics,
        heard: Callable[[str], None],
    ) -> None:
        self._me = me
        self._inbox = inbox
        self._agents = agents
        self._exchange = exchange
        self._clock = clock
        self._metrics = metrics
        self._heard = heard

    async def take(self, raw: bytes) -> tuple[bytes, dict[str, Any]]:
        """Return the REPLY to a received envelope and what to log of it; raises `EnvelopeRejected`, `Unavailable`."""
        now_ms = self._clock.now_ms()
        admitted = self._inbox.admit(raw, now_ms / 1000)
        envelope, peer = admitted.envelope, admitted.peer
        if not isinstance(envelope.body, EventBody):
            raise EnvelopeRejected("wrong_direction", f"a hub does not take {envelope.typ} here")
        settlements = of_events(envelope.body.events)
        mark = ReplayMark.of(envelope.claims, now_ms, self._me.skew_s)
        own = await self._agents.record(peer, settlements, now_ms, mark)
        self._heard(peer.tenant)
        self._metrics.events.inc(sum(own))
        results = [_acknowledge(*pair) for pair in zip(settlements, own, strict=True)]
        reply = self._exchange.reply(peer.instance, envelope.claims.jti, results)
        return reply, {
            "peer": peer.instance,
            "jti": envelope.claims.jti,
            "events": len(own),
            "foreign": own.count(False),
        }


def _acknowledge(event: Settlement, own: bool) -> bytes:
    if not own or event.agent is None:
        return strict_json.encode({"id": event.agent_id, "error": _FOREIGN})
    return strict_json.encode({"id": event.agent_id, "seq": event.agent.seq})
