"""What the scripts say of machines: the lease that one shows, what all of them have, and giving one up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from spoke.agent_record import AgentRef
from spoke.queue import Queue
from spoke.queue_coding import read_claim
from spoke.queue_terms import Claim

_AT_ONCE: Final = 200


@dataclass(frozen=True, slots=True)
class Held:
    """How many leases a machine's workers hold, and the latest deadline of them; 0 and 0 where agents only wait."""

    leases: int
    deadline_ms: int


async def shown_lease(queue: Queue, ref: AgentRef, token: str) -> Claim | None:
    """Return what is held under that token, None when the lease is lost; raises `Unavailable`."""
    return read_claim(await queue.run("held", ref.tenant, ref.agent_id, token))


async def by_machine(queue: Queue) -> dict[str, Held]:
    """Return what each machine has here, by id; raises `Unavailable`."""
    found = await queue.run("machines")
    return {machine.decode(): Held(int(leases), int(deadline)) for machine, leases, deadline in found}


async def lose(queue: Queue, machine: str, detail: str) -> int:
    """Fail all that a machine has, as `lost`; returns how many that were. Raises `Unavailable`."""
    lost, count = 0, _AT_ONCE
    while count == _AT_ONCE:
        count = int(await queue.run("lose", machine, queue.bounds.retention_ms, detail, _AT_ONCE))
        lost += count
    return lost
