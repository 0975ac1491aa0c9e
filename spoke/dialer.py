"""Links with hubs, as the side that dials: one task per active hub whose URL is known, for as long as it is one.

A spoke behind NAT has no other way to be reached, and any spoke hears of commands sooner this way. What comes over a
link goes to the same intake as a POST; `opened` hears of each new link, so that waiting events leave at once.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
import structlog

from common.clock import Clock
from common.errors import EnvelopeRejected, HubspokeError, Unavailable
from common.exchange import Exchange
from common.handshake import LINK_PATH, NONCE_BYTES, Capacity, encode_nonce, make_hello, parse_challenge
from common.inbox import Inbox, TrustSource
from common.keyring import NodeKeys
from common.link import HANDSHAKE_S, Link, Opened, read_answer
from common.links import Links
from common.peer_url import check_peer_url
from common.peers import Peer
from common.websocket import GOING_AWAY, REPLACED, ClientSocket, NotOffered, dial, receive_first, send
from spoke.intake import Intake
from spoke.redial import Ending, redial

_POLL_S: Final = 1.0
_NORMAL: Final = 1000
_SERVICE_RESTART: Final = 1012
_GOODBYE: Final = frozenset({_NORMAL, GOING_AWAY, _SERVICE_RESTART})
_log: Final = structlog.get_logger("link")


@dataclass(frozen=True, slots=True)
class Greeter:
    """Makes and checks the messages of the spoke's side of a handshake."""

    keys: NodeKeys
    inbox: Inbox
    exchange: Exchange
    clock: Clock
    capacity: Callable[[], Awaitable[Capacity]]
    labels: Callable[[], Mapping[str, str]]

    async def greet(self, socket: ClientSocket, hub: Peer) -> None:
        """Prove who we are and that `hub` is the hub; raises `EnvelopeNotTaken`, `EnvelopeRejected`, `Unavailable`."""
        challenge = parse_challenge(await receive_first(socket))
        nonce = encode_nonce(os.urandom(NONCE_BYTES))
        hello = make_hello(
            self.keys.signer_for(hub.instance),
            self.exchange.claims(hub.instance),
            nonce=challenge,
            challenge=nonce,
            capacity=await self.capacity(),
            labels=self.labels(),
        )
        await send(socket, hello)
        raw = read_answer(await receive_first(socket))
        answer = self.inbox.admit_hello(raw, nonce=nonce, now_s=self.clock.now_ms() / 1000)
        if answer.peer.tenant != hub.tenant:
            raise EnvelopeRejected("wrong_direction", f"another hub than {hub.instance} answers there")


class Dialer:
    """Keeps a link with every hub; `opened` is called with the tenant of each that was opened."""

    def __init__(
        self,
        greeter: Greeter,
        links: Links,
        intake: Intake,
        session: aiohttp.ClientSession,
        trust: TrustSource,
        opened: Callable[[str], None],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._greeter = greeter
        self._links = links
        self._intake = intake
        self._session = session
        self._trust = trust
        self._opened = opened
        self._jitter = jitter

    async def run(self) -> None:
        """Dial until cancelled."""
        tasks: dict[tuple[str, str | None], asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                hubs = {(peer.tenant, peer.url): peer for peer in self._hubs()}
                for place in tasks.keys() - hubs.keys():
                    tasks.pop(place).cancel()
                for place in hubs.keys() - tasks.keys():
                    tasks[place] = group.create_task(self._keep(hubs[place]), name=f"link {place}")
                await asyncio.sleep(_POLL_S)

    def _hubs(self) -> list[Peer]:
        try:
            peers = self._trust.current().peers()
        except Unavailable as error:
            _log.warning("trust.unavailable", reason=error.message)
            return []
        return [peer for peer in peers if peer.kind == "hub" and peer.state == "active" and peer.url is not None]

    async def _keep(self, hub: Peer) -> None:
        failures = 0
        while True:
            ending, up_s = await self._try(hub)
            following = redial(ending, up_s, failures, self._jitter())
            failures = following.failures
            await asyncio.sleep(following.pause_s)

    async def _try(self, hub: Peer) -> tuple[Ending, float]:
        """Dial once and stay for as long as the link lasts; returns how it ended and how long it was up, in s."""
        started = time.monotonic()
        try:
            code = await self._dial(hub)
        except NotOffered as error:
            _log.info("link.not_offered", peer=hub.instance, reason=error.message)
            return Ending.NOT_OFFERED, 0.0
        except (HubspokeError, TimeoutError) as error:
            code_of = error.code if isinstance(error, HubspokeError) else "too_slow"
            _log.warning("link.failed", peer=hub.instance, code=code_of, reason=str(error))
            return Ending.LOST, 0.0
        except Exception:
            # A mistake of ours about one link must not end the spoke.
            _log.exception("link.crashed", peer=hub.instance)
            return Ending.LOST, 0.0
        if code == REPLACED:
            reason = "another process dialed this hub with our key: if it is not ours, revoke the key"
            _log.error("link.replaced", peer=hub.instance, reason=reason)
            return Ending.REPLACED, time.monotonic() - started
        return (Ending.GOODBYE if code in _GOODBYE else Ending.LOST), time.monotonic() - started

    async def _dial(self, hub: Peer) -> int:
        """Serve one link from its handshake to its end; returns the close code."""
        if all(peer.tenant != hub.tenant for peer in self._hubs()):
            # Suspended or revoked since it was listed: it gets no HELLO of ours.
            raise EnvelopeRejected("connection_inactive", f"the connection with {hub.instance} is not active any more")
        url = check_peer_url(hub.url or "") + LINK_PATH
        async with dial(self._session, url) as socket:
            async with asyncio.timeout(HANDSHAKE_S):
                await self._greeter.greet(socket, hub)
            opened = Opened(hub, url, self._greeter.clock.now_ms())
            link = Link(socket, opened, self._serve, self._trust)
            with self._links.holding(link):
                _log.info("link.up", peer=hub.instance, url=url)
                self._opened(hub.tenant)
                try:
                    await link.run()
                finally:
                    code, reason = link.ending
                    _log.info("link.down", peer=hub.instance, code=code, reason=reason)
            return code

    async def _serve(self, raw: bytes) -> bytes:
        with self._intake.audited(None, "link"):
            return await self._intake.take(raw)
