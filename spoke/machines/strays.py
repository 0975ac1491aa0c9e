"""Ends on a machine what the store says is not its any more: nobody would hear how it ended (fault rows 9, 22).

While it was cut off, its node may have given it up. A run whose record the store has lost altogether is put back
instead, as the node does for its own (fault row 14).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from common.errors import Unavailable
from spoke.agent_record import AgentRecord, TamperedRecord
from spoke.queue import Queue
from spoke.queue_coding import worker_prefix
from spoke.runs import Runs, Unsettled
from spoke.salvage import origin_of
from spoke.supervision.run_dir import RunState
from spoke.supervision.supervisor import Supervisor
from spoke.worker import Worker

_LOOK_S: Final = 3.0
_CAUSE: Final = "lost"
_log: Final = structlog.get_logger("machine")


def is_ours(record: AgentRecord, attempt: int, machine: str) -> bool:
    """Whether that attempt is still this machine's to see to its end."""
    held = record.fields.get("worker", "").startswith(worker_prefix(machine))
    return held and not record.terminal and record.attempt == attempt


class Strays:
    """Looks at every run that was begun here and not seen to its end."""

    def __init__(
        self, queue: Queue, runs: Runs, supervisor: Supervisor, worker: Worker, machine: Callable[[], str]
    ) -> None:
        self._queue = queue
        self._runs = runs
        self._supervisor = supervisor
        self._worker = worker
        self._machine = machine

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                for unsettled in await asyncio.to_thread(self._runs.unsettled):
                    await self._look(unsettled)
            except (Unavailable, OSError) as error:  # the janitor may remove what we look at
                _log.info("machine.cannot_look", reason=str(error))
            await asyncio.sleep(_LOOK_S)

    async def _look(self, unsettled: Unsettled) -> None:
        if self._worker.attends_to(unsettled.ref):
            return
        (record,) = await self._queue.describe([unsettled.ref])
        # It may have been taken up while the store was asked.
        if self._worker.attends_to(unsettled.ref):
            return
        try:
            if record is None:
                await self._put_back(unsettled)
            elif record.status == "queued" and record.attempt < unsettled.attempt:
                return  # an older copy of the store: whoever claims it next adopts this run, or is refused and it ends
            elif not is_ours(record, unsettled.attempt, self._machine()):
                await self._end(unsettled, "its record says that it is not this machine's any more")
        except TamperedRecord as error:
            await self._end(unsettled, error.message)

    async def _put_back(self, unsettled: Unsettled) -> None:
        if self._supervisor.state(unsettled.run.directory) is not RunState.RUNNING:
            raise TamperedRecord("there is no record of it, and it has ended")
        beside, asked = origin_of(unsettled)
        record = AgentRecord({**beside.fields, "machine": self._machine()})
        if await self._queue.restore(record, asked, self._worker.former):
            _log.warning("run.restored", agent_id=unsettled.ref.agent_id, tenant=unsettled.ref.tenant)
        self._worker.look_now()

    async def _end(self, unsettled: Unsettled, reason: str) -> None:
        ref, run = unsettled.ref, unsettled.run
        if self._supervisor.state(run.directory) is RunState.RUNNING:
            _log.error("run.stray_ended", agent_id=ref.agent_id, tenant=ref.tenant, reason=reason)
            await self._supervisor.kill(run.directory, 0, _CAUSE)
            return  # settled once it is seen to have ended
        if self._supervisor.state(run.directory) is RunState.LOST:
            await self._supervisor.wait(run.directory)  # ends what its keeper left behind
        await asyncio.to_thread(run.settle)
