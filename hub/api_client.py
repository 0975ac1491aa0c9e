"""The hub's API as methods: one for each route, with typed answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypedDict, cast

from common.clock import SystemClock
from common.commands import MAX_LOG_BYTES
from hub.answers import (
    AddedWebhook,
    Agent,
    AgentPage,
    Freeze,
    Invite,
    KillAsked,
    KilledMany,
    LogPiece,
    Peer,
    Placed,
    RemovedWebhook,
    Resumed,
    Sent,
    Spawned,
    SpawnedMany,
    Webhook,
    WebhookTest,
)
from hub.asking import API, Asking, Refused, T
from hub.work import Work, given

_AGENTS: Final = f"{API}/agents"
_PEERS: Final = f"{API}/peers"
_WEBHOOKS: Final = f"{API}/webhooks"
_CLOCK: Final = SystemClock()


class _Peers(TypedDict):
    peers: list[Peer]


class _Webhooks(TypedDict):
    webhooks: list[Webhook]


class ApiClient(Asking):
    """Every method raises `Refused` when the hub says no, `NodeUnreachable` when there is no hub to ask.

    An answer that was lost is asked for again by itself, except where that would do something twice.
    """

    # --- agents

    async def spawn(
        self, spoke: str, work: Work, *, agent_id: str | None = None, deadline_s: int | None = None
    ) -> Spawned:
        """Start an agent; it cannot be lost any more when this returns. Give up `deadline_s` without an answer.

        With an `agent_id` (a UUIDv7) of yours the same call may be made again, also by another program.
        """
        own_id = agent_id or _CLOCK.new_id()
        body = {"agentId": own_id, "spoke": spoke, **work.to_request(own_id), **given(deadlineS=deadline_s)}
        return await self.ask(Spawned, "POST", _AGENTS, body=body)

    async def spawn_many(self, wanted: Sequence[tuple[str, Work]]) -> SpawnedMany:
        """Start up to 1000 agents, each a spoke and its work; each has its own answer, in order."""
        ids = [_CLOCK.new_id() for _ in wanted]
        agents = [
            {"agentId": own_id, "spoke": spoke, **work.to_request(own_id)}
            for own_id, (spoke, work) in zip(ids, wanted, strict=True)
        ]
        return await self._many(SpawnedMany, _AGENTS, {"agents": agents})

    async def place(
        self,
        work: Work,
        *,
        spoke: str | None = None,
        labels: Mapping[str, str] | None = None,
        count: int | None = None,
        batch_id: str | None = None,
        deadline_s: int | None = None,
    ) -> Placed:
        """Start an agent on every active spoke that has the `labels`, or `count` where there is least to do."""
        own_id = batch_id or _CLOCK.new_id()
        chosen = given(spoke=spoke, count=count, deadlineS=deadline_s)
        body = {"batchId": own_id, **work.to_request(own_id), "labels": dict(labels or {}), **chosen}
        return await self._many(Placed, f"{_AGENTS}/place", body)

    async def _many(self, kind: type[T], path: str, body: Mapping[str, Any]) -> T:
        """All refused is an answer like any other."""
        try:
            return await self.ask(kind, "POST", path, body=body)
        except Refused as error:
            if error.code != "all_refused":
                raise
            return cast("T", error.problem)

    async def agent(self, agent_id: str, *, live: bool = False) -> Agent:
        """Return one agent as the hub knows it; `live` asks its spoke first."""
        return await self.ask(Agent, "GET", f"{_AGENTS}/{agent_id}", query={"live": "true"} if live else None)

    async def agents(
        self,
        *,
        spoke: str = "",
        status: str = "",
        task_id: str = "",
        reason: str = "",
        limit: int = 100,
        cursor: str = "",
    ) -> AgentPage:
        """Return one page of agents, newest first; `status` also takes `refused` and `expired`."""
        wanted = {"spoke": spoke, "status": status, "taskId": task_id, "reason": reason, "cursor": cursor}
        query = {name: value for name, value in wanted.items() if value}
        return await self.ask(AgentPage, "GET", _AGENTS, query={**query, "limit": limit})

    async def kill(self, agent_id: str, *, grace_s: int | None = None, reason: str | None = None) -> KillAsked:
        """Stop an agent, however often it is asked for."""
        body = given(graceS=grace_s, reason=reason)
        return await self.ask(KillAsked, "POST", f"{_AGENTS}/{agent_id}/kill", body=body)

    async def kill_many(
        self,
        *,
        task_id: str | None = None,
        spoke: str | None = None,
        everything: bool = False,
        grace_s: int | None = None,
        reason: str | None = None,
    ) -> KilledMany:
        """Stop all agents of a task, of a spoke, of both, or `everything`, that have not ended."""
        chosen = given(taskId=task_id, spoke=spoke, all=everything or None)
        body = {**chosen, **given(graceS=grace_s, reason=reason)}
        return await self.ask(KilledMany, "POST", f"{_AGENTS}/kill", body=body)

    async def log(self, agent_id: str, offset: int = 0) -> LogPiece:
        """Return a piece of an agent's log from that byte on."""
        query = {"offset": offset, "limit": MAX_LOG_BYTES}
        return await self.ask(LogPiece, "GET", f"{_AGENTS}/{agent_id}/logs", query=query)

    async def patch(self, agent_id: str, offset: int = 0) -> LogPiece:
        """Return a piece of the git patch of what an agent changed; one reading from 0 on fits together."""
        query = {"offset": offset, "limit": MAX_LOG_BYTES}
        return await self.ask(LogPiece, "GET", f"{_AGENTS}/{agent_id}/diff", query=query)

    async def send(self, agent_id: str, text: str, *, command_id: str | None = None) -> Sent:
        """Give a running agent a message, once however often the answer is lost."""
        body = {"text": text, "commandId": command_id or _CLOCK.new_id()}
        return await self.ask(Sent, "POST", f"{_AGENTS}/{agent_id}/send", body=body)

    async def resume(self, agent_id: str, text: str | None = None, *, command_id: str | None = None) -> Resumed:
        """Have an agent that has ended go on, with a message if you like, once however often the answer is lost."""
        body = given(text=text, commandId=command_id or _CLOCK.new_id())
        return await self.ask(Resumed, "POST", f"{_AGENTS}/{agent_id}/resume", body=body)

    # --- peers

    async def peers(self) -> list[Peer]:
        """Return all spokes, by id."""
        return (await self.ask(_Peers, "GET", _PEERS))["peers"]

    async def peer(self, instance: str) -> Peer:
        """Return one spoke."""
        return await self.ask(Peer, "GET", f"{_PEERS}/{instance}")

    async def approve(self, instance: str, fingerprint: str) -> Peer:
        """Let a pending spoke in; `fingerprint` is what its operator read to you."""
        return await self.ask(Peer, "POST", f"{_PEERS}/{instance}/approve", body={"fingerprint": fingerprint})

    async def change_peer(self, instance: str, action: Literal["suspend", "resume", "revoke"]) -> Peer:
        """Stop all traffic with a spoke, take it up again, or end its connection for good."""
        return await self.ask(Peer, "POST", f"{_PEERS}/{instance}/{action}")

    async def invite(self, *, ttl_s: int = 86_400, labels: Mapping[str, str] | None = None) -> Invite:
        """Make an invite for one spoke."""
        body = {"ttlS": ttl_s, "labels": dict(labels or {})}
        return await self.ask(Invite, "POST", f"{API}/invites", body=body, again=False)

    async def freeze(self, instance: str, *, kill_agents: bool = False, reason: str | None = None) -> Freeze:
        """Have a spoke refuse this hub's spawns, and end its agents if asked."""
        body = {"killAgents": kill_agents, **given(reason=reason)}
        return await self.ask(Freeze, "POST", f"{_PEERS}/{instance}/freeze", body=body)

    async def thaw(self, instance: str) -> Freeze:
        """Have a spoke take this hub's spawns again."""
        return await self.ask(Freeze, "POST", f"{_PEERS}/{instance}/thaw")

    # --- webhooks

    async def add_webhook(self, url: str, events: Sequence[str] = (), spokes: Sequence[str] = ()) -> AddedWebhook:
        """Have `url` told of what happens; the answer holds the secret, which is shown only here."""
        body = {"url": url, "events": list(events), "spokes": list(spokes)}
        return await self.ask(AddedWebhook, "POST", _WEBHOOKS, body=body, again=False)

    async def webhooks(self) -> list[Webhook]:
        """Return all webhooks."""
        return (await self.ask(_Webhooks, "GET", _WEBHOOKS))["webhooks"]

    async def webhook(self, webhook_id: str) -> Webhook:
        """Return one webhook and how it goes."""
        return await self.ask(Webhook, "GET", f"{_WEBHOOKS}/{webhook_id}")

    async def test_webhook(self, webhook_id: str) -> WebhookTest:
        """Have a message sent now; returns whether it was taken."""
        return await self.ask(WebhookTest, "POST", f"{_WEBHOOKS}/{webhook_id}/test")

    async def resume_webhook(self, webhook_id: str) -> Webhook:
        """Try one again at once, also when it was given up."""
        return await self.ask(Webhook, "POST", f"{_WEBHOOKS}/{webhook_id}/resume")

    async def rotate_webhook(self, webhook_id: str, overlap_s: int = 86_400) -> AddedWebhook:
        """Give one a new secret, shown only here; former ones sign beside it for `overlap_s` seconds, none longer."""
        return await self.ask(
            AddedWebhook, "POST", f"{_WEBHOOKS}/{webhook_id}/rotate", body={"overlapS": overlap_s}, again=False
        )

    async def remove_webhook(self, webhook_id: str) -> RemovedWebhook:
        """Tell one nothing more."""
        return await self.ask(RemovedWebhook, "DELETE", f"{_WEBHOOKS}/{webhook_id}", again=False)

    # --- the node

    async def ready(self) -> dict[str, Any]:
        """Return what `/readyz` says when the node is ready."""
        return await self.ask(dict, "GET", "/readyz")
