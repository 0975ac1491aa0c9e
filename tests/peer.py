"""A hub for the tests of a spoke: an identity of its own, good and bad envelopes, and an intake of EVENTs.

    hub = HubPeer()
    async with hub.taking_events():
        hub.register(node)
        (result,) = await hub.send(node, hub.spawn(repository))
        await hub.saw(agent_id, "completed")

Without `taking_events` it is a hub behind NAT, or one that is away.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web

from common.clock import SystemClock
from common.envelope import EnvelopeType, EventBody, ReplyBody, VerifiedEnvelope, verify
from common.http import ENVELOPE_TYPE
from common.keyfiles import load_signing_key
from common.keyring import Keyring, OwnedKey, SigningKey
from tests.envelopes import key_of, sign
from tests.spoke_node import DEADLINE_S, SpokeNode, eventually, run_in_process

ENVELOPES: Final = "/federation/v1/envelopes"
_CLOCK: Final = SystemClock()


def new_id() -> str:
    """A fresh UUIDv7."""
    return _CLOCK.new_id()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came over HTTP, whatever it was."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The body as a problem document."""
        assert self.headers["Content-Type"] == "application/problem+json", self.body
        document: dict[str, Any] = json.loads(self.body)
        return document

    @property
    def code(self) -> str:
        """The code of the problem; `accepted` for an envelope."""
        return "accepted" if self.status == 200 else str(self.problem["code"])


@dataclass
class HubPeer:
    """A hub with the id `id` and the key of `seed`."""

    id: str = "hub-eu"
    seed: int = 1
    url: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    """The AgentStatus of every event, as often as it came and in the order it came."""
    refuse_with: int | None = None
    """Answer events with this status of HTTP instead."""
    error: dict[str, Any] | None = None
    """Answer each event with this error instead of its `seq`."""
    received: int = 0

    @property
    def key(self) -> SigningKey:
        """The key it signs with."""
        return key_of(self.seed)

    # --- making envelopes

    def claims(self, node: SpokeNode, **changes: Any) -> dict[str, Any]:
        """Good claims to the node, changed as asked."""
        now_s = int(time.time())
        return {"v": 1, "iss": self.id, "aud": node.id, "jti": new_id(), "iat": now_s, "exp": now_s + 60, **changes}

    def seal(self, node: SpokeNode, *commands: dict[str, Any], **changes: Any) -> bytes:
        """A COMMAND of these commands; `changes` are to its claims."""
        return sign({**self.claims(node), "commands": list(commands), **changes}, key=self.key)

    def spawn(self, repository: Path | str, *work_items: str, **changes: Any) -> dict[str, Any]:
        """A spawn of an agent that does these work items."""
        url = f"file://{repository}" if isinstance(repository, Path) else repository
        context = {"repository": url, "branch": changes.pop("branch", "main"), "workItems": list(work_items) or ["-"]}
        return {
            "id": new_id(), "command": "spawn", "taskId": "T-1", "agentType": "worker", "context": context,
            "maxAttempts": 1, **changes,
        }  # fmt: skip

    def about(self, command: str, agent_id: str, **members: Any) -> dict[str, Any]:
        """A status, kill or logs."""
        return {"id": new_id(), "command": command, "agentId": agent_id, **members}

    # --- sending them

    def register(self, node: SpokeNode) -> None:
        """Make it an active peer of the node by `spoke peer add`."""
        file = node.directory / f"{self.id}.jwk"
        file.write_text(json.dumps(self.key.public.to_jwk()))
        url = [] if self.url is None else ["--url", self.url]
        run_in_process(node.directory, "peer", "add", self.id, "--key", str(file), *url)

    async def post(self, node: SpokeNode, raw: bytes, path: str = ENVELOPES, **headers: str) -> Answer:
        """POST bytes as an envelope; `Content_Type="text/plain"` is a header."""
        sent = {"Content-Type": ENVELOPE_TYPE, **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(DEADLINE_S)) as session,
            session.post(node.url + path, data=raw, headers=sent) as response,
        ):
            return Answer(response.status, dict(response.headers), await response.read())

    async def send(self, node: SpokeNode, *commands: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
        """Send commands and return their results, from a REPLY that was checked."""
        claims = self.claims(node, **changes)
        answer = await self.post(node, sign({**claims, "commands": list(commands)}, key=self.key))
        assert answer.status == 200, answer.body
        envelope = self.open(node, answer.body)
        assert isinstance(envelope.body, ReplyBody)
        assert (envelope.body.re, envelope.claims.aud) == (claims["jti"], self.id)
        results = [result.model_dump(by_alias=True, exclude_none=True) for result in envelope.body.results]
        assert [result["id"] for result in results] == [command["id"] for command in commands]
        return results

    async def ask(self, node: SpokeNode, command: dict[str, Any]) -> dict[str, Any]:
        """Send one command and return its result."""
        (result,) = await self.send(node, command)
        return result

    def open(self, node: SpokeNode, raw: bytes) -> VerifiedEnvelope:
        """Verify an envelope that the node signed."""
        key = load_signing_key(node.directory / "keys" / f"{node.id}.key").public
        return verify(raw, Keyring([OwnedKey(node.id, key)]), time.time())

    # --- taking events

    @asynccontextmanager
    async def taking_events(self, node: SpokeNode) -> AsyncIterator[None]:
        """Listen for the node's EVENTs, on the same port each time, and acknowledge them."""

        async def take(request: web.Request) -> web.Response:
            self.received += 1
            if self.refuse_with is not None:
                return web.Response(status=self.refuse_with)
            envelope = self.open(node, await request.read())
            assert isinstance(envelope.body, EventBody)
            return web.Response(body=self._acknowledge(envelope, envelope.body, node), content_type=ENVELOPE_TYPE)

        app = web.Application(client_max_size=2**21)
        app.add_routes([web.post(ENVELOPES, take)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        port = 0 if self.url is None else int(self.url.rpartition(":")[2])
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield
        finally:
            await runner.cleanup()

    def _acknowledge(self, envelope: VerifiedEnvelope, body: EventBody, node: SpokeNode) -> bytes:
        results = []
        for event in body.events:
            status = json.loads(event.agent.to_json())
            self.events.append(status)
            settled = {"seq": status["seq"]} if self.error is None else {"error": self.error}
            results.append({"id": status["agentId"], **settled})
        reply = {**self.claims(node), "re": envelope.claims.jti, "results": results}
        return sign(reply, key=self.key, typ=EnvelopeType.REPLY)

    def events_of(self, agent_id: str) -> list[dict[str, Any]]:
        """The events of one agent, in the order they came."""
        return [event for event in self.events if event["agentId"] == agent_id]

    async def saw(self, agent_id: str, status: str) -> dict[str, Any]:
        """Wait until an event told of this state, and return it."""

        def found() -> dict[str, Any] | None:
            return next((event for event in self.events_of(agent_id) if event["status"] == status), None)

        event: dict[str, Any] = await eventually(found, f"the event that {agent_id} is {status}")
        return event
