"""What the API takes and gives, as models: they check requests and describe both in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from common.agent_state import AgentStatus, Count
from common.commands import DEFAULT_GRACE_S, MAX_LOG_BYTES, Context, Reason, SpawnFields, Text
from common.envelope import Slice
from common.handshake import Capacity
from common.ids import UUID7_PATTERN
from common.route import Query
from common.strict_json import MAX_INTEGER
from common.wire import InstanceId, StrictModel, TolerantModel, Uuid7

MAX_SPAWNS = 1000
MAX_DEADLINE_S = 30 * 86_400
MAX_LIMIT = 1000

Shown = Literal[
    "pending", "queued", "spawning", "running", "completed", "failed", "killed", "refused", "expired"
]  # fmt: skip


class SpawnRequest(SpawnFields):
    """An agent to start. `agentId` makes a repeated request harmless; `deadlineS` ends the wait for the spoke."""

    spoke: Annotated[InstanceId, Field(examples=["build-1"])]
    agent_id: Uuid7 | None = None
    deadline_s: Annotated[int, Field(ge=1, le=MAX_DEADLINE_S)] | None = None


class SpawnManyRequest(StrictModel):
    """Many agents to start, each as in a request for one; each has its own answer."""

    agents: Annotated[list[Any], Field(min_length=1, max_length=MAX_SPAWNS)]


class SpawnedView(TolerantModel):
    """An agent that was taken into the outbox, or was there before with the same content."""

    agent_id: Uuid7
    spoke: InstanceId
    status: Shown


class ErrorView(TolerantModel):
    """Why one thing of many, or an attempt, did not succeed."""

    code: str
    detail: str
    retryable: bool


class SpawnOutcome(TolerantModel):
    """The answer to one of many: an agent, or an `error`; `index` is its place in the request."""

    index: int
    agent_id: Uuid7 | None = None
    spoke: InstanceId | None = None
    status: Shown | None = None
    error: ErrorView | None = None


class SpawnManyView(TolerantModel):
    """The answers in the order of the request."""

    accepted: int
    refused: int
    agents: list[SpawnOutcome]


class DeliveryView(TolerantModel):
    """How the spawn gets to the spoke."""

    state: Literal["pending", "delivered", "refused", "expired"]
    attempts: Count
    last_error: ErrorView | None


class KillStateView(TolerantModel):
    """How a kill gets to the spoke."""

    command_id: str
    state: Literal["pending", "delivered", "refused"]
    last_error: ErrorView | None


class AgentView(AgentStatus):
    """AgentStatus of the protocol, where the hub knows of it from, and how it was delivered.

    `status` is `pending`, and `seq` 0, until the spoke has answered.
    """

    status: Literal["pending", "queued", "spawning", "running", "completed", "failed", "killed"]  # type: ignore[assignment]  # one more
    seq: Count
    spoke: InstanceId
    created_at: str
    delivery: DeliveryView
    kill: KillStateView | None
    context: Context | None


class AgentPage(TolerantModel):
    """Agents, newest first; `cursor` leads to the next page and is null on the last."""

    agents: list[AgentView]
    cursor: str | None


class KillRequest(StrictModel):
    """How to stop an agent: `graceS` seconds between SIGTERM and SIGKILL."""

    grace_s: Annotated[int, Field(ge=0, le=300)] = DEFAULT_GRACE_S
    reason: Reason | None = None


class KillView(TolerantModel):
    """The kill that waits for delivery; `commandId` is null when there was nothing to stop any more."""

    agent_id: Uuid7
    status: Shown
    command_id: Uuid7 | None


class SendRequest(StrictModel):
    """A message for a running agent; with a `commandId` of the caller's the same request may be made again."""

    text: Text
    command_id: Uuid7 | None = None


class SentView(TolerantModel):
    """The message was passed on."""

    agent_id: Uuid7
    command_id: Uuid7


class ResumeRequest(StrictModel):
    """Have an agent that has ended go on; with a `commandId` of the caller's the same request may be made again."""

    text: Text | None = None
    command_id: Uuid7 | None = None


class ResumedView(TolerantModel):
    """The agent goes on, or has gone on since."""

    agent_id: Uuid7
    command_id: Uuid7
    status: str
    attempt: int


class LogView(Slice):
    """A piece of a log."""


class ChangeView(TolerantModel):
    """The data of a server-sent event: a change of an agent."""

    agent_id: Uuid7
    spoke: InstanceId
    task_id: str
    status: Shown
    seq: Count
    delivery: Literal["pending", "delivered", "refused", "expired"]
    reason: str | None
    at: str


class LinkView(TolerantModel):
    """The link that a spoke has open, and from where."""

    since: str
    remote: str


class ToldView(TolerantModel):
    """What a spoke told of itself when it opened its last link."""

    capacity: Capacity | None
    labels: dict[str, str]
    at: str


class FormerKeyView(TolerantModel):
    """A key that a peer rotated away from: until when it is still believed."""

    fingerprint: str
    retires_at: str


class FreezeView(TolerantModel):
    """The latest freeze or thaw of this hub at a spoke, and how it gets there; `killed` is what the spoke counted."""

    asked: Literal["freeze", "thaw"]
    command_id: Uuid7
    state: Literal["pending", "delivered", "refused"]
    last_error: ErrorView | None
    killed: Count | None
    reason: str | None
    at: str


class PeerView(TolerantModel):
    """A spoke, its connection, and how delivery to it goes; times are RFC 3339.

    `link` is null while there is none, `told` before there was one. `failures` envelopes in a row were not answered,
    the first of them at `failingSince`; `lastError` says why, and goes when one was answered. `frozen` is what the
    spoke said last, `freeze` null before this hub ever asked.
    """

    id: InstanceId
    kind: Literal["hub", "spoke"]
    state: Literal["pending", "active", "suspended", "revoked"]
    fingerprint: str
    former_keys: list[FormerKeyView]
    url: str | None
    labels: dict[str, str]
    created_at: str
    last_contact_at: str | None
    pending: Count
    last_attempt_at: str | None
    last_answer_at: str | None
    failing_since: str | None
    failures: Count
    next_attempt_at: str | None
    last_error: ErrorView | None
    link: LinkView | None
    told: ToldView | None
    frozen: bool | None
    freeze: FreezeView | None


class FreezeRequest(StrictModel):
    """With `killAgents` the spoke also ends all agents of this hub."""

    kill_agents: bool = False
    reason: Reason | None = None


class PeerList(TolerantModel):
    """All spokes, by id."""

    peers: list[PeerView]


class ApproveRequest(StrictModel):
    """The fingerprint that the admin compared with the spoke's operator."""

    fingerprint: Annotated[str, Field(pattern=r"^SHA256:[A-Za-z0-9_-]{43}$")]


Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]{1,64}$")]


class InviteRequest(StrictModel):
    """How long the invite is good, and the labels that the spoke gets."""

    ttl_s: Annotated[int, Field(ge=1, le=MAX_DEADLINE_S)] = 86_400
    labels: dict[Label, Annotated[str, Field(max_length=256)]] = Field(
        default_factory=dict,
        max_length=32,
        json_schema_extra={"additionalProperties": False},  # beside those whose name fits the pattern
    )


class InviteView(TolerantModel):
    """The invite string, to be handed to one spoke's operator; it is shown only here."""

    invite: str
    id: Uuid7
    expires_at: str


class AgentsQuery(Query):
    """Which agents, and where to begin; `status` takes also `pending`, `refused` and `expired`.

    `reason` is what the spoke gave for an end, such as `attempts_exhausted`.
    """

    spoke: str = ""
    status: Literal[Shown, ""] = ""
    task_id: str = ""
    reason: str = ""
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 100
    cursor: Annotated[str, Field(pattern=f"^$|{UUID7_PATTERN}")] = ""


class AgentQuery(Query):
    """`live` asks the spoke first."""

    live: bool = False


class LogQuery(Query):
    """Which piece of the log, in bytes."""

    offset: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0
    limit: Annotated[int, Field(ge=1, le=MAX_LOG_BYTES)] = 65_536


class LogStreamQuery(Query):
    """Where to go on; `lastEventId` is for clients that cannot set the header."""

    last_event_id: str = ""


class EventsQuery(Query):
    """Which changes; `lastEventId` is for clients that cannot set the header."""

    agent_id: str = ""
    spoke: str = ""
    task_id: str = ""
    last_event_id: str = ""
