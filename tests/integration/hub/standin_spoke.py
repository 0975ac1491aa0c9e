"""A stand-in for a spoke that can be told how to behave: it verifies and signs for real, and runs nothing.

async with StandinSpoke(node) as spoke:        # an active peer of the hub, with a fresh id
    spoke.next("drop")                         # takes the next envelope and hangs up instead of answering
    spoke.answers["spawn"] = error("queue_full", retryable=True)
    await spoke.down()                         # nobody listens any more
"""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Self

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.clock import SystemClock
from common.envelope import CommandBody, EnvelopeType, ReplyBody, VerifiedEnvelope, verify
from common.http import ENVELOPE_TYPE, problem_document
from common.keyring import Keyring, OwnedKey, SigningKey
from tests.envelopes import sign
from tests.integration.hub.hub_node import HubNode

ENVELOPES: Final = "/federation/v1/envelopes"
_CLOCK: Final = SystemClock()
_numbers: Final = itertools.count(1)

Answer = Callable[[dict[str, Any]], dict[str, Any]]
Behaviour = Callable[[VerifiedEnvelope], Awaitable[web.StreamResponse | bytes]]


def new_id() -> str:
    """A fresh UUIDv7."""
    return _CLOCK.new_id()


def is_question(envelope: VerifiedEnvelope) -> bool:
    """Whether an envelope only asks for the status of agents."""
    return isinstance(envelope.body, CommandBody) and all(
        command["command"] == "status" for command in envelope.body.commands
    )


def error(code: str, *, retryable: bool = False, detail: str = "said the stand-in") -> Answer:
    """An answer that refuses a command."""
    return lambda command: {"id": command["id"], "error": {"code": code, "detail": detail, "retryable": retryable}}


def agent_status(agent_id: str, status: str = "queued", seq: int = 1, **members: Any) -> dict[str, Any]:
    """A complete AgentStatus."""
    return {
        "agentId": agent_id, "taskId": "T-1", "agentType": "worker", "status": status, "seq": seq, "attempt": 1,
        "queuedAt": "2026-11-22T08:00:00.000Z", "startedAt": None, "finishedAt": None, "reason": None,
        "exitCode": None, "signal": None, "result": None, "granted": None, "queue": None, "receipt": None, **members,
    }  # fmt: skip


@dataclass
class StandinSpoke:
    """A spoke of `node` with an id and a key of its own; `envelopes` are the commands that came, as they came."""

    node: HubNode
    id: str = field(default_factory=lambda: f"standin-{next(_numbers)}-{os.getpid()}")
    key: SigningKey = field(default_factory=lambda: SigningKey(Ed25519PrivateKey.generate()))
    url: str | None = None
    registered: bool = True
    envelopes: list[list[dict[str, Any]]] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    """Of which agents the status was asked."""
    claims: list[Any] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    agents: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    log: bytes = b""
    grows: bool = False
    """Whether more may come to the log of an agent that has not ended."""
    told: dict[str, str] = field(default_factory=dict)
    """What agents were sent or resumed with, by the command's id."""
    _behaviours: deque[str | Behaviour] = field(default_factory=deque)
    _runner: web.AppRunner | None = None
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """What `hold` waits for."""

    # --- its life

    async def __aenter__(self) -> Self:
        await self.up()
        if self.registered:
            self.node.add_peer(self.id, self.key.public, self.url)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.released.set()
        await self.down()

    async def up(self) -> None:
        """Listen, on the same port each time."""
        app = web.Application(client_max_size=2**21)
        app.add_routes([web.post(ENVELOPES, self._take), web.get("/federation/v1/identity", self._identity)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        port = 0 if self.url is None else int(self.url.rpartition(":")[2])
        await web.TCPSite(self._runner, "127.0.0.1", port, reuse_address=True).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def down(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def next(self, *behaviours: str | Behaviour) -> None:
        """Say how to behave for the next envelopes: `drop`, `hold`, a code to refuse with, or a function."""
        self._behaviours.extend(behaviours)

    # --- what came

    @property
    def commands(self) -> list[dict[str, Any]]:
        """All commands, in the order they came, as often as they came."""
        return [command for envelope in self.envelopes for command in envelope]

    def sent(self, agent_id: str, kind: str = "spawn") -> int:
        """How often a command of this kind came for this agent."""
        return sum(
            command["command"] == kind and agent_id in (command["id"], command.get("agentId"))
            for command in self.commands
        )

    # --- answering

    def open(self, raw: bytes) -> VerifiedEnvelope:
        """Verify an envelope of the hub."""
        return verify(raw, Keyring([OwnedKey(self.node.id, self.node.key.public)]), time.time())

    def claims_to_hub(self, **changes: Any) -> dict[str, Any]:
        """Good claims, changed as asked."""
        now_s = int(time.time())
        return {
            "v": 1, "iss": self.id, "aud": self.node.id, "jti": new_id(), "iat": now_s, "exp": now_s + 60, **changes,
        }  # fmt: skip

    async def _take(self, request: web.Request) -> web.StreamResponse:
        envelope = self.open(await request.read())
        assert isinstance(envelope.body, CommandBody)
        assert envelope.claims.aud == self.id
        if is_question(envelope):
            # The hub asks by itself what became of agents: no test counts that, or means it by `next`.
            self.questions += [command["agentId"] for command in envelope.body.commands]
            return _envelope(self.reply(envelope))
        self.times.append(time.monotonic())
        self.claims.append(envelope.claims)
        self.envelopes.append(list(envelope.body.commands))
        behaviour = self._behaviours.popleft() if self._behaviours else "answer"
        if callable(behaviour):
            made = await behaviour(envelope)
            return _envelope(made) if isinstance(made, bytes) else made
        return await self._behave(behaviour, envelope, request)

    async def _behave(self, behaviour: str, envelope: VerifiedEnvelope, request: web.Request) -> web.StreamResponse:
        if behaviour == "hold":
            await self.released.wait()
        elif behaviour == "drop":
            self.reply(envelope)
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        elif behaviour != "answer":
            return problem_document(400 if behaviour == "malformed" else 403, behaviour, "refused by the stand-in")
        return _envelope(self.reply(envelope))

    def reply(self, envelope: VerifiedEnvelope, **changes: Any) -> bytes:
        """Act on an envelope and return the signed REPLY; `changes` are to its payload."""
        assert isinstance(envelope.body, CommandBody)
        results = [self._result(command) for command in envelope.body.commands]
        payload = {**self.claims_to_hub(), "re": envelope.claims.jti, "results": results, **changes}
        return sign(payload, key=self.key, typ=EnvelopeType.REPLY)

    def _result(self, command: dict[str, Any]) -> dict[str, Any]:
        kind, agent_id = command["command"], command.get("agentId", command["id"])
        if kind in self.answers:
            return self.answers[kind](command)
        if kind == "spawn":
            self.agents.setdefault(
                agent_id,
                agent_status(agent_id, taskId=command["taskId"], agentType=command["agentType"]),
            )
        elif agent_id not in self.agents:
            return error("not_found")(command)
        if kind == "kill":
            self.advance(agent_id, "killed", reason="killed_by_peer")
        if kind in ("logs", "diff"):
            piece = self.log[command["offset"] : command["offset"] + command["limit"]]
            following = command["offset"] + len(piece)
            may_grow = self.grows and self.agents[agent_id]["status"] in {"queued", "running"}
            eof = following == len(self.log) and not may_grow
            text = piece.decode("utf-8", "replace")
            told = {"offset": command["offset"], "data": text, "nextOffset": following, "eof": eof}
            return {"id": command["id"], "log" if kind == "logs" else "diff": told}
        if kind == "send":
            self.told[command["id"]] = command["text"]
        if kind == "resume" and command["id"] not in self.told:
            self.told[command["id"]] = command.get("text", "")
            self.advance(agent_id, "queued", reason=None, result=None)
        return {"id": command["id"], "agent": self.agents[agent_id]}

    def advance(self, agent_id: str, status: str, **members: Any) -> dict[str, Any]:
        """Take an agent to its next state and return its AgentStatus."""
        before = self.agents[agent_id]
        self.agents[agent_id] = {**before, "status": status, "seq": before["seq"] + 1, **members}
        return self.agents[agent_id]

    async def _identity(self, _request: web.Request) -> web.Response:
        payload = {**self.claims_to_hub(aud="any"), "identity": self.identity()}
        return _envelope(sign(payload, key=self.key, typ=EnvelopeType.IDENTITY))

    def identity(self, **changes: Any) -> dict[str, Any]:
        """The `identity` member of IDENTITY and JOIN, changed as asked."""
        return {
            "instance": self.id, "kind": "spoke", "url": self.url, "keys": [self.key.public.to_jwk()],
            "protocols": [1], **changes,
        }  # fmt: skip

    # --- sending

    async def post(self, raw: bytes, path: str = ENVELOPES, **headers: str) -> tuple[int, bytes]:
        """POST bytes to the hub; returns status and body."""
        sent = {"Content-Type": ENVELOPE_TYPE, **headers}
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.node.url + path, data=io.BytesIO(raw), headers=sent) as response,
        ):
            return response.status, await response.read()

    def seal_events(self, *statuses: dict[str, Any], **changes: Any) -> bytes:
        """An EVENT envelope; `changes` are to its payload."""
        payload = {**self.claims_to_hub(), "events": [{"agent": status} for status in statuses], **changes}
        return sign(payload, key=self.key, typ=EnvelopeType.EVENT)

    async def report(self, *statuses: dict[str, Any]) -> list[dict[str, Any]]:
        """Send events and return the acknowledgements."""
        raw = self.seal_events(*statuses)
        status, body = await self.post(raw)
        assert status == 200, body
        envelope = self.open(body)
        assert isinstance(envelope.body, ReplyBody)
        assert envelope.body.re == verify(raw, Keyring([OwnedKey(self.id, self.key.public)]), time.time()).claims.jti
        return [result.model_dump(by_alias=True, exclude_none=True) for result in envelope.body.results]


def _envelope(raw: bytes) -> web.Response:
    return web.Response(body=raw, content_type=ENVELOPE_TYPE)
