"""Asks spokes about agents that have not ended as far as this hub knows: what was missed in an outage is learned.

A spoke tells each transition until the hub has acknowledged it, and never again. A hub whose store was restored from an
old copy would therefore show as running for ever what ended meanwhile, and a spoke whose store was lost says nothing of
what waited there. So it asks: at its start, when its store was lost, when a spoke opens a link, and every hour; who did
not answer is asked again. Asked, too, about spawns that expired here without an answer: one may have arrived, and in an
old copy has. The answers are recorded like any other. What the spoke does not know goes again under the
same id where it was queued, for then nothing of it had been started. Where it had begun, it ends here as `failed` with
`lost`: a spoke whose store was lost takes up what still runs before it answers anybody (ADR 9), so what it does not
know then it will never tell of. It is not started again: it may have done its work.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog

from common import strict_json
from common.agent_state import AgentStatus
from common.clock import Clock
from common.commands import MAX_COMMANDS
from common.envelope import EnvelopeType, Items, Result
from common.errors import HubspokeError, Unavailable
from common.exchange import Exchange
from common.ids import rfc3339
from common.inbox import TrustSource
from common.peers import Peer
from hub.agents import Agents, NoSuchAgent
from hub.outbox import Outbox
from hub.records import AgentRecord
from hub.sender import Sender
from hub.settlement import Settlement

ASK_EVERY_S: Final = 3600.0
_RETRY_S: Final = 60.0
"""After this long those are asked again who did not answer: after the loss of its store a spoke refuses for minutes."""
_GATHER_S: Final = 1.0
"""Spokes that come back together are asked together."""
_GAP_S: Final = 4.0
"""Between two rounds, however often links come and go."""
_PAGE: Final = 5000
_AT_ONCE: Final = 16
_SHOWN: Final = ("queued", "spawning", "running")
_UNANSWERED: Final = "expired"
_BEGUN: Final = frozenset({"spawning", "running"})
_NAMED: Final = 20
"""So many agents are named in one line of the log."""
_log: Final = structlog.get_logger("reconciling")


class Reconciling:
    """Asks; `run` is the task, `ask_all` and `heard` hurry it; `sender` is woken for what goes again."""

    def __init__(
        self, trust: TrustSource, agents: Agents, outbox: Outbox, exchange: Exchange, sender: Sender, clock: Clock
    ) -> None:
        self._trust = trust
        self._agents = agents
        self._outbox = outbox
        self._exchange = exchange
        self._sender = sender
        self._clock = clock
        self._unasked: set[str] = set()
        self._heard: set[str] = set()
        self._all = False
        self._wanted = asyncio.Event()

    def ask_all(self) -> None:
        """Say that what is known of all spokes may be old."""
        self._all = True
        self._wanted.set()

    def heard(self, tenant: str) -> None:
        """Say that a spoke has opened a link: it may have been away, and its store lost."""
        self._heard.add(tenant)
        self._wanted.set()

    async def run(self) -> None:
        """Ask until cancelled: at once, and whenever there is a reason."""
        self.ask_all()
        all_at = time.monotonic() + ASK_EVERY_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S):
                    await self._wanted.wait()
            if time.monotonic() >= all_at:
                self._all = True
                all_at = time.monotonic() + ASK_EVERY_S
            await asyncio.sleep(_GATHER_S)
            await self._pass()
            await asyncio.sleep(_GAP_S)

    async def _pass(self) -> None:
        only = None if self._all else self._heard | self._unasked
        if only is not None and not only:
            return
        # Expired ones may be many: a link that opens is no reason to go through them.
        shown = (*_SHOWN, _UNANSWERED) if only is None or only & self._unasked else _SHOWN
        self._all, self._heard = False, set()
        self._wanted.clear()
        try:
            for status in shown:
                await self._ask_about(status, only)
        except Unavailable as error:
            _log.warning("reconcile.unavailable", reason=error.message)
            self.ask_all()

    async def _ask_about(self, status: str, only: set[str] | None) -> None:
        after, more = "", True
        while more:
            after, living = await self._agents.living(status, after, _PAGE)
            more = bool(after)
            by_tenant: dict[str, list[str]] = defaultdict(list)
            for agent_id, tenant in living:
                if only is None or tenant in only:
                    by_tenant[tenant].append(agent_id)
            gate = asyncio.Semaphore(_AT_ONCE)
            await asyncio.gather(*(self._ask(gate, tenant, ids) for tenant, ids in by_tenant.items()))

    async def _ask(self, gate: asyncio.Semaphore, tenant: str, agent_ids: Sequence[str]) -> None:
        peer = self._trust.current().find(tenant.rpartition("_")[0])
        if peer is None or peer.tenant != tenant or peer.state != "active":
            return
        async with gate:
            for at in range(0, len(agent_ids), MAX_COMMANDS):
                if not await self._ask_spoke(peer, agent_ids[at : at + MAX_COMMANDS]):
                    return

    async def _ask_spoke(self, peer: Peer, agent_ids: Sequence[str]) -> bool:
        """Return whether the spoke answered; one that did not is asked when it is heard of."""
        commands = [{"id": self._clock.new_id(), "command": "status", "agentId": agent_id} for agent_id in agent_ids]
        try:
            reply = await self._exchange.send(
                peer, EnvelopeType.COMMAND, Items("commands", list(map(strict_json.encode, commands)))
            )
        except HubspokeError as error:
            self._unasked.add(peer.tenant)
            _log.info("reconcile.unanswered", peer=peer.instance, agents=len(agent_ids), reason=error.message)
            return False
        self._unasked.discard(peer.tenant)
        told = [_settle(*pair) for pair in zip(agent_ids, reply.results, strict=True)]
        news = [settlement for settlement in told if settlement is not None]
        if news:
            await self._agents.record(peer, news, self._clock.now_ms())
        unknown = [agent_id for agent_id, result in zip(agent_ids, reply.results, strict=True) if _is_unknown(result)]
        self._agents.begin_anew(peer.tenant, unknown)
        again = await self._outbox.resend(unknown, self._clock.now_ms())
        if again:
            # Once more: what was recorded meanwhile may have been recorded before.
            self._agents.begin_anew(peer.tenant, again)
            self._sender.wake(peer.tenant)
        lost = await self._end_lost(peer, [agent_id for agent_id in unknown if agent_id not in set(again)])
        _log.info(
            "reconcile.asked",
            peer=peer.instance,
            agents=len(agent_ids),
            answered=len(news),
            unknown=len(unknown),
            again=len(again),
            lost=lost,
        )
        return True

    async def _end_lost(self, peer: Peer, agent_ids: Sequence[str]) -> int:
        """End what had begun and its spoke does not know; returns how many agents that were."""
        now_ms = self._clock.now_ms()
        ends: list[Settlement] = []
        for agent_id in agent_ids:
            with suppress(NoSuchAgent):  # the retention let it go meanwhile
                if end := _lost(await self._agents.find(agent_id), now_ms):
                    ends.append(end)
        if ends:
            await self._agents.record(peer, ends, now_ms)
            _log.warning("reconcile.lost", peer=peer.instance, agents=[end.agent_id for end in ends][:_NAMED])
        return len(ends)


def _is_unknown(result: Result) -> bool:
    return result.error is not None and result.error.code == "not_found"


def _lost(record: AgentRecord, now_ms: int) -> Settlement | None:
    """Return the end of an agent that its spoke has forgotten; None where it may still come to something, or has ended.

    Its number is the next one: should the spoke have told of a change meanwhile, that counts and not this.
    """
    had_begun = record.status in _BEGUN or (record.status == "queued" and record.command is None)
    if record.agent is None or not had_begun or record.delivery["state"] != "delivered":
        return None
    end = {"status": "failed", "reason": "lost", "finishedAt": rfc3339(now_ms), "queue": None}
    told = AgentStatus.model_validate({**record.agent, **end, "seq": record.agent["seq"] + 1})
    return Settlement(record.agent_id, "answer", agent=told)


def _settle(agent_id: str, result: Result) -> Settlement | None:
    if result.agent is None or result.agent.agent_id != agent_id:
        return None
    return Settlement(agent_id, "answer", agent=result.agent)
