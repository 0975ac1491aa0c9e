"""Spawns by this machine's own coordinator: the spoke signs the command itself, and from there on it is like any other.

The queue holds a signed envelope for these agents too, so that a worker starts nothing that was not signed (attack
row 61).
"""

from __future__ import annotations

from collections.abc import Callable

from common.clock import Clock
from common.commands import Spawn, SpawnFields
from common.envelope import EnvelopeType, Items, seal
from common.exchange import Exchange
from common.keyring import NodeKeys
from common.peers import LOCAL_TENANT
from common.strict_json import encode
from common.trace_context import current
from spoke.agent_record import AgentRecord
from spoke.command_result import refused_by_queue
from spoke.local_models import LocalSpawnRequest
from spoke.policy import LOCAL_POLICY, check_spawn
from spoke.queue import Queue
from spoke.queue_terms import Sender, SpawnStep, StepRefused


class LocalSpawner:
    """Signs and accepts what the local coordinator asks for."""

    def __init__(
        self,
        instance: str,
        keys: NodeKeys,
        queue: Queue,
        exchange: Exchange,
        clock: Clock,
        offer: Callable[[SpawnFields], None],
    ) -> None:
        """Take also `offer`, which raises `CommandRefused` for a spawn that could not be started as asked."""
        self._offer = offer
        self._sender = Sender(LOCAL_TENANT, instance, LOCAL_POLICY)
        self._keys = keys
        self._queue = queue
        self._exchange = exchange
        self._clock = clock

    async def spawn(self, request: LocalSpawnRequest) -> AgentRecord:
        """Accept a spawn and return the agent's record; raises `CommandRefused`, `Unavailable`."""
        check_spawn(LOCAL_POLICY, request)
        self._offer(request)
        fields = request.model_dump(by_alias=True, exclude={"agent_id"})
        command = {"id": request.agent_id or self._clock.new_id(), "command": "spawn", **fields}
        claims = self._exchange.claims(self._sender.instance, context=current())
        raw = seal(self._keys.current, EnvelopeType.COMMAND, claims, {}, Items("commands", [encode(command)]))
        step = SpawnStep(Spawn.model_validate(command), 0)
        (answer,) = await self._queue.accept(self._sender, claims.jti, raw, [step])
        if isinstance(answer, StepRefused):
            raise refused_by_queue(answer)
        if not isinstance(answer, AgentRecord):
            raise TypeError("the queue gave no record for a spawn")
        return answer
