"""What the spoke's own HTTP takes and gives, as models: they check requests and describe both in the document."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from common.agent_state import REASONS, AgentStatus, AgentType, Count, Status
from common.commands import DEFAULT_GRACE_S, MAX_REASON, SpawnFields
from common.route import Query
from common.strict_json import MAX_INTEGER
from common.wire import StrictModel, TolerantModel, Uuid7

_Number = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class LocalSpawnRequest(SpawnFields):
    """The body of `POST /agents/spawn`; with an `agentId` of the caller's a repeated request is harmless."""

    agent_id: Uuid7 | None = None


class SpawnedView(TolerantModel):
    """An agent that cannot be lost any more."""

    agent_id: Uuid7
    status: Status


class KillRequest(StrictModel):
    """The body of a kill; all of it may be left out."""

    grace_s: Annotated[int, Field(ge=0, le=300)] = DEFAULT_GRACE_S
    reason: Annotated[str, Field(max_length=MAX_REASON)] | None = None


class KillWithoutStoreView(TolerantModel):
    """The store is away: the agent's keeper was told to end it, and its record follows."""

    agent_id: Uuid7
    status: Literal["running"]
    detail: str


class FlagRequest(StrictModel):
    """The body of a drain or a pause."""

    on: bool


class SweepRequest(StrictModel):
    """The body of a sweep; with `dryRun` nothing is removed."""

    dry_run: bool = False


class RemovedView(TolerantModel):
    """One thing that was removed, or would be: `run`, `workspace`, `refs`, `mirror`, `names`; and why."""

    kind: str
    name: str
    reason: str


class SweepView(TolerantModel):
    """What a sweep removed."""

    removed: list[RemovedView]


class MachinesView(TolerantModel):
    """Whether each machine has a link now, by id."""

    linked: dict[str, bool]


class QueueView(TolerantModel):
    """How many agents wait and run, and whether new ones are started (`paused`) and taken (`draining`)."""

    queued: Count
    active: Count
    paused: bool
    draining: bool


class OperatorsAgentView(AgentStatus):
    """AgentStatus of the protocol, whose agent it is, the last detail of a failure, and where it was requeued."""

    peer: str | None
    detail: str | None
    origin: str | None
    requeued_as: str | None
    machine: str | None
    """The other machine that claimed it last."""


class AgentList(TolerantModel):
    """Agents, the newest first."""

    agents: list[OperatorsAgentView]


class LogView(TolerantModel):
    """A piece of a log; offsets are in bytes."""

    offset: Count
    data: str
    next_offset: Count
    eof: bool


class AgentQuery(Query):
    """Whose agent, where two peers used the same id."""

    peer: str | None = None


class LogQuery(AgentQuery):
    """Which piece of the log, in bytes; a `limit` beyond a mebibyte is one."""

    offset: _Number = 0
    limit: _Number = 65_536


def _known(reason: str) -> str:
    if reason not in REASONS:
        raise ValueError(f"is one of {', '.join(sorted(REASONS))}")
    return reason


class AgentsQuery(Query):
    """Which agents; a `limit` beyond a thousand is one."""

    status: Status | None = None
    reason: Annotated[str, Field(json_schema_extra={"enum": sorted(REASONS)}), AfterValidator(_known)] | None = None
    type: AgentType | None = None
    task: str | None = None
    peer: str | None = None
    limit: _Number = 100
