"""The worker: claims agents while there is room, keeps their leases, hears of kills, takes over what others left.

Owns no agent: those belong to their keepers and go on when the worker ends. Everything in the background lives in one
task group. At its start it takes over at once what an earlier life of the same spoke held; later what has outlived
its lease.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

import structlog

from common.errors import Unavailable
from spoke.agent_record import AgentRef
from spoke.attendant import Attendant
from spoke.held import Held
from spoke.lease_watch import LeaseWatch
from spoke.occupancy import Occupancy
from spoke.queue import LEASE_MS, Queue
from spoke.queue_terms import Claim

_log: Final = structlog.get_logger("worker")
_POLL_S: Final = 1.0
_RENEW_S: Final = LEASE_MS / 3000
_LOOK_S: Final = _RENEW_S
_MAX_GAP_S: Final = 2.5 * _LOOK_S
_UNAVAILABLE_PAUSE_S: Final = 0.5


class Worker:
    """One worker of a spoke. `node` names its place in the directory it serves, `life` this process's turn."""

    def __init__(
        self,
        queue: Queue,
        attendant: Attendant,
        limits: Callable[[], Mapping[str, int]],
        *,
        node: str,
        life: str,
        occupancy: Occupancy,
    ) -> None:
        self._queue = queue
        self._attendant = attendant
        self._limits = limits
        self._node = f"{node}:"
        self._name = f"{node}:{life}"
        self._held: dict[AgentRef, Held] = {}
        self._occupancy = occupancy
        self._wake = asyncio.Event()
        self._renew_now = asyncio.Event()
        self._look_now = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled; then give back what was not started and leave the rest running."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._renew_leases())
                group.create_task(self._reclaim(group))
                group.create_task(self._claim(group))
        finally:
            await self._give_back()

    async def _give_back(self) -> None:
        try:
            for held in self._held.values():
                await self._attendant.give_back(held)
        except Unavailable as error:
            _log.warning("worker.left_claims", reason=error.message)

    def heard(self, channel: str, message: str) -> None:
        """Take a message of the scripts: there is something to claim, or an agent is to be killed."""
        if channel == "wake":
            self._wake.set()
        elif channel == "kills" and AgentRef.parse(message) in self._held:
            self._renew_now.set()

    async def _claim(self, group: asyncio.TaskGroup) -> None:
        due_at = 0.0
        while True:
            try:
                # What comes while the spoke is full of what we hold need not be asked for. Now and then it is all the
                # same: the script also brings back what waited out its pause.
                while self._has_room or time.monotonic() >= due_at:
                    claim = await self._take(self._queue.claim(self._name, self._limits()))
                    if claim is None:
                        due_at = time.monotonic() + _POLL_S
                        break
                    self._attend(group, claim, resumed=False)
            except Unavailable as error:
                await self._pause(error)
            await _wait_until(self._wake, _POLL_S)

    @property
    def _has_room(self) -> bool:
        return sum(not held.is_over for held in self._held.values()) < self._queue.bounds.agents

    async def _reclaim(self, group: asyncio.TaskGroup) -> None:
        watch = LeaseWatch(LEASE_MS / 1000, _MAX_GAP_S)
        while True:
            try:
                abandoned = watch.look(await self._others(), time.monotonic())
                # No other life of this worker can be there: it would hold its lock.
                while claim := await self._take(self._queue.reclaim(self._name, self._node, abandoned)):
                    cause = "stood_still" if str(claim.record.ref) in abandoned else "restart"
                    self._attend(group, claim, resumed=True)
                    _log.warning("lease.taken_over", cause=cause)
                    await self._queue.count_takeover(cause)
                await _wait_until(self._look_now, _LOOK_S)
            except Unavailable as error:
                watch.forget()
                await self._pause(error)

    async def _others(self) -> dict[str, int]:
        """Return the leases that we do not hold: one of our own is not taken over, however late we renew it."""
        leases = await self._queue.leases()
        mine = {str(ref) for ref in self._held}
        return {member: deadline for member, deadline in leases.items() if member not in mine}

    @property
    def former(self) -> str:
        """The name of a former life of this worker: what it holds is taken over at once."""
        return f"{self._node}former"

    @property
    def load(self) -> int:
        """How many agents it attends to."""
        return len(self._held)

    def attends_to(self, ref: AgentRef) -> bool:
        """Whether it holds an agent."""
        return ref in self._held

    def look_now(self) -> None:
        """Say that there may be leases to take over."""
        self._look_now.set()

    async def _take(self, asking: Coroutine[Any, Any, Claim | None]) -> Claim | None:
        """Return the claim that is asked for; cancelled meanwhile, hold it all the same, so that it is given back."""
        answer = asyncio.ensure_future(asking)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            with suppress(Unavailable):
                if claim := await answer:
                    self._held.setdefault(claim.record.ref, Held(claim))
            raise

    def _attend(self, group: asyncio.TaskGroup, claim: Claim, *, resumed: bool) -> None:
        held = Held(claim, self._wake.set)
        former = self._held.get(held.ref)
        if former is not None:
            # Our own lease ran out while this process stood still: the old attendant must not go on.
            former.learn(False)
        self._held[held.ref] = held
        if "kill" in claim.record.fields:
            self._renew_now.set()  # it was asked for while nobody held the agent
        group.create_task(self._see(held, former, resumed=resumed))

    async def _see(self, held: Held, former: Held | None, *, resumed: bool) -> None:
        try:
            if former is not None:
                # It may be amid a start: only once it has let go does the disk say whether there is a process.
                await former.released.wait()
            async with self._occupancy.hold(held.ref):
                await self._attendant.attend(held, resumed=resumed)
        except Exception:
            # A defect must not take the other agents' attendants along; the lease runs out and the agent is taken over.
            _log.exception("agent.attendant_failed", agent_id=held.ref.agent_id)
        held.released.set()
        if self._held.get(held.ref) is held:
            del self._held[held.ref]
        self._wake.set()

    async def _renew_leases(self) -> None:
        while True:
            await _wait_until(self._renew_now, _RENEW_S)
            held = list(self._held.values())
            if not held:
                continue
            try:
                answers = await self._queue.renew([each.claim for each in held])
            except Unavailable as error:
                await self._pause(error)
                continue
            for each, answer in zip(held, answers, strict=True):
                each.learn(answer)

    async def _pause(self, error: Unavailable) -> None:
        _log.warning("worker.store_unavailable", reason=error.message)
        await asyncio.sleep(_UNAVAILABLE_PAUSE_S)


async def _wait_until(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for the event, or for the poll behind it; clears it."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
    event.clear()
