"""A hub's history for benches: agents that came and mostly ended, written by the hub's own scripts in full batches.

Of a hundred agents two wait in the outbox, two are queued, one runs, four failed, one was killed, and the others
completed with a result. Ten have one task. Half of them are the first spoke's, where none ever fails: who asks for the
failed ones of it names two large sets that have nothing in common. The other spokes share the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from redis.asyncio import Redis

from common import strict_json
from common.agent_state import AgentStatus, Status
from common.clock import SystemClock
from common.peers import Peer
from common.scripts import ScriptSet
from hub.agents import Agents
from hub.keyspace import Keyspace
from hub.outbox import NewAgent, Outbox
from hub.settlement import Settlement
from tests.envelopes import spawn
from tests.integration.hub.standin_spoke import agent_status

SPOKES: Final = 20
DEAD: Final = "attempts_exhausted"
_BATCH: Final = 1000
_SHARE: Final[dict[int, tuple[Status, str | None]]] = {
    0: ("queued", None),
    1: ("queued", None),
    2: ("running", None),
    **dict.fromkeys((5, 7, 9), ("failed", "exit_nonzero")),
    11: ("failed", DEAD),
    12: ("killed", "killed_by_peer"),
}
"""How agents are told of, by their number modulo 100; those of 3 and 4 wait, the rest is completed."""
_WAITING: Final = (3, 4)
_SEQ: Final[dict[Status, int]] = {"queued": 1, "running": 3, "failed": 4, "killed": 4, "completed": 4}
_RESULT: Final = {
    "summary": "Fixed the redirect after login; the tests pass. " * 5,
    "data": None,
    "commits": [{"sha": "1f" * 20, "subject": "Fix the login redirect"}],
    "branch": "hubspoke/1",
    "diffStat": {"files": 3, "insertions": 40, "deletions": 2},
    "usage": None,
    "preservedRef": None,
    "truncated": False,
}


class History:
    """Fills the store of the hub `instance` behind `client`; `peers` are its spokes."""

    def __init__(self, client: Redis, instance: str, peers: Sequence[Peer]) -> None:
        keys, scripts = Keyspace(instance), ScriptSet("hub")
        self._peers = peers
        self._clock = SystemClock()
        self._outbox = Outbox(client, keys, scripts, limit=100_000_000)
        self._agents = Agents(client, keys, scripts)

    async def grow(self, first: int, last: int) -> None:
        """Add the agents of these numbers, the last not among them; a running number makes the mixture."""
        for begin in range(first, last, _BATCH):
            batch = range(begin, min(begin + _BATCH, last))
            named = [(number, self._clock.new_id()) for number in batch]
            await self._outbox.enqueue([self._asked(*each) for each in named], self._clock.now_ms())
            for peer in self._peers:
                told = list(self._told([each for each in named if self._peer_of(each[0]) is peer]))
                if told:
                    await self._agents.record(peer, told, self._clock.now_ms())

    def _peer_of(self, number: int) -> Peer:
        even, others = number % 2 == 0, len(self._peers) - 1
        return self._peers[0] if even else self._peers[1 + number // 2 % others]

    def _asked(self, number: int, agent_id: str) -> NewAgent:
        peer, task = self._peer_of(number), task_of(number)
        command = strict_json.encode(spawn(id=agent_id, taskId=task))
        return NewAgent(agent_id, peer.instance, peer.tenant, task, "worker", "0" * 64, command, 0)

    def _told(self, named: Sequence[tuple[int, str]]) -> Iterator[Settlement]:
        """Yield what the spoke answered to the spawns, in the state in which they are now."""
        for number, agent_id in named:
            if number % 100 not in _WAITING:
                status, reason = _SHARE.get(number % 100, ("completed", None))
                more: dict[str, Any] = {"reason": reason, "result": _RESULT if status == "completed" else None}
                told = agent_status(agent_id, status, _SEQ[status], taskId=task_of(number), **more)
                yield Settlement(agent_id, "delivered", agent_id, agent=AgentStatus.model_validate(told))


def task_of(number: int) -> str:
    """Return the task of an agent by its number."""
    return f"T-{number // 10}"
