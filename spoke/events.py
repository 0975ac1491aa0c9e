"""Tells each hub of every transition of its agents: signed EVENTs, at least once, kept until a REPLY acknowledges them.

One task per hub, so that one that is away delays no other. A hub that does not answer is asked again after a jittered
pause that grows to 60 s, and at once when it has opened a link.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from common.envelope import EnvelopeType, Items, Result, batches
from common.errors import HubspokeError, Unavailable
from common.exchange import Exchange
from common.peers import Peer, Trust
from spoke.agent_record import TamperedRecord, encode_status
from spoke.queue import EVENTS_AT_ONCE, Queue
from spoke.queue_terms import PendingEvent

_log: Final = structlog.get_logger("events")
_POLL_S: Final = 1.0
_FIRST_PAUSE_S: Final = 0.5
_MAX_PAUSE_S: Final = 60.0


class Courier:
    """Carries the events of all hubs; it is told what is new (`changed`) and which hub is back (`reached`).

    `sent` hears how many events each answered envelope held.
    """

    def __init__(
        self, queue: Queue, exchange: Exchange, trust: Callable[[], Trust], sent: Callable[[int], None]
    ) -> None:
        self._sent = sent
        self._queue = queue
        self._exchange = exchange
        self._trust = trust
        self._wakes: dict[str, asyncio.Event] = {}
        self._back: dict[str, asyncio.Event] = {}

    def changed(self, tenant: str) -> None:
        """Take note that a tenant has events."""
        if wake := self._wakes.get(tenant):
            wake.set()

    def reached(self, tenant: str) -> None:
        """Take note that a hub is there: the pause after a failure is over."""
        if back := self._back.get(tenant):
            back.set()

    async def run(self) -> None:
        """Carry events until cancelled, with a task for every active hub."""
        tasks: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                hubs = {peer.tenant: peer for peer in self._hubs()}
                for tenant in tasks.keys() - hubs.keys():
                    tasks.pop(tenant).cancel()
                    del self._wakes[tenant], self._back[tenant]
                for tenant in hubs.keys() - tasks.keys():
                    self._wakes[tenant], self._back[tenant] = asyncio.Event(), asyncio.Event()
                    tasks[tenant] = group.create_task(self._serve(tenant, hubs[tenant].instance))
                await asyncio.sleep(_POLL_S)

    def _hubs(self) -> list[Peer]:
        try:
            return [peer for peer in self._trust().peers() if peer.kind == "hub" and peer.state == "active"]
        except Unavailable as error:
            _log.warning("trust.unavailable", reason=error.message)
            return []

    async def _serve(self, tenant: str, instance: str) -> None:
        pause_s = _FIRST_PAUSE_S
        wake, back = self._wakes[tenant], self._back[tenant]
        while True:
            back.clear()
            try:
                await self._send_all(tenant, instance)
            except HubspokeError as error:
                _log.warning("events.not_delivered", peer=instance, code=error.code, reason=error.message)
                await _wait_for(back, pause_s * (0.5 + random.random() / 2))  # noqa: S311  # spreads load, guards nothing
                pause_s = min(pause_s * 2, _MAX_PAUSE_S)
                continue
            pause_s = _FIRST_PAUSE_S
            await _wait_for(wake, _POLL_S)

    async def _send_all(self, tenant: str, instance: str) -> None:
        may_be_more = True
        while may_be_more and (events := await self._queue.pending_events(tenant)):
            peer = self._trust().find(instance)
            if peer is None or peer.tenant != tenant or peer.state != "active":
                return
            encoded = [_encode(event) for event in events]
            unreadable = [event for event, text in zip(events, encoded, strict=True) if text is None]
            if unreadable:
                await self._queue.acknowledge(tenant, unreadable)
                continue
            first = next(batches(text for text in encoded if text is not None))
            await self._send(peer, events[: len(first)], first)
            # Of what came since, the wake tells: to look again would cost as much as to send.
            may_be_more = len(first) < len(events) or len(events) == EVENTS_AT_ONCE

    async def _send(self, peer: Peer, events: Sequence[PendingEvent], encoded: Sequence[bytes]) -> None:
        reply = await self._exchange.send(peer, EnvelopeType.EVENT, Items("events", encoded))
        self._sent(len(encoded))
        settled = [event for event, result in zip(events, reply.results, strict=True) if _settles(result, event)]
        await self._queue.acknowledge(peer.tenant, settled)
        refused = [result.error.code for result in reply.results if result.error is not None]
        if refused:
            _log.warning("events.refused", peer=peer.instance, code=refused[0], count=len(refused))
        if not settled:
            raise Unavailable(f"{peer.instance} acknowledged none of {len(events)} events")


def _encode(event: PendingEvent) -> bytes | None:
    """Return the event as it is sent; None for one that none of our scripts wrote: it must not hold the others up."""
    try:
        return b'{"agent":%s}' % encode_status(event.fields)
    except TamperedRecord as error:
        _log.error("events.unreadable", entry=event.entry.decode(), reason=error.message)
        return None


def _settles(result: Result, event: PendingEvent) -> bool:
    """Whether the hub has the transition, or refuses it for good: then it is not sent again."""
    if result.id != event.agent_id:
        return False
    if result.error is not None:
        return not result.error.retryable
    return result.seq is not None and result.seq >= event.seq


async def _wait_for(wake: asyncio.Event, at_most_s: float) -> None:
    try:
        async with asyncio.timeout(at_most_s):
            await wake.wait()
    except TimeoutError:
        pass
    wake.clear()
