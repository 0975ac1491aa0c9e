"""What only the node may decide, at the word of a machine: whose agents may start, from what, and where.

The queue is not trusted (ADR 4): the node reads for itself what the machine holds and proves the signed commands by its
own trust, and again just before the start. That start is noted on the node's disk before the machine hears of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from common.clock import Clock
from common.errors import NotAllowed, Unavailable
from common.keyring import Keyring
from common.peers import LOCAL_TENANT, Trust
from spoke.agent_record import AgentRef
from spoke.held import LeaseLost
from spoke.machines.held_by import shown_lease
from spoke.machines.places import Places
from spoke.machines.registry import Machine
from spoke.machines.words import Key, Lease, Owner, Proof, Rules, read, write
from spoke.occupancy import Occupancy
from spoke.permission import prove
from spoke.queue import Queue
from spoke.queue_coding import worker_prefix
from spoke.queue_terms import Claim
from spoke.runs import Runs
from spoke.stored_command import StoredCommands
from spoke.supervision.run_dir import RunState
from spoke.supervision.supervisor import Supervisor

_log: Final = structlog.get_logger("machine")


@dataclass(frozen=True, slots=True)
class Starts:
    """Lets one attempt start in one place: on the node's own machine, or on another, and then on no third."""

    places: Places
    runs: Runs
    occupancy: Occupancy
    supervisor: Supervisor
    clock: Clock

    async def permit(self, ref: AgentRef, attempt: int, machine: str) -> None:
        """Note durably that the machine starts it; raises `NotAllowed`, `Unavailable`. Repeated it is the same."""
        with self.occupancy.try_hold(ref) as held:
            if not held:
                raise Unavailable("somebody on the node's machine works on this agent")
            states = {self.supervisor.state(run.directory) for run in self.runs.attempts(ref)}
            if states - {RunState.NEVER_STARTED}:
                raise NotAllowed("it was started on the node's own machine before")
            # Not on the event loop: the file may be busy, and the disk is waited for.
            noting = asyncio.ensure_future(
                asyncio.to_thread(self.places.note, ref, attempt, machine, self.clock.now_ms())
            )
            try:
                is_noted = await asyncio.shield(noting)
            except asyncio.CancelledError:
                await asyncio.wait({noting})  # the name is held until the row is there, or is not
                raise
            if not is_noted:
                raise NotAllowed("it was started on another machine before, or a later attempt of it was")


@dataclass(frozen=True, slots=True)
class Trusted:
    """What the node believes now: who is a peer, what is its own, what was signed, who may start how many."""

    trust: Callable[[], Trust]
    own: Callable[[], Keyring]
    commands: StoredCommands
    limits: Callable[[], Mapping[str, int]]
    ceiling_s: Callable[[str], int]
    """The longest time an agent of that tenant may get."""


class Authority:
    """Answers the machines of a spoke."""

    def __init__(self, queue: Queue, trusted: Trusted, starts: Starts) -> None:
        self._queue = queue
        self._trusted = trusted
        self._starts = starts

    async def answer(self, machine: Machine, what: str, about: dict[str, Any]) -> dict[str, Any]:
        """Answer one question; raises what the machine is to hear, `LeaseLost` among it."""
        match what:
            case "rules":
                return write(self._rules())
            case "prove":
                lease = read(Lease, about)
                if lease.tenant not in self._trusted.limits():
                    raise Unavailable("the agent's hub is suspended or gone")
                return write(self._proof(await self._proved(machine, lease)))
            case "start":
                lease = read(Lease, about)
                await self._proved(machine, lease)
                await self._starts.permit(lease.ref, lease.attempt, machine.id)
                _log.info("machine.start_permitted", machine=machine.id, agent_id=lease.agent, attempt=lease.attempt)
                return {}
        raise NotAllowed("this node does not know that question; use the same release on both machines")

    def _rules(self) -> Rules:
        bounds = self._queue.bounds
        return Rules(limits=dict(self._trusted.limits()), agents=bounds.agents, retention_days=bounds.retention_days)

    async def _proved(self, machine: Machine, lease: Lease) -> Claim:
        """Return what the machine holds, read by ourselves and verified; raises `TamperedRecord`, `LeaseLost`."""
        claim = await shown_lease(self._queue, lease.ref, lease.token)
        if claim is None or claim.record.attempt != lease.attempt:
            raise LeaseLost
        if not claim.record.fields.get("worker", "").startswith(worker_prefix(machine.id)):
            raise NotAllowed("another machine's worker holds this agent")
        prove(self._trusted.commands, claim)
        return claim

    def _proof(self, claim: Claim) -> Proof:
        tenant = claim.record.ref.tenant
        own = [Key.of(key) for key in self._trusted.own().all()]
        if tenant == LOCAL_TENANT:
            return Proof(owner=None, own=own)
        peer = next(peer for peer in self._trusted.trust().peers() if peer.tenant == tenant)
        owner = Owner(
            instance=peer.instance,
            connection=peer.connection,
            keys=[Key.of(key) for key in peer.keys],
            max_timeout_s=self._trusted.ceiling_s(tenant),
        )
        return Proof(owner=owner, own=own)
