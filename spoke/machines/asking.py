"""The permission of a worker on another machine: the node's word, and its own verification of what was signed.

The node says by which keys; that word is believed because the channel is the node's. What is started comes from the
signed command alone, which both have verified, each as it found it in the store.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from common.errors import CommandRefused
from common.keyring import Keyring
from common.peers import Trust
from spoke.held import Held
from spoke.machines.line import Line, NodeAway
from spoke.machines.words import Lease, Proof, read, write
from spoke.permission import CannotAsk, Proved, StartedElsewhere, prove
from spoke.policy import Policy
from spoke.queue_terms import Claim
from spoke.runs import Runs
from spoke.stored_command import StoredCommands
from spoke.supervision.run_dir import RunState
from spoke.supervision.supervisor import Supervisor

PATIENCE_S: Final = 10.0
"""So long an agent that is not begun waits for the node; then others may have it."""
_log: Final = structlog.get_logger("machine")


class NodesPermission:
    """Asks the node of the spoke `instance`; `runs` are those of this machine."""

    def __init__(self, line: Line, instance: str, runs: Runs, supervisor: Supervisor) -> None:
        self._line = line
        self._instance = instance
        self._runs = runs
        self._supervisor = supervisor

    async def prove(self, claim: Claim) -> Proved:
        """Return what was signed, as the node's trust has it and as we verified it."""
        try:
            told = await self._line.ask("prove", write(_lease_of(claim)), PATIENCE_S)
        except NodeAway as error:
            raise CannotAsk(error.message) from error
        except CommandRefused as error:
            raise StartedElsewhere(error.message) from error
        proved = prove(self._commands(read(Proof, told)), claim)
        await self._end_former(claim)
        return proved

    async def _end_former(self, claim: Claim) -> None:
        """End what an attempt before still runs here: it was given up while we were cut off, and then resumed."""
        for run in await asyncio.to_thread(self._runs.earlier, claim.record.ref, claim.record.attempt):
            if self._supervisor.state(run.directory) in {RunState.RUNNING, RunState.LOST}:
                _log.error("run.stray_ended", agent_id=claim.record.ref.agent_id, reason="a later attempt begins")
                await self._supervisor.kill(run.directory, 0, "lost")
                await self._supervisor.wait(run.directory)  # ends also what a keeper that died left behind

    def _commands(self, proof: Proof) -> StoredCommands:
        owner, own = proof.owner, Keyring(key.owned_by(self._instance) for key in proof.own)
        trust = Trust(() if owner is None else (owner.to_peer(),))
        policy = Policy() if owner is None else Policy(max_timeout_s=owner.max_timeout_s)
        return StoredCommands(self._instance, lambda: own, lambda: trust, lambda _: policy)

    async def start(self, held: Held) -> None:
        """Ask until the node has answered: once it may have noted the start, nobody else can have this attempt."""
        held.starting = True
        while True:
            try:
                await self._line.ask("start", write(_lease_of(held.claim)), PATIENCE_S)
            except NodeAway:
                continue
            except CommandRefused as error:
                raise StartedElsewhere(error.message) from error
            return


def _lease_of(claim: Claim) -> Lease:
    ref = claim.record.ref
    return Lease(tenant=ref.tenant, agent=ref.agent_id, token=claim.token, attempt=claim.record.attempt)
