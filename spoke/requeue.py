"""Requeueing by hand: the work of an agent that failed or was killed, once more, as a new agent (ADR 0006).

A terminal state is final, so the old agent stays as it is. The work is taken from the envelope that asked for it, which
is verified once more, and signed anew with the spoke's own key for the tenant it belongs to: the hub asked for what is
done, the operator for doing it again, and both signatures were checked. Refuses agents that run, wait or completed,
and to requeue the same one twice.
"""

from __future__ import annotations

from typing import Final

from common.clock import Clock
from common.commands import Spawn
from common.envelope import EnvelopeType, Items, seal
from common.errors import PeerError
from common.exchange import Exchange
from common.keyring import NodeKeys
from common.strict_json import encode
from spoke.agent_record import AgentRecord, TamperedRecord
from spoke.queue import Queue
from spoke.queue_terms import Requeue
from spoke.stored_command import StoredCommands

_TOLD: Final = {
    "not_found": "there is no such agent any more",
    "not_failed": "only an agent that failed or was killed can be requeued",
    "conflict": "it was requeued already, as {again}; requeue that one",
    "draining": "this spoke takes no new agents for now; see: spoke drain --off",
    "queue_full": "limits.queue: too many agents wait here; try again later",
}


class NotRequeued(PeerError):
    """The agent was not queued again; nothing has changed."""

    code = "conflict"
    http_status = 409


class Requeuer:
    """Signs and queues what the operator of this machine wants to be done again."""

    def __init__(
        self, keys: NodeKeys, queue: Queue, commands: StoredCommands, exchange: Exchange, clock: Clock
    ) -> None:
        self._keys = keys
        self._queue = queue
        self._commands = commands
        self._exchange = exchange
        self._clock = clock

    async def requeue(self, record: AgentRecord) -> AgentRecord:
        """Return the new agent that does the work of `record` again; raises `NotRequeued`, `Unavailable`."""
        spawn = await self._prove(record)
        granted = {"priority": record.granted["priority"], "max_attempts": record.granted["maxAttempts"]}
        again = spawn.model_copy(update={"id": self._clock.new_id(), **granted})
        claims = self._exchange.claims(self._commands.owner(record.ref.tenant))
        command = encode(again.model_dump(by_alias=True))
        raw = seal(self._keys.current, EnvelopeType.COMMAND, claims, {}, Items("commands", [command]))
        answer = await self._queue.requeue(record.ref, Requeue(again, claims.jti, raw))
        if isinstance(answer, AgentRecord):
            return answer
        told = _TOLD[answer.code].format(again=answer.requeued_as)
        raise NotRequeued(told, code="invalid" if answer.code == "not_failed" else answer.code)

    async def _prove(self, record: AgentRecord) -> Spawn:
        raw = await self._queue.stored_envelope(record)
        try:
            return self._commands.prove(record, raw)
        except TamperedRecord as error:
            raise NotRequeued(f"the command that asked for it cannot be verified any more: {error.message}") from error
