"""Changes of agents as they happen, for everyone who watches: the `events` stream in Valkey, read from any point on.

One task tails the stream and wakes the watchers; each watcher reads from its own last id, so a slow one holds up nobody
and a returning one misses nothing that the stream still keeps. What it no longer keeps is told as a gap.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog
from redis.asyncio import Redis

from common.errors import Unavailable
from common.http import InvalidRequest
from common.ids import rfc3339
from common.valkey import translated
from hub.keyspace import Keyspace

BEGINNING: Final = "0-0"
_BLOCK_MS: Final = 5000
_RETRY_S: Final = 0.5
_ID: Final = re.compile(r"(?P<ms>[0-9]{1,19})(-(?P<sequence>[0-9]{1,19}))?\Z")
_log: Final = structlog.get_logger("feed")


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one agent; `event_id` is what a watcher resumes from."""

    event_id: str
    agent_id: str
    spoke: str
    task_id: str
    status: str
    seq: int
    delivery: str
    reason: str | None

    @property
    def at_ms(self) -> int:
        """When it was recorded here, in ms since the epoch."""
        return _order(self.event_id)[0]

    def to_view(self) -> dict[str, Any]:
        """Return the JSON object of the API."""
        return {
            "agentId": self.agent_id,
            "spoke": self.spoke,
            "taskId": self.task_id,
            "status": self.status,
            "seq": self.seq,
            "delivery": self.delivery,
            "reason": self.reason,
            "at": rfc3339(self.at_ms),
        }


def _order(event_id: str) -> tuple[int, int]:
    form = _ID.match(event_id)
    if form is None:
        raise InvalidRequest("Last-Event-ID is the id of an event, such as 1795000000000-0")
    return int(form["ms"]), int(form["sequence"] or 0)


def check_event_id(text: str) -> str:
    """Return the id in its full form; raises `InvalidRequest`."""
    ms, sequence = _order(text)
    return f"{ms}-{sequence}"


def _change(event_id: bytes, fields: Mapping[bytes, bytes]) -> Change:
    text = {name.decode(): value.decode() for name, value in fields.items()}
    return Change(
        event_id=event_id.decode(),
        agent_id=text["agent"],
        spoke=text["spoke"],
        task_id=text["task"],
        status=text["status"],
        seq=int(text["seq"]),
        delivery=text["delivery"],
        reason=text["reason"] or None,
    )


class Feed:
    """Reads the stream with `client` and tails it with `blocking`, a client without a deadline."""

    def __init__(self, client: Redis, blocking: Redis, keys: Keyspace) -> None:
        self._client = client
        self._blocking = blocking
        self._stream = keys.events
        self._changed = asyncio.Event()
        self.closed = False

    @property
    def changed(self) -> asyncio.Event:
        """What is set at the next change: take it, read, and wait for it only when there was nothing to read."""
        return self._changed

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Tell the watchers that the node stops."""
        self.closed = True
        self._wake()

    async def run(self) -> None:
        """Tail the stream until cancelled; while Valkey is away the watchers wait."""
        last = ""
        while True:
            try:
                last = last or await self.last_id()
                last = await self._tail(last)
            except Unavailable as error:
                _log.warning("feed.unavailable", reason=error.message)
                await asyncio.sleep(_RETRY_S)

    async def _tail(self, last: str) -> str:
        with translated():
            answer: Any = await self._blocking.xread({self._stream: last}, count=1000, block=_BLOCK_MS)
        if not answer:
            return last
        ((_, batches),) = answer.items() if isinstance(answer, dict) else answer
        entries = [entry for batch in batches for entry in (batch if isinstance(batch, list) else [batch])]
        self._wake()
        return str(entries[-1][0].decode())

    async def last_id(self) -> str:
        """Return the id of the newest change."""
        with translated():
            newest: Any = await self._client.xrevrange(self._stream, count=1)
        return newest[0][0].decode() if newest else BEGINNING

    async def read(self, after: str, count: int = 500) -> list[Change]:
        """Return the changes after that id, oldest first."""
        with translated():
            entries: Any = await self._client.xrange(self._stream, min=f"({after}", count=count)
        return [_change(event_id, fields) for event_id, fields in entries]

    async def has_gap(self, after: str) -> bool:
        """Whether changes after that id may be gone: dropped from the stream, or lost with the store."""
        with translated():
            if not await self._client.exists(self._stream):
                return after != BEGINNING
            about: Any = await self._client.xinfo_stream(self._stream)
        first, last = about["first-entry"], about["last-generated-id"].decode()
        dropped = about["entries-added"] > about["length"]
        before_first = first is None or _order(after) < _order(first[0].decode())
        return (dropped and before_first) or _order(after) > _order(last)

    async def wait(self, changed: asyncio.Event, timeout_s: float) -> None:
        """Wait for `changed`, at most so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await changed.wait()
