"""Which agents' things on disk somebody in this process works on: one at a time, the janitor never beside another.

Whoever makes, reads or removes an agent's run or workspace holds its name meanwhile. Attendants wait for it, the
janitor does not. One process serves a directory (`common.directory.exclusive`), so this needs no lock on disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from spoke.agent_record import AgentRef


class Occupancy:
    """The names that are held now."""

    def __init__(self) -> None:
        self._held: set[AgentRef] = set()
        self._released = asyncio.Event()

    @asynccontextmanager
    async def hold(self, ref: AgentRef) -> AsyncIterator[None]:
        """Hold an agent, as soon as nobody else does."""
        while ref in self._held:
            await self._released.wait()
        with self._holding(ref):
            yield

    @contextmanager
    def try_hold(self, ref: AgentRef) -> Iterator[bool]:
        """Hold an agent if nobody does; yields whether that is so."""
        if ref in self._held:
            yield False
        else:
            with self._holding(ref):
                yield True

    @contextmanager
    def _holding(self, ref: AgentRef) -> Iterator[None]:
        self._held.add(ref)
        try:
            yield
        finally:
            self._held.discard(ref)
            released, self._released = self._released, asyncio.Event()
            released.set()

    def holds_any_of(self, tenant: str) -> bool:
        """Whether any agent of the tenant is held."""
        return any(ref.tenant == tenant for ref in self._held)
