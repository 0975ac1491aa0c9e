"""The answers that the queue cannot give: a piece of a log, of a patch, and a message passed to a running agent.

Asked only for agents that the queue has just said belong to the asker, after the envelope was accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from common import strict_json
from common.commands import Command, Diff, Logs, Send
from common.errors import CommandRefused, NotAllowed, Unavailable
from spoke.agent_record import AgentRecord
from spoke.launching import message_of
from spoke.patches import Patches
from spoke.runs import LogSlice, Runs
from spoke.supervision.control import InputClosed, MessageConflict, tell

MAX_PATCHES: Final = 8
"""Patches of one envelope: each is work for git while a hub waits."""


_WORST_ESCAPE: Final = 6
"""So many bytes of JSON may stand for one of a log; most text takes hardly more than one."""


def _fitting(piece: LogSlice, room: int) -> LogSlice:
    """Return as much of a piece as takes no more than `room` bytes of JSON: all of it, or what fits whatever it is."""
    if len(piece.data) * _WORST_ESCAPE <= room or len(strict_json.encode(piece.text())) <= room:
        return piece
    return piece.first(room // _WORST_ESCAPE)


def counts_bytes(command: Command) -> bool:
    """Say whether the answer is a piece of something long."""
    return command.command in {"logs", "diff"}


def lies_beside(command: Command) -> bool:
    """Say whether the answer lies beside the queue: it is to be asked for."""
    return command.command in {"logs", "diff", "send"}


class Disk(Protocol):
    """Where an agent's things lie."""

    async def read_log(self, record: AgentRecord, offset: int, limit: int) -> LogSlice:
        """Return a piece of the log of its last attempt, at most `limit` bytes; raises `Unavailable`."""

    async def read_patch(self, record: AgentRecord, offset: int, limit: int) -> LogSlice:
        """Return a piece of its patch; raises `CommandRefused`, `Unavailable`."""

    async def send(self, record: AgentRecord, message_id: str, text: str) -> None:
        """Pass a message on, once however often it is sent: durable before it returns; as `read_patch` raises."""


class OwnDisk:
    """This machine's."""

    def __init__(self, runs: Runs, patches: Patches) -> None:
        self._runs = runs
        self._patches = patches

    async def read_log(self, record: AgentRecord, offset: int, limit: int) -> LogSlice:
        """Return a piece of the log."""
        return self._runs.read_log(record.ref, record.attempt, offset, limit)

    async def read_patch(self, record: AgentRecord, offset: int, limit: int) -> LogSlice:
        """Return a piece of the patch."""
        return await self._patches.read(record, offset, limit)

    async def send(self, record: AgentRecord, message_id: str, text: str) -> None:
        """Pass a message on."""
        await asyncio.to_thread(self._tell, record, message_id, text)

    def _tell(self, record: AgentRecord, message_id: str, text: str) -> None:
        directory = self._runs.run(record.ref, record.attempt).directory
        try:
            tell(directory, message_id, message_of(text))
        except MessageConflict as error:
            raise CommandRefused("conflict", "this id was used for another message; use a fresh one") from error
        except (InputClosed, FileNotFoundError) as error:
            why = "it has ended" if record.terminal else "it does not run yet, has closed its input, or takes none"
            raise NotAllowed(f"this agent takes no message now: {why}") from error


class Answers:
    """Answers about agents; `disk_of` says where one's things lie, and raises `Unavailable`.

    `check_reachable` raises `NotAllowed` where nobody can go on with one.
    """

    def __init__(
        self, disk_of: Callable[[AgentRecord], Disk], check_reachable: Callable[[AgentRecord], None] = lambda _: None
    ) -> None:
        self._disk_of = disk_of
        self.check_reachable = check_reachable

    async def answer(self, command: Command, record: AgentRecord, room: int) -> dict[str, Any] | None:
        """Return the members of the result beside `id`, None where it is the agent's status.

        A piece takes at most `room` bytes of JSON. Raises `CommandRefused`, also where it cannot be read now.
        """
        try:
            return await self._answer(command, record, room)
        except Unavailable as error:
            # The others' answers must not be lost with it.
            refused = CommandRefused("not_found", error.message)
            refused.retryable = True
            raise refused from error

    async def _answer(self, command: Command, record: AgentRecord, room: int) -> dict[str, Any] | None:
        match command:
            case Logs():
                piece = await self._disk_of(record).read_log(record, command.offset, command.limit)
                return {"log": _fitting(piece, room).to_json(ended=record.terminal)}
            case Diff():
                piece = await self._disk_of(record).read_patch(record, command.offset, command.limit)
                return {"diff": _fitting(piece, room).to_json(ended=True)}  # a patch that was taken grows no more
            case Send():
                await self._disk_of(record).send(record, command.id, command.text)
        return None
