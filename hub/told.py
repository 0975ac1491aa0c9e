"""What of agents is recorded already: most events repeat what the reply to the spawn said, and need no look.

Decides only that something is **not** news. What it does not know, or no more, goes to the store, which decides; so it
may forget at any time, and does when the store is another one, or is told to begin anew with an agent.
"""

from __future__ import annotations

from collections import OrderedDict
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
        # Not a dict: to find the oldest one behind those that were deleted takes longer than all the rest.
        self._latest: OrderedDict[tuple[str, str], tuple[int, bool]] = OrderedDict()

    def begin(self, generation: str) -> int:
        """Say in which store the next is recorded, for what was in another one is not told; returns the turn."""
        if generation != self._generation:
            self._latest.clear()
            self._generation = generation
            self._turn += 1
        return self._turn

    def has(self, tenant: str, agent: AgentStatus) -> bool:
        """Whether the store would take nothing from this event: it has this transition, or a later one."""
        latest = self._latest.get((tenant, agent.agent_id))
        if latest is None:
            return False
        seq, has_result = latest
        return agent.seq < seq or (agent.seq == seq and has_result == (agent.result is not None))

    def note(self, turn: int, tenant: str, agents: Iterable[AgentStatus]) -> None:
        """Note what the store has taken; not what was begun in an earlier turn, which may be undone by now."""
        if turn != self._turn:
            return
        for agent in agents:
            name = (tenant, agent.agent_id)
            before = self._latest.get(name)
            if before is None or before[0] <= agent.seq:
                self._latest[name] = (agent.seq, agent.result is not None)
                self._latest.move_to_end(name)
        while len(self._latest) > self._most:
            self._latest.popitem(last=False)

    def forget(self, tenant: str, agent_ids: Iterable[str]) -> None:
        """Forget agents whose transitions will be counted from 1 again."""
        self._turn += 1
        for agent_id in agent_ids:
            self._latest.pop((tenant, agent_id), None)
