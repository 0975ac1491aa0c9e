"""`GET /federation/v1/link`: a spoke dials in, proves itself in the handshake, and from then on both sides send.

Envelopes on the link go to the same intake as those of a POST. Refuses whoever does not finish the handshake in time,
too many at once from one address, and answers a handshake that fails with its problem document before it closes. An
offer of compression is declined (attack row 42).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiohttp import web

from common.clock import Clock
from common.errors import EnvelopeRejected, HubspokeError, Malformed, PeerError, Unavailable
from common.exchange import Exchange
from common.handshake import LINK_PATH, NONCE_BYTES, SUBPROTOCOL, Hello, encode_challenge, encode_nonce, make_hello
from common.http import encode_problem
from common.inbox import Inbox, TrustSource
from common.keyring import NodeKeys
from common.link import HANDSHAKE_S, Link, Opened
from common.links import Links
from common.websocket import POLICY, ServerSocket, close, receive_first, send, server_socket
from hub.agents import Agents
from hub.audit import audited
from hub.crowd import Crowd
from hub.intake import Intake
from hub.metrics import Metrics

MAX_HANDSHAKES: Final = 1024
"""At once from one address: a thousand spokes behind one NAT may all come back in the same moment (fault row 35)."""
_log: Final = structlog.get_logger("link")


class UpgradeRequired(PeerError):
    """The request is no WebSocket of our subprotocol."""

    code = "upgrade_required"
    http_status = 426


@dataclass(frozen=True, slots=True)
class Greeter:
    """Makes and checks the messages of the hub's side of a handshake."""

    keys: NodeKeys
    inbox: Inbox
    exchange: Exchange
    clock: Clock

    async def greet(self, socket: ServerSocket) -> Hello:
        """Return the HELLO of the spoke, after it has ours; raises `EnvelopeRejected` or `Unavailable`."""
        nonce = encode_nonce(os.urandom(NONCE_BYTES))
        await send(socket, encode_challenge(nonce))
        raw = await receive_first(socket)
        hello = self.inbox.admit_hello(raw, nonce=nonce, now_s=self.clock.now_ms() / 1000)
        if not hello.challenge:
            raise Malformed("a spoke's HELLO carries a challenge")
        instance = hello.peer.instance
        signer = self.keys.signer_for(instance)
        await send(socket, make_hello(signer, self.exchange.claims(instance), nonce=hello.challenge))
        return hello


class LinkRoutes:
    """The route of links; `heard` is told the tenant of one that was opened."""

    def __init__(
        self,
        greeter: Greeter,
        links: Links,
        intake: Intake,
        agents: Agents,
        trust: TrustSource,
        metrics: Metrics,
        heard: Callable[[str], None],
    ) -> None:
        self._greeter = greeter
        self._links = links
        self._intake = intake
        self._agents = agents
        self._trust = trust
        self._metrics = metrics
        self._heard = heard
        self._handshakes = Crowd(MAX_HANDSHAKES)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes to add to the application."""
        return [web.get(LINK_PATH, self.take_link)]

    async def take_link(self, request: web.Request) -> web.StreamResponse:
        """Serve one link from its handshake to its end."""
        remote = request.remote or ""
        socket = server_socket()
        if not socket.can_prepare(request) or socket.can_prepare(request).protocol != SUBPROTOCOL:
            raise UpgradeRequired(f"this is a WebSocket with the subprotocol {SUBPROTOCOL}")
        with self._handshakes.entering(remote):
            await socket.prepare(request)
            hello = await self._shake_hands(socket, remote)
        if hello is not None:
            await self._run(socket, hello, remote)
        _drop(request)
        return socket

    def _audited(self, event: str, **line: Any) -> AbstractContextManager[dict[str, Any]]:
        return audited(self._metrics, self._intake.audit, event, **line)

    async def _shake_hands(self, socket: ServerSocket, remote: str) -> Hello | None:
        """Return the spoke's HELLO; a handshake that fails is answered, closed and None."""
        try:
            with self._audited("link.received", remote=remote) as line:
                try:
                    async with asyncio.timeout(HANDSHAKE_S):
                        hello = await self._greeter.greet(socket)
                except TimeoutError as error:
                    raise EnvelopeRejected("too_slow", f"no HELLO came within {HANDSHAKE_S:.0f} s") from error
                line["peer"] = hello.peer.instance
                return hello
        except HubspokeError as error:
            if not socket.closed:
                await _refuse(socket, error)
            return None

    async def _run(self, socket: ServerSocket, hello: Hello, remote: str) -> None:
        peer = hello.peer

        async def serve(raw: bytes) -> bytes:
            with audited(
                self._metrics, self._intake.audit, "envelope.received", remote=remote, transport="link"
            ) as line:
                reply, told = await self._intake.take(raw)
                line.update(told)
                return reply

        link = Link(socket, Opened(peer, remote, self._greeter.clock.now_ms()), serve, self._trust)
        with self._links.holding(link) as replaced:
            _log.info("link.up", peer=peer.instance, remote=remote)
            if replaced is not None:
                _log.warning(
                    "link.replaced",
                    peer=peer.instance,
                    remote=remote,
                    former_remote=replaced.remote,
                    reason="the spoke dialed again; if its old link was alive, two nodes run with one key",
                )
            self._metrics.links.inc()
            try:
                await self._remember(hello)
                self._heard(peer.tenant)
                await link.run()
            finally:
                self._metrics.links.dec()
                code, reason = link.ending
                _log.info("link.down", peer=peer.instance, remote=remote, code=code, reason=reason)

    async def _remember(self, hello: Hello) -> None:
        try:
            await self._agents.note_hello(hello, self._greeter.clock.now_ms())
        except Unavailable as error:
            _log.warning("hello.not_kept", peer=hello.peer.instance, reason=error.message)


async def _refuse(socket: ServerSocket, error: HubspokeError) -> None:
    with suppress(Unavailable):
        await send(socket, encode_problem(error))
    await close(socket, POLICY, error.code)


def _drop(request: web.Request) -> None:
    """Let go of what the other side has not read by now: it had its time."""
    if request.transport is not None and request.transport.get_write_buffer_size():
        request.transport.abort()
