"""The answers that the queue cannot give: a piece of a log, of a patch, and a message passed to a running agent.

Asked only for agents that the queue has just said belong to the asker, after the envelope was accepted.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from common.commands import Command, Diff, Logs, Send
from common.errors import CommandRefused, NotAllowed
from spoke.agent_record import AgentRecord
from spoke.launching import message_of
from spoke.patches import Patches
from spoke.runs import Runs
from spoke.supervision.control import InputClosed, MessageConflict, tell

MAX_PATCHES: Final = 8
"""Patches of one envelope: each is work for git while a hub waits."""


def counts_bytes(command: Command) -> bool:
    """Say whether the answer is a piece of something long."""
    return isinstance(command, Logs | Diff)


class Answers:
    """Answers about agents of this machine."""

    def __init__(self, runs: Runs, patches: Patches) -> None:
        self._runs = runs
        self._patches = patches

    async def answer(self, command: Command, record: AgentRecord, limit: int) -> dict[str, Any] | None:
        """Return the members of the result beside `id`, None where it is the agent's status.

        Raises `CommandRefused`.
        """
        match command:
            case Logs():
                size = min(command.limit, limit)
                piece = self._runs.read_log(record.ref, record.attempt, command.offset, size)
                return {"log": piece.to_json(ended=record.terminal)}
            case Diff():
                piece = await self._patches.read(record, command.offset, min(command.limit, limit))
                return {"diff": piece.to_json(ended=True)}  # a patch that was taken grows no more
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
