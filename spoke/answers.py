"""The answers that the queue cannot give: a piece of a log, of a patch, and a message passed to a running agent.

Asked only for agents that the queue has just said belong to the asker, after the envelope was accepted.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from common import strict_json
from common.commands import Command, Diff, Logs, Send
from common.errors import CommandRefused, NotAllowed
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
    return isinstance(command, Logs | Diff)


class Answers:
    """Answers about agents of this machine."""

    def __init__(self, runs: Runs, patches: Patches) -> None:
        self._runs = runs
        self._patches = patches

    async def answer(self, command: Command, record: AgentRecord, room: int) -> dict[str, Any] | None:
        """Return the members of the result beside `id`, None where it is the agent's status.

        A piece takes at most `room` bytes of JSON. Raises `CommandRefused`.
        """
        match command:
            case Logs():
                piece = self._runs.read_log(record.ref, record.attempt, command.offset, command.limit)
                return {"log": _fitting(piece, room).to_json(ended=record.terminal)}
            case Diff():
                piece = await self._patches.read(record, command.offset, command.limit)
                return {"diff": _fitting(piece, room).to_json(ended=True)}  # a patch that was taken grows no more
            case Send():
                await asyncio.to_thread(self._send, command, record)
        return None

    def _send(self, command: Send, record: AgentRecord) -> None:
        """Pass a message on, once however often it is sent: durable before it is answered."""
        directory = self._runs.run(record.ref, record.attempt).directory
        try:
            tell(directory, command.id, message_of(command.text))
        except MessageConflict as error:
            raise CommandRefused("conflict", "this id was used for another message; use a fresh one") from error
        except (InputClosed, FileNotFoundError) as error:
            why = "it has ended" if record.terminal else "it does not run yet, has closed its input, or takes none"
            raise NotAllowed(f"this agent takes no message now: {why}") from error
