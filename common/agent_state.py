"""The life of an agent as a table, and AgentStatus as it goes over the wire (PROTOCOL section 2.2).

Three rules stand above the table:
1. A terminal state (`completed`, `failed`, `killed`) is final: nothing that happens to the agent leads out of it.
2. Only the hub that owns the agent may take it back, by `resume`: to `queued`, for a new attempt.
3. Every transition counts `seq` up by one; a receiver keeps the highest `seq` of an agent and ignores the rest.

`pending` is no state of an agent: it is what a hub shows before the spoke has answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import FailFast, Field

from common.strict_json import MAX_INTEGER
from common.wire import Integer, TaskId, TolerantModel, Uuid7

Status = Literal["queued", "spawning", "running", "completed", "failed", "killed"]
AgentType = Literal["worker", "reviewer", "tester"]
AGENT_TYPES: Final[tuple[AgentType, ...]] = ("worker", "reviewer", "tester")

TRANSITIONS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        # accepted, waiting for a slot; killed before it started
        "queued": frozenset({"spawning", "failed", "killed"}),
        # claimed by a worker; back to `queued` when the infrastructure failed and an attempt is left
        "spawning": frozenset({"running", "queued", "failed", "killed"}),
        # the program runs; back to `queued` when it was lost with the machine and an attempt is left
        "running": frozenset({"queued", "completed", "failed", "killed"}),
        "completed": frozenset(),
        "failed": frozenset(),
        "killed": frozenset(),
    }
)
TERMINAL: Final = frozenset(status for status, following in TRANSITIONS.items() if not following)
RESUMED: Final = "queued"
"""Where a `resume` takes an agent that is in a terminal state."""

REASONS: Final = frozenset(
    {
        "exit_nonzero",
        "agent_error",
        "timeout",
        "killed_by_peer",
        "killed_by_operator",
        "workspace_failed",
        "spawn_failed",
        "attempts_exhausted",
        "lost",
        "oom",
        "tampered",
        "turn_limit",
        "cost_limit",
    }
)
"""Why an agent ended in a terminal state other than `completed`. A receiver shows one that it does not know."""


def may_follow(before: str, after: str) -> bool:
    """Whether an agent may go from state `before` to state `after`."""
    return after in TRANSITIONS[before]


Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Word = Annotated[str, Field(max_length=64)]
"""A code, the name of a signal, a time: hubs keep these, and find agents by some."""


class Granted(TolerantModel):
    """What the spoke's policy left of what was asked."""

    priority: Integer
    timeout_s: Integer
    max_attempts: Integer


class QueuePlace(TolerantModel):
    """Where a queued agent stands; `position` counts from 1."""

    position: Integer
    waiting_for: Word


class SentSignal(TolerantModel):
    """One signal of a kill, with its RFC 3339 time."""

    signal: Word
    at: Word


class Receipt(TolerantModel):
    """The proof of a kill: which signals went out, and how many processes were left."""

    # A JSON array is a list, which strict mode would not take for a tuple. This one has no bound, so one mistake in it
    # is enough: hundreds of thousands of errors would be gathered for some seconds and megabytes.
    signals: Annotated[tuple[SentSignal, ...], Field(strict=False), FailFast()]
    survivors: Integer


class AgentStatus(TolerantModel):
    """One agent as its spoke knows it; times are RFC 3339 in UTC with milliseconds."""

    agent_id: Uuid7
    task_id: TaskId
    agent_type: AgentType
    status: Status
    seq: Annotated[int, Field(ge=1, le=MAX_INTEGER)]
    attempt: Count
    queued_at: Word | None = None
    started_at: Word | None = None
    finished_at: Word | None = None
    reason: Word | None = None
    exit_code: Integer | None = None
    signal: Word | None = None
    result: dict[str, Any] | None = None
    granted: Granted | None = None
    queue: QueuePlace | None = None
    receipt: Receipt | None = None

    @property
    def terminal(self) -> bool:
        """Whether nothing can follow any more."""
        return self.status in TERMINAL

    def to_json(self) -> bytes:
        """Return the JSON of the protocol, camelCase, every member present."""
        return self.model_dump_json(by_alias=True).encode()
