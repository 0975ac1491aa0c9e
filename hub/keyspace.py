"""The names of this hub's keys in Valkey: one prefix with one hash tag, so that every script stays on one node.

What lies under them is described on top of `scripts/_keyspace.lua`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DEFAULT_PREFIX: Final = "hs:"


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The keys of the hub `instance`; tests put a prefix of their own in front."""

    instance: str
    before: str = DEFAULT_PREFIX

    @property
    def prefix(self) -> str:
        """What every key begins with."""
        return f"{self.before}{{{self.instance}}}:"

    @property
    def events(self) -> str:
        """The stream of changes."""
        return f"{self.prefix}events"

    @property
    def outboxes(self) -> str:
        """The set of tenants for which something waits."""
        return f"{self.prefix}outboxes"

    @property
    def webhooks(self) -> str:
        """How far each webhook has been told."""
        return f"{self.prefix}webhooks"

    @property
    def living(self) -> str:
        """How many agents of each tenant have not ended."""
        return f"{self.prefix}living"

    def agent(self, agent_id: str) -> str:
        """The record of one agent."""
        return f"{self.prefix}agent:{agent_id}"

    def shown(self, status: str) -> str:
        """The agents of which this is shown."""
        return f"{self.prefix}shown:{status}"

    def reason(self, reason: str) -> str:
        """The agents that ended for this reason."""
        return f"{self.prefix}reason:{reason}"

    def outbox(self, tenant: str) -> str:
        """What can be sent to one spoke now."""
        return f"{self.prefix}outbox:{tenant}"

    def deferred(self, tenant: str) -> str:
        """What the spoke asked to send later."""
        return f"{self.prefix}deferred:{tenant}"

    def contact(self, tenant: str) -> str:
        """When a spoke was last heard of, and how delivery to it goes."""
        return f"{self.prefix}peer:{tenant}"
