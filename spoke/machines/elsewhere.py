"""The disks of other machines, read over their channels: hubs and operators see no difference.

Where an attempt was started says the node's own disk, not the record in the store.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from common.errors import Malformed, NotAllowed, Unavailable
from spoke.agent_record import AgentRecord
from spoke.answers import Disk, OwnDisk
from spoke.held import LeaseLost
from spoke.machines.channel import Channel
from spoke.machines.gate import Channels
from spoke.machines.places import Places
from spoke.machines.registry import Machines
from spoke.machines.words import End, Message, Piece, Reading, read, write
from spoke.runs import LogSlice, Runs
from spoke.supervision.control import ask_to_end

_ANSWER_S: Final = 20.0


class MachineAway(Unavailable):
    """The machine on which an agent's things lie has no channel to the node now."""


class OtherDisk:
    """That of a machine, while its channel is open."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def _ask(self, what: str, about: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._channel.ask(what, about, _ANSWER_S)
        except LeaseLost as error:
            raise Unavailable("the machine gave an answer to another question") from error

    async def read_log(self, record: AgentRecord, offset: int, limit: int) -> LogSlice:
        """Return a piece of the log, which may be shorter than asked for before its end."""
        return await self._read("log", record, offset, limit)

    async def read_patch(self, record: AgentRecord, offset: int, limit: int) -> LogSlice:
        """Return a piece of the patch."""
        return await self._read("patch", record, offset, limit)

    async def _read(self, what: str, record: AgentRecord, offset: int, limit: int) -> LogSlice:
        told = await self._ask(what, write(Reading.of(record, offset, limit)))
        try:
            piece = read(Piece, told).to_slice()
        except Malformed as error:
            raise Unavailable("the machine gave an answer that this release does not know") from error
        if piece.offset != offset or len(piece.data) > limit:
            raise Unavailable("the machine gave a piece that nobody asked for")
        return piece

    async def send(self, record: AgentRecord, message_id: str, text: str) -> None:
        """Pass a message on."""
        ref = record.ref
        message = Message(
            tenant=ref.tenant,
            agent=ref.agent_id,
            attempt=record.attempt,
            status=record.status,
            message=message_id,
            text=text,
        )
        await self._ask("send", write(message))


class Elsewhere:
    """Finds the disk on which an agent's things lie."""

    def __init__(self, own: OwnDisk, runs: Runs, places: Places, channels: Channels, machines: Machines) -> None:
        self._own = own
        self._runs = runs
        self._places = places
        self._channels = channels
        self._machines = machines

    def disk_of(self, record: AgentRecord) -> Disk:
        """Return where the last attempt's things lie; raises `Unavailable`, `NotAllowed` where that was forgotten."""
        machine = self._places.machine_of(record.ref, record.attempt)
        if machine is None:
            return self._own
        self.check_reachable(record)
        channel = self._channels.find(machine)
        if channel is None:
            name = machine.partition("_")[0]
            raise MachineAway(f"it is on the machine {name}, which has no link to its spoke now; try again later")
        return OtherDisk(channel)

    def check_reachable(self, record: AgentRecord) -> None:
        """Raise `NotAllowed` for an agent whose work lies on a machine that was forgotten."""
        machine = self._places.machine_of(record.ref, record.attempt)
        if machine is not None and machine not in self._machines.ids():
            name = machine.partition("_")[0]
            raise NotAllowed(f"its work lies on the machine {name}, which was forgotten here")

    async def end(self, agent_id: str, peer: str | None, grace_s: int) -> int:
        """Have an agent ended wherever it is, without the store; returns in how many places it was found."""
        return await asyncio.to_thread(self._end_here, agent_id, peer, grace_s) + await self._end_there(
            agent_id, peer, grace_s
        )

    def _end_here(self, agent_id: str, peer: str | None, grace_s: int) -> int:
        found = [run for run in self._runs.unsettled_of(agent_id) if run.is_of(peer)]
        for unsettled in found:
            ask_to_end(unsettled.run.directory, grace_s, "killed_by_operator")
        return len(found)

    async def _end_there(self, agent_id: str, peer: str | None, grace_s: int) -> int:
        about = write(End(agent=agent_id, peer=peer, grace_s=grace_s))
        asked = [channel.ask("end", about, _ANSWER_S) for channel in self._channels.all().values()]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        found = [answer.get("found") for answer in answers if isinstance(answer, dict)]
        return sum(count for count in found if isinstance(count, int))
