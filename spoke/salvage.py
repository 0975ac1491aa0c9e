"""After the store was lost: no run goes on, and none ends, without a record that says so (fault row 14).

What is started leaves, beside its run, the record and the signed envelope it was started from. A run whose record is
gone gets it back and is seen to its end like any other; its hub hears of it. One whose envelope does not verify is
ended: a process that nobody answers for is not left running. What only waited in the store is not known here; its hub
spawns it again.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from common.errors import Unavailable
from spoke.agent_record import AgentRecord, TamperedRecord
from spoke.queue import Queue
from spoke.queue_terms import Asked
from spoke.runs import Run, Runs, Unsettled
from spoke.stored_command import StoredCommands
from spoke.supervision.supervisor import Supervisor
from spoke.worker import Worker

_log: Final = structlog.get_logger("salvage")
_CAUSE: Final = "lost"


def origin_of(unsettled: Unsettled) -> tuple[AgentRecord, Asked]:
    """Return the record beside a run, and what it was started from; raises `TamperedRecord` where that is another's."""
    origin = unsettled.run.read_origin()
    if origin is None:
        raise TamperedRecord("nothing beside the run says what it was started from")
    fields, asked = origin
    record = AgentRecord(fields)
    if (fields.get("tenant"), fields.get("id")) != (unsettled.ref.tenant, unsettled.ref.agent_id):
        raise TamperedRecord("the record beside the run is another agent's")
    if record.attempt != unsettled.attempt:
        raise TamperedRecord("the record beside the run is another attempt's")
    return record, asked


class Salvage:
    """Restores records in the name of a former life of `worker`, which then takes them over."""

    def __init__(
        self,
        queue: Queue,
        runs: Runs,
        commands: StoredCommands,
        supervisor: Supervisor,
        worker: Worker,
    ) -> None:
        self._queue = queue
        self._runs = runs
        self._commands = commands
        self._supervisor = supervisor
        self._worker = worker

    async def __call__(self) -> None:
        """Look at every run that has not been seen to its end; raises `Unavailable`, and may be called again."""
        for unsettled in await self._unsettled():
            (known,) = await self._queue.describe([unsettled.ref])
            if known is None:
                await self._salvage(unsettled)
        self._worker.look_now()

    async def _unsettled(self) -> list[Unsettled]:
        try:
            return await asyncio.to_thread(self._runs.unsettled)
        except OSError as error:  # the janitor removed one while we looked
            raise Unavailable(f"the runs cannot be read: {error.strerror}") from error

    async def _salvage(self, unsettled: Unsettled) -> None:
        ref, run = unsettled.ref, unsettled.run
        try:
            record, asked = origin_of(unsettled)
            self._commands.prove(record, asked.spawn)
            self._commands.prove_resume(record, asked.resume)
        except TamperedRecord as error:
            _log.error("run.unknown_ended", agent_id=ref.agent_id, tenant=ref.tenant, reason=error.message)
            await self._end(run)
            return
        await self._queue.restore(record, asked, self._worker.former)
        _log.warning("run.restored", agent_id=ref.agent_id, tenant=ref.tenant, attempt=record.attempt)

    async def _end(self, run: Run) -> None:
        await self._supervisor.kill(run.directory, 0, _CAUSE)
        await asyncio.to_thread(run.settle)
