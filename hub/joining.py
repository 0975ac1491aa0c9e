"""Joining: a JOIN envelope in, an active or pending spoke in the trust store, a REPLY out (PROTOCOL section 5).

An invite's secret is proved **before** the invite is touched. A JOIN is accepted once, like every envelope; a sender
that lost the reply signs a fresh one. Refuses hubs: only a spoke joins a hub. Of a spoke that is known it changes the
URL and nothing else, and that not faster than the audit should grow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from common import strict_json
from common.clock import Clock
from common.connection import Node
from common.envelope import ANYONE, EnvelopeType, seal
from common.errors import EnvelopeRejected, Malformed, RateLimited
from common.exchange import Exchange
from common.introduction import Introduction, identity_claim, introduce
from common.invites import check_mac, secret_of
from common.keyring import NodeKeys
from common.peer_url import check_peer_url
from common.peers import Peer
from common.rotation_store import RotationStore
from common.trust_store import TrustStore
from hub.agents import Agents, ReplayMark

STAYS_S: Final = 60
"""So long at least a spoke stays at the URL that it has told."""


class Joining:
    """Says who this hub is, and lets spokes in; `heard` is told the tenant of one that became active."""

    def __init__(
        self,
        me: Node,
        keys: NodeKeys,
        trust: TrustStore,
        agents: Agents,
        exchange: Exchange,
        clock: Clock,
        heard: Callable[[str], None],
    ) -> None:
        self._me = me
        self._keys = keys
        self._trust = trust
        self._agents = agents
        self._exchange = exchange
        self._clock = clock
        self._heard = heard
        self._moved_s: dict[str, int] = {}

    def identity(self, url: str | None) -> bytes:
        """Return the IDENTITY envelope; `url` is how others reach this hub."""
        now_s = self._clock.now_ms() / 1000
        claim = identity_claim(self._me.instance, "hub", url, self._keys.public_keys(now_s))
        return seal(self._keys.current, EnvelopeType.IDENTITY, self._exchange.claims(ANYONE), {"identity": claim})

    async def take(self, raw: bytes) -> tuple[bytes, Peer]:
        """Return the REPLY and the peer; raises `EnvelopeRejected`, `InviteRefused`, `PeerRefused`, `UrlRefused`."""
        now_ms = self._clock.now_ms()
        introduction = introduce(
            raw,
            EnvelopeType.JOIN,
            audience=self._me.instance,
            now_s=now_ms / 1000,
            skew_s=self._me.skew_s,
        )
        if introduction.kind != "spoke":
            raise EnvelopeRejected("wrong_direction", "only a spoke joins a hub")
        if introduction.url is not None:
            check_peer_url(introduction.url)
        self._check_invite(introduction)
        await self._agents.mark(ReplayMark.of(introduction.claims, now_ms, self._me.skew_s))
        peer = self._let_in(introduction, now_ms // 1000)
        self._note_aware(peer)
        result = strict_json.encode({"id": peer.instance, "connection": peer.state})
        return self._exchange.reply_to_join(peer.instance, introduction.claims.jti, [result]), peer

    def _note_aware(self, peer: Peer) -> None:
        """Take a JOIN for what it is: its sender has just met the key of our IDENTITY, the latest one."""
        latest = self._trust.current().rotation
        if latest is not None and peer.acknowledged < latest.epoch:
            RotationStore(self._trust).acknowledge(peer, latest.epoch)

    def _check_invite(self, introduction: Introduction) -> None:
        if (introduction.invite is None) != (introduction.mac is None):
            raise Malformed("a JOIN has invite and mac, or neither")
        if introduction.invite is not None and introduction.mac is not None:
            secret = secret_of(introduction.invite, self._keys.current)
            check_mac(secret, introduction.key.kid, self._me.instance, introduction.mac)

    def _let_in(self, introduction: Introduction, now_s: int) -> Peer:
        before = self._trust.current().find(introduction.instance)
        self._check_moves(before, introduction, now_s)
        take = self._trust.request if introduction.invite is None else self._trust.redeem
        peer = take(introduction, now_s)
        has_moved = before is not None and before.connection == peer.connection and before.url != peer.url
        if has_moved:
            self._moved_s[peer.tenant] = now_s
        if peer.state == "active" and (has_moved or introduction.invite is not None):
            self._heard(peer.tenant)
        return peer

    def _check_moves(self, known: Peer | None, introduction: Introduction, now_s: int) -> None:
        if known is None or introduction.url in {None, known.url}:
            return
        wait_s = self._moved_s.get(known.tenant, 0) + STAYS_S - now_s
        if wait_s > 0:
            raise RateLimited(f"the URL of a spoke changes once in {STAYS_S} s", retry_after_s=min(wait_s, STAYS_S))
