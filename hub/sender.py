"""Delivery: one task per spoke for which something waits, commands in order, as many per envelope as have gathered.

While an envelope is under way further commands wait and leave together; with nothing under way a command leaves at
once, also while the answer to the envelope before is being recorded. A failed one goes again, freshly signed, after a
jittered backoff, and at once when the spoke is heard of. One envelope at a time per spoke, and nothing leaves the
outbox before its answer is recorded: a hub that is killed at any point sends the same command ids again (fault rows
2, 3, 15, 17).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from common import logs
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
from hub.lane import Handed, Lane
from hub.metrics import Metrics
from hub.outbox import Failed, Outbox, Taken
from hub.settlement import GUILTY, Queued, Settlement, error_of, refuse, settle, shown_error

SCAN_S: Final = 1.0
_LINGER_S: Final = 10.0
"""So long a lane stays open with nothing to send: what comes meanwhile needs no reading of the outbox."""
_MIN_GAP_S: Final = 0.2
"""Between two attempts to a spoke that we hear of but cannot reach."""
SLOW_S: Final = 5.0
"""What went wrong after so long may have been too much for a slow way: the next envelope is half as large."""
_SETTLED: Final = ("command_id", "agent_id", "command", "reason")
_REVOKED: Final = shown_error("connection_inactive", "the spoke's connection was revoked", retryable=False)
_log: Final = structlog.get_logger("sender")


class Sender:
    """Sends what the outbox holds; `run` is the task, `hand`, `wake` and `heard` hurry it."""

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
        self._lanes: dict[str, Lane] = {}
        self._due: set[str] = set()
        self._woken = asyncio.Event()

    def wake(self, tenant: str) -> None:
        """Say that something is in the outbox for this tenant."""
        if lane := self._lanes.get(tenant):
            lane.look()
        else:
            self._due.add(tenant)
            self._woken.set()

    def hand(self, tenant: str, commands: Sequence[Handed]) -> None:
        """Say which spawns were just enqueued for this tenant; to be called in the order of the outbox."""
        if lane := self._lanes.get(tenant):
            lane.hand(commands)
        else:
            self.wake(tenant)

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
            tenants = await self._outbox.tenants()
        except Unavailable as error:
            _log.warning("outbox.unavailable", reason=error.message)
            return
        for tenant in tenants:
            lane = self._lanes.get(tenant)
            # One that reads the outbox anyway knows when the next command is due.
            if lane is None or lane.is_complete:
                self.wake(tenant)
        if expired:
            # Whatever the clock says by then: what was handed over and has expired does not go.
            for lane in self._lanes.values():
                lane.look()
        for agent_id in expired:
            _log.info("command.expired", agent_id=agent_id, command_id=agent_id, outcome="expired")

    def _start_lanes(self, group: asyncio.TaskGroup) -> None:
        self._woken.clear()
        due, self._due = self._due, set()
        for tenant in due - self._lanes.keys():
            self._lanes[tenant] = lane = Lane(tenant)
            group.create_task(self._work(lane), name=f"deliver {tenant}")

    async def _work(self, lane: Lane) -> None:
        try:
            await self._go_on(lane)
        except Unavailable as error:
            _log.warning("outbox.unavailable", peer=lane.tenant, reason=error.message)
        except Exception:
            # A mistake of ours about one spoke must not end the delivery to the others; the next scan tries again.
            _log.exception("delivery.crashed", peer=lane.tenant)
        finally:
            del self._lanes[lane.tenant]

    async def _go_on(self, lane: Lane) -> None:
        try:
            while await self._step(lane):
                pass
        except BaseException:
            try:
                await lane.recorded()
            except Unavailable as error:  # must not take the place of what ended the lane
                _log.warning("outbox.unavailable", peer=lane.tenant, reason=error.message)
            raise
        await lane.recorded()

    async def _step(self, lane: Lane) -> bool:
        """Send one envelope; returns whether there may be more to do."""
        lane.work.clear()
        if lane.is_idle:
            return await _wait(lane.work, _LINGER_S)
        peer = self._active(lane.tenant)
        if peer is None:
            return False
        if peer.state != "active":
            return await self._abandon(lane, peer)
        taken = await self._next(lane)
        if taken.commands:
            await self._deliver(lane, peer, taken.commands)
            return True
        if taken.next_due_ms:
            await _wait(lane.work, max(0.0, (taken.next_due_ms - self._clock.now_ms()) / 1000))
            return True
        # What could not be recorded is still in the outbox: the next scan finds it, and the reading then says why.
        return await _wait(lane.work, _LINGER_S)

    async def _next(self, lane: Lane) -> Taken:
        """Return what goes next: of what was handed over, or, where that may not be all, what the outbox says."""
        if lane.is_complete:
            return Taken(lane.following(self._clock.now_ms()), 0, 0)
        await lane.recorded()  # what is answered and not recorded yet is still in there
        lane.begin_reading()
        taken = await self._outbox.take(lane.tenant, self._clock.now_ms(), lane.limit)
        lane.has_read(taken)
        return taken

    def _active(self, tenant: str) -> Peer | None:
        """Return the tenant's peer, one in state `revoked` when that connection has ended, None while it rests."""
        instance, _, number = tenant.rpartition("_")
        peer = self._trust.current().find(instance)
        if peer is None or peer.tenant != tenant:
            return Peer(instance=instance, kind="spoke", state="revoked", connection=int(number), keys=())
        return peer if peer.state in {"active", "revoked"} else None

    async def _abandon(self, lane: Lane, peer: Peer) -> bool:
        """Refuse what waits for a connection that has ended: a new one of the same id inherits nothing (attack 33)."""
        lane.look()
        commands = (await self._next(lane)).commands
        await self._record(peer, commands, refuse(commands, _REVOKED), 0.0)
        return bool(commands)

    async def _deliver(self, lane: Lane, peer: Peer, commands: Sequence[Queued]) -> None:
        """Send, and let the answer be recorded while the next envelope is under way."""
        lane.heard.clear()
        started = time.monotonic()
        try:
            reply = await self._delivery.send(peer, commands)
            settlements = settle(commands, reply, self._clock.now_ms(), self._jitter)
        except HubspokeError as error:
            await lane.recorded()
            await self._failed(lane, peer, commands, error, started)
            lane.look()
            return
        lane.failures = 0
        lane.limit = min(MAX_COMMANDS, lane.limit * 2)
        await lane.record(self._record(peer, commands, settlements, time.monotonic() - started))
        if any(settlement.outcome == "retry" for settlement in settlements):
            lane.look()

    async def _record(
        self, peer: Peer, commands: Sequence[Queued], settlements: Sequence[Settlement], duration_s: float
    ) -> None:
        if commands:
            await self._agents.record(peer, settlements, self._clock.now_ms())
            self._report(peer, commands, settlements, duration_s)

    def _report(
        self, peer: Peer, commands: Sequence[Queued], settlements: Sequence[Settlement], duration_s: float
    ) -> None:
        self._metrics.envelopes_sent.labels("answered").inc()
        self._metrics.envelope_commands.observe(len(commands))
        self._metrics.delivery_seconds.observe(duration_s)
        settled = defaultdict[str, list[Sequence[str | None]]](list)
        for command, settlement in zip(commands, settlements, strict=True):
            reason = settlement.error["code"] if settlement.error else None
            row = (command.command_id, command.agent_id or None, command.kind, reason)
            settled[settlement.outcome].append(row)
        write = partial(_log.info, peer=peer.instance, duration_ms=round(duration_s * 1000, 1))
        with logs.together():
            write("envelope.sent", commands=len(commands), outcome="answered")
            for outcome, rows in settled.items():
                self._metrics.commands_settled.labels(outcome).inc(len(rows))
                logs.many(partial(write, outcome=outcome), f"command.{outcome}", _SETTLED, rows)

    async def _failed(
        self, lane: Lane, peer: Peer, commands: Sequence[Queued], error: HubspokeError, started: float
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

    async def _find_guilty(self, lane: Lane, peer: Peer, commands: Sequence[Queued], error: EnvelopeNotTaken) -> None:
        """Send half as many next time; a command that is refused alone will never be taken."""
        if len(commands) > 1:
            lane.limit = len(commands) // 2
            return
        settlements = refuse(commands, shown_error(error.code, error.message, retryable=False))
        await self._record(peer, commands, settlements, 0.0)

    async def _back_off(self, lane: Lane, commands: Sequence[Queued], error: HubspokeError, started: float) -> None:
        lane.failures += 1
        if time.monotonic() - started >= SLOW_S:
            lane.limit = max(1, len(commands) // 2)
        pause_s = delay_s(lane.failures, self._jitter())
        now_ms = self._clock.now_ms()
        failed = Failed(now_ms, lane.failures, now_ms + int(pause_s * 1000))
        await self._outbox.note_failure(lane.tenant, commands, error_of(error), failed)
        await _wait(lane.heard, pause_s)
        await asyncio.sleep(max(0.0, started + _MIN_GAP_S - time.monotonic()))


async def _wait(event: asyncio.Event, timeout_s: float) -> bool:
    """Return whether it was set in that time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()
