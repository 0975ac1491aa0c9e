"""Which agents' things on disk somebody works on: one at a time, the janitor never beside another, in all processes.

Whoever makes, reads or removes an agent's run or workspace holds its name meanwhile. Attendants wait for it, the
janitor does not. A worker that stands still keeps what it holds: another that took over its lease begins once the
first has let go or died, and so never beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import structlog

from spoke.agent_record import AgentRef
from spoke.name_locks import NameLocks

FILE_NAME: Final = "agents.lock"
_POLL_S: Final = 0.02
_log: Final = structlog.get_logger("agent")


class Occupancy:
    """The names that are held now, by whatever process uses the spoke's directory."""

    def __init__(self, directory: Path) -> None:
        self._locks = NameLocks(directory / FILE_NAME)

    @asynccontextmanager
    async def hold(self, ref: AgentRef) -> AsyncIterator[None]:
        """Hold an agent, as soon as nobody else does."""
        waited = False
        while True:
            with self.try_hold(ref) as held:
                if held:
                    yield
                    return
            if not waited:
                _log.info("agent.awaits_its_former_worker", agent_id=ref.agent_id, tenant=ref.tenant)
                waited = True
            await asyncio.sleep(_POLL_S)  # the kernel tells nobody when a lock becomes free

    @contextmanager
    def try_hold(self, ref: AgentRef) -> Iterator[bool]:
        """Hold an agent if nobody does; yields whether that is so."""
        with self._locks.trying(str(ref), _tenant(ref.tenant)) as held:
            yield held

    def holds_any_of(self, tenant: str) -> bool:
        """Whether any agent of the tenant is held."""
        return self._locks.is_shared(_tenant(tenant))


def _tenant(tenant: str) -> str:
    return f"tenant {tenant}"
