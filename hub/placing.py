"""From one wish for many agents to a spoke for each: on every spoke that fits, or `count` where there is least to do.

The agents' ids come from the batch's, so that a request that is repeated after a lost answer finds the same agents
where they were placed the first time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from common.commands import SpawnFields
from common.errors import PeerError
from common.ids import UUID7_RANDOM_BYTES, uuid7, uuid7_time_ms
from common.inbox import TrustSource
from common.links import Links
from common.peers import Peer
from hub.agents import Agents, NoSuchAgent
from hub.contacts import Contact
from hub.peering import active_spoke
from hub.placement import USUAL_SIZE, Candidate, has_labels, place
from hub.spawning import Wish


class NoSpokeFits(PeerError):
    """No active spoke has what was asked for, or none of them takes agents now."""

    code = "no_spoke"
    http_status = 409


@dataclass(frozen=True, slots=True)
class Batch:
    """Many agents that do the same; `count` None is one on each spoke that fits."""

    batch_id: str
    fields: SpawnFields
    spoke: str | None = None
    labels: Mapping[str, str] | None = None
    count: int | None = None
    deadline_s: int | None = None


def id_in(batch_id: str, name: str) -> str:
    """Return the agent id of a batch's member: the batch's time, and bits that only the two names decide."""
    digest = hashlib.sha256(f"{batch_id} {name}".encode()).digest()
    return uuid7(uuid7_time_ms(batch_id), digest[:UUID7_RANDOM_BYTES])


@dataclass(frozen=True, slots=True)
class Placing:
    """Finds the spokes for a batch."""

    trust: TrustSource
    agents: Agents
    links: Links

    async def plan(self, batch: Batch) -> list[Wish]:
        """Return a wish for each agent.

        Raises `NoSpokeFits`, `NoSuchSpoke`, `ConnectionInactive`, `Unavailable`.
        """
        fitting = await self._fitting(batch)
        if not fitting:
            raise NoSpokeFits("no active spoke fits; see the labels in hub peer show")
        if batch.count is None:
            named = [(id_in(batch.batch_id, peer.instance), peer.instance) for peer, _ in fitting]
        else:
            named = await self._placed(batch, batch.count, fitting)
        return [Wish(spoke, batch.fields, agent_id, batch.deadline_s) for agent_id, spoke in named]

    async def _fitting(self, batch: Batch) -> list[tuple[Peer, Contact]]:
        if batch.spoke is not None:
            peers = [active_spoke(self.trust.current(), batch.spoke)]
        else:
            peers = [peer for peer in self.trust.current().peers() if (peer.kind, peer.state) == ("spoke", "active")]
        contacts = await self.agents.contacts([peer.tenant for peer in peers])
        return [
            (peer, contact)
            for peer, contact in zip(peers, contacts, strict=True)
            if has_labels(batch.labels or {}, peer.labels, (contact.hello or {}).get("labels", {}))
        ]

    async def _placed(self, batch: Batch, count: int, fitting: list[tuple[Peer, Contact]]) -> list[tuple[str, str]]:
        """Return id and spoke of each agent: where it was placed before, else where there is least to do."""
        ids = [id_in(batch.batch_id, str(number)) for number in range(count)]
        before = {agent_id: spoke for agent_id in ids if (spoke := await self._spoke_of(agent_id))}
        load = await self.agents.load()
        able = [self._candidate(peer, contact, load) for peer, contact in fitting if not contact.frozen]
        chosen = iter(place(able, count - len(before)))
        named = [(agent_id, before.get(agent_id) or next(chosen, None)) for agent_id in ids]
        if any(spoke is None for _, spoke in named):
            raise NoSpokeFits("every spoke that fits is frozen or takes no agents; see hub peer list")
        return [(agent_id, spoke) for agent_id, spoke in named if spoke is not None]

    async def _spoke_of(self, agent_id: str) -> str | None:
        try:
            return (await self.agents.find(agent_id)).spoke
        except NoSuchAgent:
            return None

    def _candidate(self, peer: Peer, contact: Contact, load: Counter[str]) -> Candidate:
        capacity = (contact.hello or {}).get("capacity")
        reachable = self.links.find(peer.tenant) is not None or (peer.url is not None and not contact.failures)
        return Candidate(
            spoke=peer.instance,
            load=load[peer.tenant],
            size=USUAL_SIZE if capacity is None else capacity["agents"],
            reachable=reachable,
        )
