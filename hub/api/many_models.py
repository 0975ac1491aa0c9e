"""What the requests about many agents at once take and give."""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import ConfigDict, Field, JsonValue, model_validator
from pydantic.config import JsonDict

from common.commands import DEFAULT_GRACE_S, Reason, SpawnFields
from common.wire import InstanceId, StrictModel, TaskId, TolerantModel, Uuid7
from hub.api.models import MAX_DEADLINE_S, MAX_SPAWNS, ErrorView, Shown, SpawnOutcome


class PlaceRequest(SpawnFields):
    """Agents that all do the same: one on each spoke that fits, or `count` on those with the least to do.

    A spoke fits that is active, has all `labels` and is `spoke` if one is named. With a `batchId` a repeated request is
    harmless: the agents' ids come from it.
    """

    spoke: InstanceId | None = None
    labels: Annotated[dict[str, str], Field(default_factory=dict, max_length=32)]
    count: Annotated[int, Field(ge=1, le=MAX_SPAWNS)] | None = None
    batch_id: Uuid7 | None = None
    deadline_s: Annotated[int, Field(ge=1, le=MAX_DEADLINE_S)] | None = None


class PlacedView(TolerantModel):
    """The answers, one for each agent that was to be started."""

    batch_id: Uuid7
    accepted: int
    refused: int
    agents: list[SpawnOutcome]


def _named(member: str) -> JsonDict:
    return {"required": [member], "properties": {member: {"type": "string"}}}


_NOT_NAMED: Final[JsonDict] = {"type": "null"}
_SELECTIONS: Final[list[JsonValue]] = [
    {"required": ["all"], "properties": {"all": {"const": True}, "taskId": _NOT_NAMED, "spoke": _NOT_NAMED}},
    {"properties": {"all": {"const": False}}, "anyOf": [_named("taskId"), _named("spoke")]},
]
"""What the check of `KillManyRequest` says, for the description of the API."""


class KillManyRequest(StrictModel):
    """Which agents to stop that have not ended: of a task, of a spoke, of both, or `all`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": _SELECTIONS})

    task_id: TaskId | None = None
    spoke: InstanceId | None = None
    all: bool = False
    grace_s: Annotated[int, Field(ge=0, le=300)] = DEFAULT_GRACE_S
    reason: Reason | None = None

    @model_validator(mode="after")
    def _selects(self) -> Self:
        if self.all == (self.task_id is not None or self.spoke is not None):
            raise ValueError("name taskId, spoke or both, or say all")
        return self


class KillOutcome(TolerantModel):
    """The kill of one agent, or why there is none; `commandId` is null when it had ended meanwhile."""

    agent_id: Uuid7
    spoke: InstanceId
    status: Shown
    command_id: Uuid7 | None = None
    error: ErrorView | None = None


class KillManyView(TolerantModel):
    """Each agent that had not ended, newest first of each state."""

    accepted: int
    refused: int
    agents: list[KillOutcome]
