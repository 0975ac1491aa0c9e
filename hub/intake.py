"""What spokes send by themselves: EVENTs, recorded with their replay mark in one step and acknowledged, and ROTATEs.

An event for an agent of another spoke is answered with `not_allowed` for that event alone, and changes nothing (attack
38). The acknowledgement goes out only after Valkey has what was said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from common import strict_json
from common.audit_file import Audit
from common.clock import Clock
from common.connection import Admitted, Node
from common.envelope import EventBody
from common.errors import COMMAND_RETRYABLE, sent_by
from common.exchange import Exchange
from common.inbox import Inbox
from common.metric_table import timed
from common.rotating import RotationIntake
from hub.agents import Agents, ReplayMark
from hub.metrics import Metrics
from hub.settlement import Settlement, of_events

_FOREIGN = {
    "code": "not_allowed",
    "detail": "this agent is not of this connection, or more is told of it than this hub keeps",
    "retryable": COMMAND_RETRYABLE["not_allowed"],
}


@dataclass(frozen=True, slots=True)
class Intake:
    """Takes envelopes of spokes; both transports end here. `heard` is told the tenant of every good one."""

    me: Node
    inbox: Inbox
    agents: Agents
    exchange: Exchange
    clock: Clock
    metrics: Metrics
    rotations: RotationIntake
    audit: Audit
    heard: Callable[[str], None]

    async def take(self, raw: bytes) -> tuple[bytes, dict[str, Any]]:
        """Return the REPLY to a received envelope and what to log of it; raises `EnvelopeRejected`, `Unavailable`."""
        with timed(self.metrics.accept_seconds):
            return await self._take(raw)

    async def _take(self, raw: bytes) -> tuple[bytes, dict[str, Any]]:
        now_ms = self.clock.now_ms()
        admitted = self.inbox.admit(raw, now_ms / 1000)
        mark = ReplayMark.of(admitted.envelope.claims, now_ms, self.me.skew_s)
        body = admitted.envelope.body
        with sent_by(admitted.peer.instance):
            if isinstance(body, EventBody):
                return await self._take_events(admitted, body, mark, now_ms)
            return await self._take_rotation(admitted, mark)

    async def _take_events(
        self, admitted: Admitted, body: EventBody, mark: ReplayMark, now_ms: int
    ) -> tuple[bytes, dict[str, Any]]:
        envelope, peer = admitted.envelope, admitted.peer
        settlements = of_events(body.events)
        own = await self.agents.record(peer, settlements, now_ms, mark)
        foreign = [settlement.agent_id for settlement, is_own in zip(settlements, own, strict=True) if not is_own]
        await self.audit.record(
            "events.taken",
            peer=peer.instance,
            kid=envelope.kid,
            jti=envelope.claims.jti,
            agents=[settlement.agent_id for settlement in settlements],
            foreign=foreign or None,
        )
        self.heard(peer.tenant)
        self.metrics.events.inc(sum(own))
        self.metrics.envelope_events.observe(len(own))
        results = [_acknowledge(*pair) for pair in zip(settlements, own, strict=True)]
        reply = self.exchange.reply(peer.instance, envelope.claims.jti, results)
        return reply, {
            "peer": peer.instance,
            "jti": envelope.claims.jti,
            "events": len(own),
            "foreign": own.count(False),
        }

    async def _take_rotation(self, admitted: Admitted, mark: ReplayMark) -> tuple[bytes, dict[str, Any]]:
        self.rotations.check(admitted)
        await self.agents.mark(mark)
        result = self.rotations.take(admitted)
        instance, jti = admitted.peer.instance, admitted.envelope.claims.jti
        return self.exchange.reply(instance, jti, [result]), {"peer": instance, "jti": jti, "kind": "rotate"}


def _acknowledge(event: Settlement, own: bool) -> bytes:
    if not own or event.agent is None:
        return strict_json.encode({"id": event.agent_id, "error": _FOREIGN})
    return b'{"id":"%s","seq":%d}' % (event.agent_id.encode(), event.agent.seq)  # an id has nothing to escape
