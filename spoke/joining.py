"""Joining a hub as the spoke: by invite, or by a request that the hub's admin has yet to approve (PROTOCOL section 5).

Invite and fingerprint came by a way that the operator trusts, so the hub proves itself first: nothing is sent to it
before its IDENTITY was signed by exactly that key. Repeating a join that got no answer is harmless, and repeating a
request is how the spoke learns that it was approved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from common.clock import Clock
from common.connection import Node
from common.envelope import ANYONE, DEFAULT_LIFETIME_S, Claims, EnvelopeType, ReplyBody, seal, verify
from common.errors import BadSignature, EnvelopeRejected, PeerError
from common.exchange import EnvelopeNotTaken
from common.inbox import BadReply
from common.introduction import Introduction, identity_claim, introduce
from common.invites import Invite, InviteRefused, compute_mac, decode_secret
from common.keyring import Keyring, NodeKeys, OwnedKey
from common.peer_url import check_peer_url
from common.peers import ConnectionState, Peer, PeerRefused
from common.post import fetch
from common.trust_store import NewPeer, TrustStore

_TOLD: Final = {
    "invite_refused": "the hub does not take this invite (any more); ask its admin for a new one",
    "peer_refused": "the hub has this id with another key, or too many requests; ask its admin to revoke or approve",
    "expired": "by the hub's clock the JOIN has expired; set this machine's clock, and try again",
    "not_yet_valid": "by the hub's clock the JOIN is of the future; set this machine's clock, and try again",
}
"""What the operator is to do about a refusal; a problem's own words are a stranger's."""


class AnotherHub(PeerError):
    """Who answers is not the hub whose fingerprint the operator compared; nothing was sent to it."""

    code = "another_hub"


@dataclass(frozen=True, slots=True)
class Joiner:
    """Joins hubs for one spoke; `url` is how hubs reach it, None behind NAT."""

    me: Node
    keys: NodeKeys
    url: str | None
    clock: Clock

    async def join(self, session: aiohttp.ClientSession, trust: TrustStore, invite: Invite) -> Peer:
        """Join the hub of an invite and register it; both sides are active when this returns.

        Raises `InviteRefused`, `AnotherHub`, `EnvelopeNotTaken`, `BadReply`, `Unavailable`, `PeerRefused`.
        """
        if self.clock.now_ms() // 1000 >= invite.exp:
            raise InviteRefused("the invite has expired; ask the hub's admin for a new one")
        base = check_peer_url(invite.url)
        hub = await self._meet(session, base, invite.fingerprint)
        if hub.instance != invite.hub:
            raise AnotherHub(f"who answers at {base} calls itself another id than the invite; nothing was sent to it")
        self._refuse_other_key(trust, hub)
        mac = compute_mac(decode_secret(invite.secret), self.keys.current.kid, hub.instance)
        connection = await self._post_join(session, base, hub, {"invite": invite.invite, "mac": mac})
        if connection != "active":
            raise BadReply("the hub did not make the connection active; ask its admin")
        return self._register(trust, hub, base, connection)

    async def request(self, session: aiohttp.ClientSession, trust: TrustStore, url: str, fingerprint: str) -> Peer:
        """Ask the hub at `url` to be let in; returns it as `pending`, or as `active` once its admin has approved.

        Raises as `join` does.
        """
        base = check_peer_url(url)
        hub = await self._meet(session, base, fingerprint)
        self._refuse_other_key(trust, hub)
        return self._register(trust, hub, base, await self._post_join(session, base, hub, {}))

    def _refuse_other_key(self, trust: TrustStore, hub: Introduction) -> None:
        # A JOIN tells the hub that we know its key from now on: it must not go out when we could not keep that.
        present = trust.current().find(hub.instance)
        if present is not None and present.state != "revoked" and present.current_key != hub.key:
            raise PeerRefused(f"{hub.instance} is a peer with another key: spoke peer revoke {hub.instance} first")

    def _register(self, trust: TrustStore, hub: Introduction, base: str, connection: str) -> Peer:
        state: ConnectionState = "active" if connection == "active" else "pending"
        new = NewPeer(hub.instance, "hub", hub.key, base, {})
        peer = trust.add(new, state, self.clock.now_ms() // 1000)
        if peer.state == "pending" and state == "active":
            return trust.approve(hub.instance, hub.key.fingerprint)
        return peer

    async def _meet(self, session: aiohttp.ClientSession, base: str, fingerprint: str) -> Introduction:
        raw = await fetch(session, "GET", f"{base}/federation/v1/identity")
        hub = introduce(
            raw, EnvelopeType.IDENTITY, audience=ANYONE, now_s=self.clock.now_ms() / 1000, skew_s=self.me.skew_s
        )
        if hub.key.fingerprint != fingerprint or hub.kind != "hub":
            raise AnotherHub(
                f"who answers at {base} has another fingerprint, or is no hub; nothing was sent to it. If the hub has"
                " rotated its key, ask for its new fingerprint or a new invite"
            )
        return hub

    async def _post_join(
        self, session: aiohttp.ClientSession, base: str, hub: Introduction, proof: Mapping[str, Any]
    ) -> str:
        key, claims = self.keys.current, self._claims(hub.instance)
        identity = identity_claim(self.me.instance, self.me.kind, self.url, (key.public,))
        raw = seal(key, EnvelopeType.JOIN, claims, {"identity": identity, **proof})
        try:
            answer = await fetch(session, "POST", f"{base}/federation/v1/join", raw)
        except EnvelopeNotTaken as refused:
            told = _TOLD.get(refused.code, refused.message)
            raise EnvelopeNotTaken(refused.status, refused.code, told, refused.now) from refused
        return self._check_reply(answer, claims, hub)

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

    def _check_reply(self, answer: bytes, sent: Claims, hub: Introduction) -> str:
        """Return what the hub that we met says of the connection; raises `BadReply`."""
        try:
            keyring = Keyring([OwnedKey(hub.instance, hub.key)])
            reply = verify(answer, keyring, self.clock.now_ms() / 1000)
        except (BadSignature, EnvelopeRejected) as error:
            raise BadReply("the hub's answer to the JOIN is not signed by the hub") from error
        body = reply.body
        if not isinstance(body, ReplyBody) or body.re != sent.jti or reply.claims.aud != self.me.instance:
            raise BadReply("the hub's answer to the JOIN answers something else")
        connection = body.results[0].connection if len(body.results) == 1 else None
        if connection not in {"active", "pending"} or body.results[0].id != self.me.instance:
            raise BadReply("the hub's answer to the JOIN does not say what became of the connection")
        return str(connection)
