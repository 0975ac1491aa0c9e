"""Freezing at a spoke: this hub's spawns are refused there and what waits stays, or is killed, until the thaw.

Both go through the outbox like a kill, so they reach a spoke that is away now. The last word counts; whether the spoke
lets this hub do it is the spoke's to say, and is shown with the spoke.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common import strict_json
from common.clock import Clock
from common.commands import Freeze, Thaw
from common.inbox import TrustSource
from common.peers import Peer
from common.trace_context import current_traceparent
from hub.outbox import NewLatch, Outbox
from hub.peering import active_spoke
from hub.sender import Sender


@dataclass(frozen=True, slots=True)
class Freezing:
    """Takes freezes and thaws into the outbox and wakes the sender."""

    trust: TrustSource
    outbox: Outbox
    sender: Sender
    clock: Clock

    async def freeze(self, instance: str, *, kill_agents: bool, reason: str | None) -> tuple[Peer, str]:
        """Freeze a spoke; returns it and the command's id.

        Raises `NoSuchSpoke`, `ConnectionInactive`, `Unavailable`.
        """
        given = {} if reason is None else {"reason": reason}
        return await self._latch(instance, {"command": "freeze", "killAgents": kill_agents, **given})

    async def thaw(self, instance: str) -> tuple[Peer, str]:
        """Thaw a spoke; returns and raises what `freeze` does."""
        return await self._latch(instance, {"command": "thaw"})

    async def _latch(self, instance: str, members: dict[str, Any]) -> tuple[Peer, str]:
        peer = active_spoke(self.trust.current(), instance)
        command_id = self.clock.new_id()
        model = Freeze if members["command"] == "freeze" else Thaw
        command = model.model_validate({"id": command_id, **members})
        encoded = strict_json.encode(command.model_dump(by_alias=True, exclude_none=True))
        kills = isinstance(command, Freeze) and command.kill_agents
        reason = members.get("reason", "")
        new = NewLatch(command_id, command.command, encoded, kills, reason, current_traceparent())
        await self.outbox.enqueue_latch(peer.tenant, new, self.clock.now_ms())
        self.sender.wake(peer.tenant)
        return peer, command_id
