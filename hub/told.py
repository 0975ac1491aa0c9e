"""What of agents is recorded already: most events repeat what the reply to the spawn said, and need no look.

Decides only that something is **not** news. What it does not know, or no more, goes to the store, which decides; so it
may forget at any time, and does when the store is another one, or is told to begin anew with an agent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from common.agent_state import AgentStatus

_MOST: Final = 20_000


class Told:
    """The latest of each of at most `most` agents, by tenant and id; those that were told of last."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._generation = ""
        self._turn = 0
        self._latest: dict[tuple[str, str], tuple[int, bool]] = {}

    def begin(self, generation: str) -> int:
        """Say in which store the next is recorded, for what was in another one is not told; returns the turn."""
        if generation != self._generation:
            self._latest.clear()
            self._generation = generation
            self._turn += 1
        return self._turn

    def has(self, tenant: str, agent: AgentStatus) -> bool:
        """Whether the store would take nothing from this event: it has this transition, or a later one."""
        seq, has_result = self._latest.get((tenant, agent.agent_id), (0, False))
        return agent.seq < seq or (agent.seq == seq and has_result == (agent.result is not None))

    def note(self, turn: int, tenant: str, agent: AgentStatus) -> None:
        """Note what the store has taken; not what was begun in an earlier turn, which may be undone by now."""
        if turn != self._turn:
            return
        name = (tenant, agent.agent_id)
        if self._latest.get(name, (0, False))[0] <= agent.seq:
            self._latest.pop(name, None)
            self._latest[name] = (agent.seq, agent.result is not None)
        while len(self._latest) > self._most:
            del self._latest[next(iter(self._latest))]

    def forget(self, tenant: str, agent_ids: Iterable[str]) -> None:
        """Forget agents whose transitions will be counted from 1 again."""
        self._turn += 1
        for agent_id in agent_ids:
            self._latest.pop((tenant, agent_id), None)
