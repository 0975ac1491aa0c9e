"""Delivery: one task per spoke for which something waits, commands in order, as many per envelope as have gathered.

While an envelope is under way further commands wait and leave together; with nothing under way a command leaves at
once. A failed envelope goes again, freshly signed, after a jittered backoff, and at once when the spoke is heard of.
One envelope at a time per spoke, and nothing leaves the outbox before its answer is recorded: a hub that is killed at
any point sends the same command ids again (fault rows 2, 3, 15, 17).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from common.clock import Clock
from common.commands import MAX_COMMANDS
from common.errors import HubspokeError, Unavailable
from common.exchange import EnvelopeNotTaken
from common.inbox import TrustSource
from common.peers import Peer
from common.problem_codes import label_of
from hub.agents import Agents
from hub.backoff import delay_s
from hub.delivery import Delivery
from hub.metrics import Metrics
from hub.outbox import Failed, Outbox
from hub.settlement import GUILTY, Queued, Settlement, error_of, refuse, settle, shown_error

SCAN_S: Final = 1.0
_MIN_GAP_S: Final = 0.2
"""Between two attempts to a spoke that we hear of but cannot reach."""
SLOW_S: Final = 5.0
"""What went wrong after so long may have been too much for a slow way: the next envelope is half as large."""
_REVOKED: Final = shown_error("connection_inactive", "the spoke's connection was revoked", retryable=False)
_log: Final = structlog.get_logger("sender")


@dataclass(slots=True)
class _Lane:
    """What is known of the way to one spoke while there is work for it."""

    tenant: str
    failures: int = 0
    limit: int = MAX_COMMANDS
    work: asyncio.Event = field(default_factory=asyncio.Event)
    heard: asyncio.Event = field(default_factory=asyncio.Event)


class Sender:
    """Sends what the outbox holds; `run` is the task, `wake` and `heard` hurry it."""

    def __init__(
        self,
        outbox: Outbox,
        agents: Agents,
        delivery: Delivery,
        trust: TrustSource,
        clock: Clock,
        metrics: Metrics,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._outbox = outbox
        self._agents = agents
        self._delivery = delivery
        self._trust = trust
        self._clock = clock
        self._metrics = metrics
        self._jitter = jitter
        self._lanes: dict[str, _Lane] = {}
        self._due: set[str] = set()
        self._woken = asyncio.Event()

    def wake(self, tenant: str) -> None:
        """Say that something was enqueued for this tenant."""
        lane = self._lanes.get(tenant)
        if lane is None:
            self._due.add(tenant)
            self._woken.set()
        else:
            lane.work.set()

    def heard(self, tenant: str) -> None:
        """Say that the spoke is there: what is held back for it goes now. Nothing is, where it has no lane."""
        if lane := self._lanes.get(tenant):
            lane.heard.set()
            lane.work.set()

    def hurry(self, tenant: str) -> None:
        """Say that the spoke can be reached again, or that the operator wants a try: look what waits, send it now."""
        self.heard(tenant)
        self.wake(tenant)

    async def run(self) -> None:
        """Deliver until cancelled; what waits from before a restart is found by the first scan."""
        async with asyncio.TaskGroup() as group:
            scan_at = 0.0
            while True:
                if time.monotonic() >= scan_at:
                    await self._scan()
                    scan_at = time.monotonic() + SCAN_S
                self._start_lanes(group)
                with suppress(TimeoutError):
                    async with asyncio.timeout(scan_at - time.monotonic()):
                        await self._woken.wait()

    async def _scan(self) -> None:
        try:
            expired = await self._outbox.expire(self._clock.now_ms())
            self._due |= await self._outbox.tenants()
        except Unavailable as error:
            _log.warning("outbox.unavailable", reason=error.message)
            return
        for agent_id in expired:
            _log.info("command.expired", agent_id=agent_id, command_id=agent_id, outcome="expired")

    def _start_lanes(self, group: asyncio.TaskGroup) -> None:
        self._woken.clear()
        due, self._due = self._due, set()
        for tenant in due - self._lanes.keys():
            self._lanes[tenant] = lane = _Lane(tenant)
            group.create_task(self._work(lane), name=f"deliver {tenant}")

    async def _work(self, lane: _Lane) -> None:
        try:
            while await self._step(lane):
                pass
        except Unavailable as error:
            _log.warning("outbox.unavailable", peer=lane.tenant, reason=error.message)
        except Exception:
            # A mistake of ours about one spoke must not end the delivery to the others; the next scan tries again.
            _log.exception("delivery.crashed", peer=lane.tenant)
        finally:
            del self._lanes[lane.tenant]

    async def _step(self, lane: _Lane) -> bool:
        """Send one envelope; returns whether there may be more to do."""
        lane.work.clear()
        peer = self._active(lane.tenant)
        if peer is None:
            return False
        taken = await self._outbox.take(lane.tenant, self._clock.now_ms(), lane.limit)
        if peer.state != "active":
            await self._abandon(peer, taken.commands)
            return bool(taken.commands)
        if taken.commands:
            is_done = await self._deliver(lane, peer, taken.commands)
            # What was enqueued since has set `work`: to look again would cost more than most envelopes do.
            return not is_done or taken.left > 0 or taken.next_due_ms > 0 or lane.work.is_set()
        if not taken.next_due_ms:
            return lane.work.is_set()
        await _wait(lane.work, max(0.0, (taken.next_due_ms - self._clock.now_ms()) / 1000))
        return True

    def _active(self, tenant: str) -> Peer | None:
        """Return the tenant's peer, one in state `revoked` when that connection has ended, None while it rests."""
        instance, _, number = tenant.rpartition("_")
        peer = self._trust.current().find(instance)
        if peer is None or peer.tenant != tenant:
            return Peer(instance=instance, kind="spoke", state="revoked", connection=int(number), keys=())
        return peer if peer.state in {"active", "revoked"} else None

    async def _abandon(self, peer: Peer, commands: Sequence[Queued]) -> None:
        """Refuse what waits for a connection that has ended: a new one of the same id inherits nothing (attack 33)."""
        settlements = refuse(commands, _REVOKED)
        await self._agents.record(peer, settlements, self._clock.now_ms())
        self._report(peer, commands, settlements, 0.0)

    async def _deliver(self, lane: _Lane, peer: Peer, commands: Sequence[Queued]) -> bool:
        """Send and record the answer; returns whether none of these is to be sent again."""
        lane.heard.clear()
        started = time.monotonic()
        try:
            reply = await self._delivery.send(peer, commands)
            settlements = settle(commands, reply, self._clock.now_ms(), self._jitter)
        except HubspokeError as error:
            await self._failed(lane, peer, commands, error, started)
            return False
        await self._agents.record(peer, settlements, self._clock.now_ms())
        lane.failures = 0
        lane.limit = min(MAX_COMMANDS, lane.limit * 2)
        self._report(peer, commands, settlements, time.monotonic() - started)
        return all(settlement.outcome != "retry" for settlement in settlements)

    def _report(
        self, peer: Peer, commands: Sequence[Queued], settlements: Sequence[Settlement], duration_s: float
    ) -> None:
        duration_ms = round(duration_s * 1000, 1)
        self._metrics.envelopes_sent.labels("answered").inc()
        self._metrics.envelope_commands.observe(len(commands))
        self._metrics.delivery_seconds.observe(duration_s)
        _log.info(
            "envelope.sent", peer=peer.instance, commands=len(commands), outcome="answered", duration_ms=duration_ms
        )
        for outcome, count in Counter(settlement.outcome for settlement in settlements).items():
            self._metrics.commands_settled.labels(outcome).inc(count)
        log = _log.bind(peer=peer.instance, duration_ms=duration_ms)
        for command, settlement in zip(commands, settlements, strict=True):
            log.info(
                f"command.{settlement.outcome}",
                command_id=command.command_id,
                agent_id=command.agent_id or None,
                command=command.kind,
                outcome=settlement.outcome,
                reason=settlement.error["code"] if settlement.error else None,
            )

    async def _failed(
        self, lane: _Lane, peer: Peer, commands: Sequence[Queued], error: HubspokeError, started: float
    ) -> None:
        self._metrics.envelopes_sent.labels(label_of(error.code)).inc()
        _log.warning(
            "envelope.failed",
            peer=peer.instance,
            commands=len(commands),
            outcome="unknown" if isinstance(error, Unavailable) else "refused",
            code=error.code,
            reason=error.message,
            duration_ms=round((time.monotonic() - started) * 1000, 1),
        )
        if isinstance(error, EnvelopeNotTaken) and error.code in GUILTY:
            await self._find_guilty(lane, peer, commands, error)
        else:
            await self._back_off(lane, commands, error, started)

    async def _find_guilty(self, lane: _Lane, peer: Peer, commands: Sequence[Queued], error: EnvelopeNotTaken) -> None:
        """Send half as many next time; a command that is refused alone will never be taken."""
        if len(commands) > 1:
            lane.limit = len(commands) // 2
            return
        settlements = refuse(commands, shown_error(error.code, error.message, retryable=False))
        await self._agents.record(peer, settlements, self._clock.now_ms())
        self._report(peer, commands, settlements, 0.0)

    async def _back_off(self, lane: _Lane, commands: Sequence[Queued], error: HubspokeError, started: float) -> None:
        lane.failures += 1
        if time.monotonic() - started >= SLOW_S:
            lane.limit = max(1, len(commands) // 2)
        pause_s = delay_s(lane.failures, self._jitter())
        now_ms = self._clock.now_ms()
        failed = Failed(now_ms, lane.failures, now_ms + int(pause_s * 1000))
        await self._outbox.note_failure(lane.tenant, commands, error_of(error), failed)
        await _wait(lane.heard, pause_s)
        await asyncio.sleep(max(0.0, started + _MIN_GAP_S - time.monotonic()))


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
