"""What the hub forgets of agents that ended: by age and by count, so that its store does not grow for ever.

Forgotten is only the hub's own record: the spoke keeps its own for its own time, and an agent of which it says
something again is taken in again. Agents that have not ended are never forgotten, however old they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from redis.asyncio import Redis

from common.clock import Clock
from common.errors import Unavailable
from common.scripts import ScriptSet
from hub.keyspace import Keyspace

PRUNE_EVERY_S: Final = 60.0
_AT_ONCE: Final = 200
"""So many in one script: nothing else waits long for it."""
_DAY_MS: Final = 86_400_000
_log: Final = structlog.get_logger("retention")


@dataclass(frozen=True, slots=True)
class Bounds:
    """For how many days, and how many, ended agents are kept; 0 is no bound."""

    ended_days: int
    ended_agents: int


class Retention:
    """Forgets what is over the bounds; `run` is the task, `told` is told how many went."""

    def __init__(
        self,
        client: Redis,
        keys: Keyspace,
        scripts: ScriptSet,
        bounds: Bounds,
        clock: Clock,
        told: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._client = client
        self._keys = keys
        self._prune = scripts["prune"]
        self.bounds = bounds
        """May be replaced while it runs, from the next round on."""
        self._clock = clock
        self._told = told

    async def run(self) -> None:
        """Work until cancelled: at once, and then every minute."""
        while True:
            try:
                while await self.prune() == _AT_ONCE:
                    pass
            except Unavailable as error:
                _log.warning("retention.unavailable", reason=error.message)
            await asyncio.sleep(PRUNE_EVERY_S)

    async def prune(self) -> int:
        """Forget at most 200 and return how many; raises `Unavailable`."""
        days, agents = self.bounds.ended_days, self.bounds.ended_agents
        up_to = str(self._clock.now_ms() - days * _DAY_MS) if days else "-inf"
        gone = await self._prune(self._client, [self._keys.prefix], [up_to, agents or "", _AT_ONCE])
        if gone:
            self._told(len(gone))
            _log.info("retention.pruned", agents=len(gone))
        return len(gone)
