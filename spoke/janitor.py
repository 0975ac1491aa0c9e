"""The janitor: removes what is left of agents whose time is over, and never anything of one that lives.

Decides by three questions, asked again while the agent is held: does its record still exist, has it ended, and does a
process of it run? A record that is gone is no proof that its time is over, since a store can be lost: only what has
also lain untouched for the whole retention goes. Mirrors lose the refs of such agents, and go when nobody used them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from common.clock import Clock
from common.errors import HubspokeError
from common.ids import uuid7_time_ms
from spoke.agent_record import AgentRecord, AgentRef
from spoke.disk_usage import disk_usage
from spoke.mirror import StoredMirror, WorkspaceFailed
from spoke.occupancy import Occupancy
from spoke.queue import Queue
from spoke.removal import delete_tree
from spoke.runs import Runs
from spoke.supervision.run_dir import RunState
from spoke.supervision.supervisor import Supervisor
from spoke.workspace import Workspaces

_log: Final = structlog.get_logger("janitor")
_FIRST_AFTER_S: Final = 60.0
_EVERY_S: Final = 3600.0
_AT_ONCE: Final = 200


@dataclass(frozen=True, slots=True)
class Keep:
    """How long and how much is kept; `disk_bytes` 0 is without bound."""

    retention_ms: int
    mirror_ms: int
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Removed:
    """One thing that was removed, or would be: `run`, `workspace`, `refs`, `mirror`, `objects`, `names`; why."""

    kind: str
    name: str
    reason: str


class Janitor:
    """Sweeps one spoke's directory; one sweep at a time."""

    def __init__(
        self,
        queue: Queue,
        runs: Runs,
        workspaces: Workspaces,
        supervisor: Supervisor,
        occupancy: Occupancy,
        clock: Clock,
        keep: Keep,
    ) -> None:
        self._queue = queue
        self._runs = runs
        self._workspaces = workspaces
        self._supervisor = supervisor
        self._occupancy = occupancy
        self._clock = clock
        self.keep = keep
        """May be replaced while it runs."""
        self._one_at_a_time = asyncio.Lock()

    async def run(self) -> None:
        """Sweep now and then until cancelled; what goes wrong is logged and tried again."""
        pause_s = _FIRST_AFTER_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = _EVERY_S
            try:
                await self.sweep()
            except HubspokeError as error:
                _log.warning("janitor.gave_up", code=error.code, reason=error.message)
            except Exception:
                _log.exception("janitor.failed")  # a defect here must not take the node along

    async def sweep(self, *, dry_run: bool = False) -> list[Removed]:
        """Remove everything whose time is over and return it; raises `Unavailable`."""
        async with self._one_at_a_time:
            removed = [each async for each in self._sweep(dry_run)]
        for each in removed:
            _log.info("janitor.would_remove" if dry_run else "janitor.removed", **_fields(each))
        return removed

    async def _sweep(self, dry_run: bool) -> AsyncIterator[Removed]:
        on_disk = await self._on_disk()
        async for ref, record in self._records(on_disk):
            if self._may_go(ref, record):
                for each in await self._sweep_agent(ref, dry_run):
                    yield each
        async for each in self._sweep_for_room(dry_run):
            yield each
        async for each in self._sweep_mirrors(dry_run):
            yield each
        if not dry_run and (names := await self._queue.forget_expired()):
            yield Removed("names", str(names), "expired")

    async def _on_disk(self) -> list[AgentRef]:
        runs = await asyncio.to_thread(self._runs.agents)
        workspaces = await asyncio.to_thread(self._workspaces.places.agents)
        return sorted({*runs, *(AgentRef(*name) for name in workspaces)}, key=lambda ref: ref.agent_id)

    async def _records(self, refs: Sequence[AgentRef]) -> AsyncIterator[tuple[AgentRef, AgentRecord | None]]:
        for start in range(0, len(refs), _AT_ONCE):
            page = refs[start : start + _AT_ONCE]
            for ref, record in zip(page, await self._queue.describe(page), strict=True):
                yield ref, record

    def _may_go(self, ref: AgentRef, record: AgentRecord | None) -> bool:
        """Whether something of the agent may go, as far as can be said without holding it."""
        return self._expired(ref) if record is None else record.terminal and self._half_made(ref)

    def _half_made(self, ref: AgentRef) -> bool:
        return self._workspaces.places.is_half_made(ref.tenant, ref.agent_id)

    def _expired(self, ref: AgentRef) -> bool:
        used_ms = max(self._runs.used_ms(ref), self._workspaces.places.used_ms(ref.tenant, ref.agent_id))
        return used_ms < self._clock.now_ms() - self.keep.retention_ms

    def _runs_now(self, ref: AgentRef) -> bool:
        return any(self._supervisor.state(run.directory) is RunState.RUNNING for run in self._runs.attempts(ref))

    async def _sweep_agent(self, ref: AgentRef, dry_run: bool) -> list[Removed]:
        with self._occupancy.try_hold(ref) as held:
            (record,) = await self._queue.describe([ref])
            if not held or not self._may_go(ref, record) or self._runs_now(ref):
                return []
            removed = []
            try:
                if record is None and self._runs.attempts(ref):
                    removed.append(await self._remove_run(ref, "expired", dry_run))
                if self._workspaces.places.exists(ref.tenant, ref.agent_id):
                    removed.append(await self._discard(ref, "half_made" if record else "expired", dry_run))
            except (WorkspaceFailed, OSError) as error:
                _log.warning("janitor.agent_left", agent_id=ref.agent_id, tenant=ref.tenant, reason=str(error))
            return removed

    async def _remove_run(self, ref: AgentRef, reason: str, dry_run: bool) -> Removed:
        if not dry_run:
            await delete_tree(self._runs.directory(ref))
        return Removed("run", str(ref), reason)

    async def _discard(self, ref: AgentRef, reason: str, dry_run: bool) -> Removed:
        if not dry_run:
            await self._workspaces.discard(ref.tenant, ref.agent_id)
        return Removed("workspace", str(ref), reason)

    async def _sweep_for_room(self, dry_run: bool) -> AsyncIterator[Removed]:
        """Remove the runs of agents that ended, those that ended first at first, until the disk is not overfull."""
        if not self.keep.disk_bytes:
            return
        excess = await disk_usage(self._runs.root, self._workspaces.places.root) - self.keep.disk_bytes
        ended = [record async for _, record in self._records(await self._on_disk()) if record and record.terminal]
        for record in sorted(ended, key=lambda record: int(record.fields.get("finished_at", 0))):
            if excess <= 0:
                break
            with self._occupancy.try_hold(record.ref) as held:
                # It may have been resumed since: what it goes on with lies in its runs.
                (now,) = await self._queue.describe([record.ref])
                if not held or (now is not None and not now.terminal):
                    continue
                if self._runs.attempts(record.ref) and not self._runs_now(record.ref):
                    excess -= await disk_usage(self._runs.directory(record.ref))
                    yield await self._remove_run(record.ref, "disk_full", dry_run)

    async def _sweep_mirrors(self, dry_run: bool) -> AsyncIterator[Removed]:
        for half_deleted in await asyncio.to_thread(self._workspaces.places.half_deleted_mirrors):
            await delete_tree(half_deleted)
        for tenant, mirror in await asyncio.to_thread(self._workspaces.mirrors):
            try:
                if forgotten := await self._forget(tenant, mirror, dry_run):
                    yield Removed("refs", f"{tenant} {mirror.path.name} {forgotten}", "expired")
                if await self._is_unused(tenant, mirror) and (dry_run or await self._delete(tenant, mirror)):
                    yield Removed("mirror", f"{tenant} {mirror.path.name}", "unused")
                elif await asyncio.to_thread(mirror.is_cluttered) and (dry_run or await self._tidy(tenant, mirror)):
                    yield Removed("objects", f"{tenant} {mirror.path.name}", "cluttered")
            except (HubspokeError, OSError) as error:
                _log.warning("janitor.mirror_left", path=str(mirror.path), reason=str(error))

    async def _forget(self, tenant: str, mirror: StoredMirror, dry_run: bool) -> int:
        oldest_ms = self._clock.now_ms() - self.keep.retention_ms
        old = [AgentRef(tenant, agent) for agent in await mirror.agents() if uuid7_time_ms(agent) < oldest_ms]
        gone = [
            ref
            async for ref, record in self._records(old)
            if record is None and not self._workspaces.places.exists(tenant, ref.agent_id)
        ]
        if gone and not dry_run:
            await mirror.forget({ref.agent_id for ref in gone})
        return len(gone)

    async def _is_unused(self, tenant: str, mirror: StoredMirror) -> bool:
        if mirror.used_ms() >= self._clock.now_ms() - self.keep.mirror_ms or await mirror.agents(with_work=True):
            return False
        return not await self._is_borrowed(tenant)

    async def _is_borrowed(self, tenant: str) -> bool:
        return any(peer == tenant for peer, _ in await asyncio.to_thread(self._workspaces.places.agents))

    async def _tidy(self, tenant: str, mirror: StoredMirror) -> bool:
        """Pack a mirror unless a workspace of that tenant is there or being made; asked under the mirror's lock."""

        async def unborrowed() -> bool:
            return not self._occupancy.holds_any_of(tenant) and not await self._is_borrowed(tenant)

        return await mirror.tidy(unborrowed)

    async def _delete(self, tenant: str, mirror: StoredMirror) -> bool:
        """Delete a mirror unless somebody came to use it; asked under its lock, which whoever comes later waits for."""

        async def still_unused() -> bool:
            return not self._occupancy.holds_any_of(tenant) and await self._is_unused(tenant, mirror)

        return await mirror.delete(still_unused)


def _fields(removed: Removed) -> Mapping[str, str]:
    return {"kind": removed.kind, "name": removed.name, "reason": removed.reason}
