"""The words of the spoke's queue: what may be done to it, what it holds, what it answers. Plain values, no decision."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from common.commands import Resume, Spawn
from common.connection import DEFAULT_SKEW_S
from common.envelope import MAX_LIFETIME_S
from spoke.agent_record import AgentRecord, decode_hash, text_of
from spoke.policy import Policy

_DAY_MS: Final = 24 * 3600 * 1000


def prefix_of(instance: str) -> str:
    """Return what every key and channel of a spoke begins with; the hash tag keeps every script on one node."""
    return f"hs:{{{instance}}}:"


@dataclass(frozen=True, slots=True)
class Bounds:
    """The spoke's own limits: agents at once, agents queued, how long ended ones are kept."""

    agents: int = 4
    queued: int = 10_000
    retention_days: int = 30
    skew_s: int = DEFAULT_SKEW_S

    @property
    def retention_ms(self) -> int:
        """How long the record of an ended agent is kept."""
        return self.retention_days * _DAY_MS

    @property
    def replay_ms(self) -> int:
        """How long an envelope could still be in its window, and so must be remembered."""
        return (MAX_LIFETIME_S + 2 * self.skew_s) * 1000


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose envelope is being accepted: `tenant` owns what it starts."""

    tenant: str
    instance: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class SpawnStep:
    """A spawn that may be accepted; `index` is its place in the signed envelope."""

    spawn: Spawn
    index: int


@dataclass(frozen=True, slots=True)
class KnownStep:
    """A spawn that is not to be accepted: only whether this very command was accepted before."""

    spawn: Spawn


@dataclass(frozen=True, slots=True)
class ResumeStep:
    """A resume that may be accepted; `index` is its place in the signed envelope."""

    resume: Resume
    index: int


@dataclass(frozen=True, slots=True)
class ResumedStep:
    """A resume that is not to be accepted: only whether this very command was accepted before."""

    resume: Resume


@dataclass(frozen=True, slots=True)
class StatusStep:
    """A question about an agent."""

    agent_id: str


@dataclass(frozen=True, slots=True)
class KillStep:
    """A kill: `cause` becomes the agent's `reason`, `reason` is what the sender wrote."""

    agent_id: str
    grace_s: int
    cause: str
    reason: str | None = None

    def to_json(self) -> str:
        """Return what the worker finds in the record."""
        return json.dumps({"grace_s": self.grace_s, "cause": self.cause, "reason": self.reason})


@dataclass(frozen=True, slots=True)
class FreezeStep:
    """Take no spawn of this tenant and start none of its agents until it thaws; with `kill` end those it has."""

    command_id: str
    kill: KillStep | None = None


@dataclass(frozen=True, slots=True)
class ThawStep:
    """Take spawns of this tenant again, and start what waits."""

    command_id: str


@dataclass(frozen=True, slots=True)
class NoStep:
    """A command that the queue has nothing to do with; it keeps its place in the order."""


@dataclass(frozen=True, slots=True)
class Requeue:
    """The work of an ended agent under a new id, in an envelope `jti` of our own."""

    spawn: Spawn
    jti: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class RequeueRefused:
    """Why an agent was not requeued; `requeued_as` is the agent that it was requeued as before."""

    code: str
    requeued_as: str


Step = SpawnStep | KnownStep | ResumeStep | ResumedStep | StatusStep | KillStep | FreezeStep | ThawStep | NoStep


@dataclass(frozen=True, slots=True)
class Latch:
    """Whether a tenant is frozen now, and how many of its agents the freeze ended or asked to end."""

    frozen: bool
    killed: int = 0


@dataclass(frozen=True, slots=True)
class StepRefused:
    """The queue refused one command with this code (PROTOCOL section 2.2), and the rule where it has several."""

    code: str
    rule: str = ""


Answer = AgentRecord | Latch | StepRefused | None


@dataclass(frozen=True, slots=True)
class Asked:
    """The signed envelopes of an agent: of its spawn, and of its last resume, empty when there was none."""

    spawn: bytes
    resume: bytes = b""


@dataclass(frozen=True, slots=True)
class Claim:
    """An agent held under a lease: `token` proves it, `asked` are the signed envelopes that it is started from."""

    record: AgentRecord
    token: str
    asked: Asked


class PendingEvent(NamedTuple):
    """A transition that its peer has not acknowledged, with the fields of the agent's record as they lay in Valkey."""

    entry: bytes
    fields: Mapping[bytes, bytes]

    @property
    def agent_id(self) -> str:
        """Whose it is."""
        return text_of(self.fields[b"id"])

    @property
    def seq(self) -> int:
        """The number of the agent's transitions with this one; one that can be told to a peer has it."""
        return int(text_of(self.fields[b"seq"]))

    @property
    def size(self) -> int:
        """How many bytes of text are kept for it."""
        return len(b"".join(self.fields)) + len(b"".join(self.fields.values()))

    @property
    def record(self) -> AgentRecord:
        """The agent as it was."""
        return AgentRecord(decode_hash(self.fields))
