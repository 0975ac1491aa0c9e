"""A program that is told by a webhook: it checks each message as the standard says, and answers as it is told.

async with Receiver() as receiver:
    receiver.answers.extend([500, 200])        # then 204 for ever
    receiver.secrets.append(secret)
    await receiver.down()                      # nobody listens any more; up() listens on the same port
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web


@dataclass
class Receiver:
    """Keeps the messages that it took as `told`, and all that came as `came`."""

    secrets: list[str] = field(default_factory=list)
    answers: deque[int] = field(default_factory=deque)
    came: list[str] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    forged: list[str] = field(default_factory=list)
    port: int = 0
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it is told."""
        return f"http://127.0.0.1:{self.port}/hook"

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.down()

    async def up(self) -> None:
        """Listen, on the same port each time."""
        app = web.Application()
        app.add_routes([web.route("*", "/{path:.*}", self._take)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def down(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        message_id = request.headers["Webhook-Id"]
        self.came.append(message_id)
        if not self._is_genuine(request, message_id, body):
            self.forged.append(message_id)
            return web.Response(status=401)
        status = self.answers.popleft() if self.answers else 204
        if status < 300:
            self.told.append({"id": message_id, **json.loads(body)})
        return web.Response(status=status, headers={"Location": "/elsewhere"} if 300 <= status < 400 else None)

    def _is_genuine(self, request: web.Request, message_id: str, body: bytes) -> bool:
        at = request.headers["Webhook-Timestamp"]
        if request.content_type != "application/json" or abs(time.time() - int(at)) > 300:
            return False
        signed = f"{message_id}.{at}.".encode() + body
        keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in self.secrets]
        good = {f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}" for key in keys}
        return not good.isdisjoint(request.headers["Webhook-Signature"].split(" "))

    def of(self, agent_id: str) -> list[str]:
        """Return what it was told of an agent, in the order it came."""
        return [message["data"]["status"] for message in self.told if message["data"].get("agentId") == agent_id]
