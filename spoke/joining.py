"""Joining a hub by invite, as the spoke (PROTOCOL section 5.1).

The invite came by a way that the operator trusts and names the hub's fingerprint, so the hub proves itself first:
nothing is sent to it before its IDENTITY was signed by exactly that key. Repeating a join that got no answer is
harmless.
"""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp

from common.clock import Clock
from common.connection import Node
from common.envelope import ANYONE, DEFAULT_LIFETIME_S, Claims, EnvelopeType, ReplyBody, seal, verify
from common.errors import BadSignature, EnvelopeRejected
from common.inbox import BadReply
from common.introduction import Introduction, identity_claim, introduce
from common.invites import Invite, InviteRefused, compute_mac, decode_secret
from common.keyring import Keyring, OwnedKey, SigningKey
from common.peer_url import check_peer_url
from common.peers import Peer
from common.post import fetch
from common.trust_store import NewPeer, TrustStore


@dataclass(frozen=True, slots=True)
class Joiner:
    """Joins hubs for one spoke; `url` is how hubs reach it, None behind NAT."""

    me: Node
    key: SigningKey
    url: str | None
    clock: Clock

    async def join(self, session: aiohttp.ClientSession, trust: TrustStore, invite: Invite) -> Peer:
        """Join the hub of an invite and register it; both sides are active when this returns.

        Raises `InviteRefused` (expired, another hub answered), `EnvelopeNotTaken`, `Unavailable`, `PeerRefused`.
        """
        now_s = self.clock.now_ms() // 1000
        if now_s >= invite.exp:
            raise InviteRefused("the invite has expired; ask the hub's admin for a new one")
        base = check_peer_url(invite.url)
        hub = await self._meet(session, base, invite)
        await self._post_join(session, base, invite, hub)
        return trust.add(NewPeer(hub.instance, "hub", hub.key, base, {}), "active", now_s)

    async def _meet(self, session: aiohttp.ClientSession, base: str, invite: Invite) -> Introduction:
        raw = await fetch(session, "GET", f"{base}/federation/v1/identity")
        hub = introduce(
            raw, EnvelopeType.IDENTITY, audience=ANYONE, now_s=self.clock.now_ms() / 1000, skew_s=self.me.skew_s
        )
        if hub.key.fingerprint != invite.fingerprint or hub.instance != invite.hub or hub.kind != "hub":
            raise InviteRefused(f"who answers at {base} is not the hub that made the invite; nothing was sent to it")
        return hub

    async def _post_join(self, session: aiohttp.ClientSession, base: str, invite: Invite, hub: Introduction) -> None:
        claims = self._claims(hub.instance)
        fields = {
            "identity": identity_claim(self.me.instance, self.me.kind, self.url, (self.key.public,)),
            "invite": invite.invite,
            "mac": compute_mac(decode_secret(invite.secret), self.key.kid, hub.instance),
        }
        answer = await fetch(
            session, "POST", f"{base}/federation/v1/join", seal(self.key, EnvelopeType.JOIN, claims, fields)
        )
        self._check_reply(answer, claims, hub)

    def _claims(self, audience: str) -> Claims:
        now_s = self.clock.now_ms() // 1000
        return Claims(
            v=1,
            iss=self.me.instance,
            aud=audience,
            jti=self.clock.new_id(),
            iat=now_s,
            exp=now_s + DEFAULT_LIFETIME_S,
        )

    def _check_reply(self, answer: bytes, sent: Claims, hub: Introduction) -> None:
        """Raise `BadReply` unless the hub that we met says that the connection is active."""
        try:
            keyring = Keyring([OwnedKey(hub.instance, hub.key)])
            reply = verify(answer, keyring, self.clock.now_ms() / 1000)
        except (BadSignature, EnvelopeRejected) as error:
            raise BadReply("the hub's answer to the JOIN is not signed by the hub") from error
        body = reply.body
        if not isinstance(body, ReplyBody) or body.re != sent.jti or reply.claims.aud != self.me.instance:
            raise BadReply("the hub's answer to the JOIN answers something else")
        if [(result.id, result.connection) for result in body.results] != [(self.me.instance, "active")]:
            raise BadReply("the hub did not make the connection active; ask its admin")
