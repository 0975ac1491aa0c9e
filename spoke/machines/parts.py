"""The part of the node's composition root that deals with machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common.clock import SystemClock
from common.keyring import Keyring
from common.peers import LOCAL_TENANT
from common.trust_store import TrustStore
from spoke.agent_parts import AgentParts
from spoke.answers import Answers
from spoke.machines.authority import Authority, Starts, Trusted
from spoke.machines.elsewhere import Elsewhere
from spoke.machines.gate import Channels, Gate
from spoke.machines.losing import Losing
from spoke.machines.places import Places
from spoke.machines.registry import Machines, own_key
from spoke.node import Spoke
from spoke.policy import LOCAL_POLICY
from spoke.queue import Queue
from spoke.stored_command import StoredCommands
from spoke.supervision.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class MachineParts:
    """What deals with the machines of a node."""

    channels: Channels
    gate: Gate
    elsewhere: Elsewhere
    losing: Losing
    machines: Machines
    answers: Answers

    def linked(self) -> dict[str, bool]:
        """Return whether each machine has a channel now, by id."""
        return {machine: self.channels.find(machine) is not None for machine in sorted(self.machines.ids())}


@dataclass(frozen=True, slots=True)
class NodesTrust:
    """What the node believes: the store, its own keys, and what proves stored commands by both."""

    store: TrustStore
    own: Callable[[], Keyring]
    commands: StoredCommands


def machine_parts(
    spoke: Spoke, queue: Queue, agents: AgentParts, trust: NodesTrust, supervisor: Supervisor
) -> MachineParts:
    """Build them."""
    directory, machines, channels = spoke.directory.path, Machines(trust.store), Channels()
    places = Places(directory)

    def ceiling_s(tenant: str) -> int:
        peers = (peer for peer in trust.store.current().peers() if peer.tenant == tenant)
        peer = None if tenant == LOCAL_TENANT else next(peers, None)
        return (LOCAL_POLICY if peer is None else spoke.policy_of(peer)).max_timeout_s

    trusted = Trusted(trust.store.current, trust.own, trust.commands, agents.limits, ceiling_s)
    starts = Starts(places, agents.runs, agents.occupancy, supervisor, SystemClock())
    authority = Authority(queue, trusted, starts)
    gate = Gate(spoke.me.instance, lambda: own_key(directory), machines, channels, authority.answer)
    elsewhere = Elsewhere(agents.disk, agents.runs, places, channels, machines)
    answers = Answers(elsewhere.disk_of, elsewhere.check_reachable)
    losing = Losing(queue, machines, channels, places, lambda: spoke.settings.limits.machine_lost_s)
    return MachineParts(channels, gate, elsewhere, losing, machines, answers)
