"""The way to one spoke while there is work for it: what goes next, and what is still being recorded.

What waits for a spoke is in the outbox; that is the truth, and a lane begins by reading it. From then on a lane is
handed what this process enqueued, in the order of the outbox, so that it need not be read again. Where something else
was put there, put off, or is more than one envelope holds, what was handed is forgotten and the outbox is read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from common.commands import MAX_COMMANDS
from common.envelope import MAX_ITEMS_BYTES
from hub.outbox import Taken
from hub.settlement import Queued

_MOST_HANDED: Final = 2 * MAX_COMMANDS
_WORTH_HALVING: Final = 48
"""Fewer are sooner there in one: an envelope takes each side as much time as twenty commands do."""


class Handed(NamedTuple):
    """A command that was just enqueued; not to be sent once its deadline (ms, 0 for none) has passed."""

    command: Queued
    deadline_ms: int = 0


@dataclass(slots=True)
class Lane:
    """One spoke's: `work` says that there may be something to send, `heard` that the spoke is there."""

    tenant: str
    failures: int = 0
    limit: int = MAX_COMMANDS
    """How many commands an envelope may hold."""
    work: asyncio.Event = field(default_factory=asyncio.Event)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    is_complete: bool = False
    """Whether what was handed is all that waits and is not under way; else the outbox is to be read."""
    _handed: deque[Handed] = field(default_factory=deque)
    _read: dict[str, None] = field(default_factory=dict)
    """The ids that were read last: one of these may be handed over late, when it has long been answered."""
    _recording: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits: all that did was handed over, and is gone."""
        return self.is_complete and not self._handed

    def look(self) -> None:
        """Read the outbox next: something is in it that was not handed over."""
        self.is_complete = False
        self._handed.clear()
        self.work.set()

    def hand(self, commands: Iterable[Handed]) -> None:
        """Take spawns that were just put into the outbox; called in the order in which they stand there."""
        if self.is_complete:
            self._handed.extend(commands)
        if len(self._handed) > _MOST_HANDED:
            self.look()
        self.work.set()

    def begin_reading(self) -> None:
        """The outbox is about to be read: what is handed over from now on may be in that reading, or behind it."""
        self._handed.clear()
        self.is_complete = True

    def has_read(self, taken: Taken) -> None:
        """Note what was read; when there is more in the outbox than that, it is to be read again."""
        self._read |= {command.command_id: None for command in taken.commands}
        for command_id in list(self._read)[:-_MOST_HANDED]:
            del self._read[command_id]
        if taken.left > 0 or taken.next_due_ms > 0:
            self.is_complete = False

    def following(self, now_ms: int) -> tuple[Queued, ...]:
        """Take out of what was handed over what goes into the next envelope, in order."""
        commands: list[Queued] = []
        room, most = MAX_ITEMS_BYTES, min(self.limit, self._share())
        while self._handed and len(commands) < most:
            handed = self._handed[0]
            command = handed.command
            room -= len(command.encoded) + 1
            if room < 0 and commands:
                break
            self._handed.popleft()
            is_over = 0 < handed.deadline_ms <= now_ms  # the outbox's own scan ends it
            if not is_over and command.command_id not in self._read:
                commands.append(command)
        return tuple(commands)

    def _share(self) -> int:
        """Return how many go next: half of many where nothing else is going on.

        So hub and spoke both have something to do: one records and enqueues one half while the other accepts the other.
        """
        waiting = len(self._handed)
        is_busy = self._recording is not None and not self._recording.done()
        return waiting if is_busy or waiting < _WORTH_HALVING else (waiting + 1) // 2

    async def record(self, recording: Coroutine[Any, Any, None]) -> None:
        """Let an answer be recorded while the next envelope is under way; one at a time, in the order of the answers.

        Raises what the recording before this one raised.
        """
        try:
            await self.recorded()
        except BaseException:
            recording.close()
            raise
        self._recording = asyncio.create_task(recording, name=f"record {self.tenant}")

    async def recorded(self) -> None:
        """Return when nothing is being recorded; raises what that raised."""
        recording, self._recording = self._recording, None
        if recording is not None:
            await recording
