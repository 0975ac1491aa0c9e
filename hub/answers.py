"""What the hub's API answers, as types for programs: the JSON objects as they are, with their own names.

A test holds them beside the models that describe the API. A hub may answer more than is named here; ignore it.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Status = Literal["pending", "queued", "spawning", "running", "completed", "failed", "killed"]
Shown = Status | Literal["refused", "expired"]


class Error(TypedDict):
    """Why one thing of many, or an attempt, did not succeed."""

    code: str
    detail: str
    retryable: bool


class Delivery(TypedDict):
    """How a spawn gets to its spoke."""

    state: Literal["pending", "delivered", "refused", "expired"]
    attempts: int
    lastError: Error | None


class KillState(TypedDict):
    """How a kill gets to its spoke."""

    commandId: str
    state: Literal["pending", "delivered", "refused"]
    lastError: Error | None


class Agent(TypedDict):
    """One agent; `status` is `pending` and `seq` 0 until its spoke has answered. Times are RFC 3339."""

    agentId: str
    spoke: str
    taskId: str
    agentType: Literal["worker", "reviewer", "tester"]
    status: Status
    seq: int
    attempt: int
    createdAt: str
    queuedAt: str | None
    startedAt: str | None
    finishedAt: str | None
    reason: str | None
    exitCode: int | None
    signal: str | None
    result: dict[str, Any] | None
    granted: dict[str, int] | None
    queue: dict[str, Any] | None
    receipt: dict[str, Any] | None
    delivery: Delivery
    kill: KillState | None
    context: dict[str, Any] | None


class AgentPage(TypedDict):
    """Agents, newest first; `cursor` leads to the next page and is None on the last."""

    agents: list[Agent]
    cursor: str | None


class Spawned(TypedDict):
    """An agent that cannot be lost any more."""

    agentId: str
    spoke: str
    status: Shown


class SpawnOutcome(TypedDict):
    """One of many: an agent, or `error`; `index` is its place in the request."""

    index: int
    agentId: NotRequired[str]
    spoke: NotRequired[str]
    status: NotRequired[Shown]
    error: NotRequired[Error]


class SpawnedMany(TypedDict):
    """What became of many spawns, in the order of the request."""

    accepted: int
    refused: int
    agents: list[SpawnOutcome]


class Placed(SpawnedMany):
    """The same of agents that the hub found spokes for."""

    batchId: str


class KillAsked(TypedDict):
    """A kill that waits for delivery; `commandId` is None when there was nothing to stop any more."""

    agentId: str
    status: Shown
    commandId: str | None


class KillOutcome(TypedDict):
    """One kill of many, or why there is none."""

    agentId: str
    spoke: str
    status: Shown
    commandId: NotRequired[str | None]
    error: NotRequired[Error]


class KilledMany(TypedDict):
    """Each agent that had not ended."""

    accepted: int
    refused: int
    agents: list[KillOutcome]


class LogPiece(TypedDict):
    """A piece of a log; offsets are in bytes."""

    offset: int
    data: str
    nextOffset: int
    eof: bool


class Sent(TypedDict):
    """A message that was passed to an agent."""

    agentId: str
    commandId: str


class Resumed(TypedDict):
    """An agent that goes on, or has gone on since; `attempt` counts its starts and grows when it is started."""

    agentId: str
    commandId: str
    status: str
    attempt: int


class Change(TypedDict):
    """One change of one agent, as events and webhooks tell it."""

    agentId: str
    spoke: str
    taskId: str
    status: Shown
    seq: int
    delivery: Literal["pending", "delivered", "refused", "expired"]
    reason: str | None
    at: str


class Freeze(TypedDict):
    """The latest freeze or thaw at a spoke, and how it gets there."""

    asked: Literal["freeze", "thaw"]
    commandId: str
    state: Literal["pending", "delivered", "refused"]
    lastError: Error | None
    killed: int | None
    reason: str | None
    at: str


class Peer(TypedDict):
    """A spoke, its connection, and how delivery to it goes; times are RFC 3339, None for never."""

    id: str
    kind: Literal["hub", "spoke"]
    state: Literal["pending", "active", "suspended", "revoked"]
    fingerprint: str
    formerKeys: list[dict[str, str]]
    url: str | None
    labels: dict[str, str]
    createdAt: str
    lastContactAt: str | None
    pending: int
    lastAttemptAt: str | None
    lastAnswerAt: str | None
    failingSince: str | None
    failures: int
    nextAttemptAt: str | None
    lastError: Error | None
    link: dict[str, str] | None
    told: dict[str, Any] | None
    frozen: bool | None
    freeze: Freeze | None


class Invite(TypedDict):
    """An invite string, to be handed to one spoke's operator."""

    invite: str
    id: str
    expiresAt: str


class Webhook(TypedDict):
    """A webhook and how it goes."""

    id: str
    url: str
    events: list[Shown]
    spokes: list[str]
    createdAt: str
    state: Literal["active", "failing", "disabled"]
    toldUpTo: str | None
    lastDeliveryAt: str | None
    lastAttemptAt: str | None
    failingSince: str | None
    failures: int
    nextAttemptAt: str | None
    disabledAt: str | None
    lastError: Error | None
    formerSecretUntil: str | None


class AddedWebhook(Webhook):
    """A webhook with a new secret; `secret` is shown only here."""

    secret: str


class WebhookTest(TypedDict):
    """Whether a receiver took a message just now."""

    id: str
    delivered: bool
    durationMs: float | None
    error: Error | None


class RemovedWebhook(TypedDict):
    """A webhook that is told nothing more."""

    id: str
    removed: bool


def shown(agent: Agent) -> Shown:
    """Return what to show as an agent's status: also `refused` and `expired`, when its spawn never arrived."""
    delivery = agent["delivery"]["state"]
    if agent["status"] == "pending" and delivery in {"refused", "expired"}:
        return "refused" if delivery == "refused" else "expired"
    return agent["status"]
