"""Who says that an attempt may be started, and what it is started with: on the node's own machine the node's trust.

A worker of another machine asks the node instead (`spoke.machines.asking`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from common.commands import Resume, Spawn
from common.envelope import Claims
from common.errors import NotAllowed, Unavailable
from spoke.held import Held
from spoke.machines.places import Places
from spoke.queue_terms import Claim
from spoke.stored_command import StoredCommands


class StartedElsewhere(NotAllowed):
    """An attempt of the agent was started on another machine, so none is started here."""


class CannotAsk(Unavailable):
    """Nobody who may decide can be asked now, and nothing was decided: others may have the agent."""


@dataclass(frozen=True, slots=True)
class Proved:
    """The verified commands of an attempt, each with the claims of its envelope; `resume` where it was resumed."""

    spawn: Spawn
    claims: Claims
    resume: tuple[Resume, Claims] | None


class Permission(Protocol):
    """What an attendant asks before it starts anything."""

    async def prove(self, claim: Claim) -> Proved:
        """Return what was signed; raises `TamperedRecord`, `CommandRefused`, `CannotAsk`, `LeaseLost`."""

    async def start(self, held: Held) -> None:
        """Return when this attempt may be started here, and nowhere else from then on; asked just before the fence.

        Raises `CommandRefused`, `TamperedRecord`, `LeaseLost`.
        """


def prove(commands: StoredCommands, claim: Claim) -> Proved:
    """Verify what a claim is to be started from; raises `TamperedRecord`."""
    spawn, claims = commands.open(claim.record, claim.asked.spawn)
    return Proved(spawn, claims, commands.prove_resume(claim.record, claim.asked.resume))


class OwnPermission:
    """That of the workers in the node's own directory."""

    def __init__(self, commands: StoredCommands, places: Places) -> None:
        self._commands = commands
        self._places = places

    async def prove(self, claim: Claim) -> Proved:
        """Return what was signed, as the node's own trust has it."""
        return prove(self._commands, claim)

    async def start(self, held: Held) -> None:
        """Refuse what was started on another machine: it may still run there. The agent's name is held meanwhile."""
        if not self._places.exists:
            return  # a spoke without machines does not pay for them
        found = await asyncio.to_thread(self._places.attempts, held.ref)
        if machines := {*found.values()}:
            raise StartedElsewhere(f"it was started on the machine {', '.join(sorted(machines))} before")
