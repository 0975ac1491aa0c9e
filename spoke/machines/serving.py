"""What a machine answers its node: pieces of logs and patches, messages to agents, an end without a store."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog

from common.errors import NotAllowed
from spoke.answers import OwnDisk
from spoke.machines.words import End, Message, Piece, Reading, read, record_of, write
from spoke.runs import Runs
from spoke.supervision.control import ask_to_end

_log: Final = structlog.get_logger("machine")


class MachineService:
    """Answers the node, and nobody else: the channel is its."""

    def __init__(self, disk: OwnDisk, runs: Runs) -> None:
        self._disk = disk
        self._runs = runs

    async def answer(self, what: str, about: dict[str, Any]) -> dict[str, Any]:
        """Answer one question; raises what the node is to hear."""
        match what:
            case "log":
                wanted = read(Reading, about)
                return write(Piece.of(await self._disk.read_log(wanted.record(), wanted.offset, wanted.limit)))
            case "patch":
                wanted = read(Reading, about)
                return write(Piece.of(await self._disk.read_patch(wanted.record(), wanted.offset, wanted.limit)))
            case "send":
                message = read(Message, about)
                record = record_of(message.tenant, message.agent, message.attempt, message.status)
                await self._disk.send(record, message.message, message.text)
                return {}
            case "end":
                return {"found": await asyncio.to_thread(self._end, read(End, about))}
        raise NotAllowed("this machine does not know that question; use the same release on both machines")

    def _end(self, wanted: End) -> int:
        found = [run for run in self._runs.unsettled_of(wanted.agent) if run.is_of(wanted.peer)]
        for unsettled in found:
            _log.info("agent.end_passed", agent_id=wanted.agent, grace_s=wanted.grace_s)
            ask_to_end(unsettled.run.directory, wanted.grace_s, "killed_by_operator")
        return len(found)
