"""The agents of this machine as its operator sees them: all tenants', one by id or the newest that fit a filter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from common.errors import PeerError
from common.http import InvalidRequest
from common.ids import is_uuid7
from spoke.agent_record import AgentRecord, AgentRef
from spoke.queue import Queue

_PAGE: Final = 200
_OPERATORS_OWN: Final = ("peer", "detail", "origin", "requeued_as", "machine")


class AgentNotFound(PeerError):
    """There is no such agent here."""

    code = "not_found"
    http_status = 404


def shown(record: AgentRecord) -> dict[str, Any]:
    """Return an agent as the operator sees it: AgentStatus, whose it is, the last detail of a failure, requeueing."""
    camel = {"requeued_as": "requeuedAs"}
    return {
        **record.to_status(),
        **{camel.get(name, name): record.fields.get(name) for name in _OPERATORS_OWN},
    }


@dataclass(frozen=True, slots=True)
class Filter:
    """Which agents are wanted; None is any."""

    status: str | None = None
    reason: str | None = None
    type: str | None = None
    task: str | None = None
    peer: str | None = None

    def fits(self, record: AgentRecord) -> bool:
        """Whether an agent is wanted."""
        wanted = {name: getattr(self, name) for name in Filter.__slots__}
        return all(value is None or record.fields.get(name) == value for name, value in wanted.items())


class AgentView:
    """Reads the queue; `limits` are those under which tenants' agents start now, for what a queued one waits for."""

    def __init__(self, queue: Queue, limits: Callable[[], Mapping[str, int]]) -> None:
        self._queue = queue
        self._limits = limits

    async def find(self, agent_id: str, peer: str | None) -> AgentRecord:
        """Return the agent of that id; raises `AgentNotFound`, and `InvalidRequest` where several peers have one."""
        refs = await self._queue.find(agent_id) if is_uuid7(agent_id) else []
        matching = [record for record in await self._read(refs) if peer is None or record.fields.get("peer") == peer]
        if not matching:
            raise AgentNotFound("there is no such agent on this spoke; see: spoke agent list")
        if len(matching) > 1:
            raise InvalidRequest("several peers have an agent of this id; say which with ?peer=ID")
        return matching[0]

    async def newest(self, wanted: Filter, limit: int) -> list[AgentRecord]:
        """Return the newest agents that fit, the newest first."""
        found: list[AgentRecord] = []
        before: AgentRef | None = None
        while len(found) < limit and (refs := await self._queue.newest(_PAGE, before)):
            found += [record for record in await self._read(refs) if wanted.fits(record)]
            before = refs[-1]
        return found[:limit]

    async def _read(self, refs: list[AgentRef]) -> list[AgentRecord]:
        records = await self._queue.describe(refs, self._limits())
        return [record for record in records if record is not None]
