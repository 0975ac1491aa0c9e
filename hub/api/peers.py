"""`/api/v1/peers` and `/api/v1/invites`: who may connect, and how delivery to them goes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
from aiohttp import web

from common.http import json_response, read_json
from common.ids import rfc3339
from common.link import Link
from common.links import Links
from common.peers import ConnectionState, Peer
from common.trust_store import TrustStore
from common.wire import InstanceId
from hub.agents import Agents
from hub.answers import Invite as InviteAnswer
from hub.answers import Peer as PeerAnswer
from hub.api.models import ApproveRequest, InviteRequest, InviteView, PeerList, PeerView
from hub.api.route import Route
from hub.contacts import Contact
from hub.inviting import Inviting
from hub.peering import NoSuchSpoke

_CREATED: Final = 201
_log: Final = structlog.get_logger("peers")


class PeersApi:
    """Handlers about peers and invites; `heard` ends a spoke's backoff, `url` is how others reach this hub."""

    def __init__(
        self,
        trust: TrustStore,
        agents: Agents,
        inviting: Inviting,
        heard: Callable[[str], None],
        url: Callable[[], str | None],
        links: Links,
    ) -> None:
        self._trust = trust
        self._agents = agents
        self._inviting = inviting
        self._heard = heard
        self._url = url
        self._links = links

    def routes(self) -> list[Route]:
        """Return the routes of peers and invites."""
        one = "/api/v1/peers/{id}"
        return [
            Route("GET", "/api/v1/peers", self.list, "List peers", response=PeerList),
            Route(
                "GET",
                one,
                self.show,
                "Show one peer",
                response=PeerView,
                identifier=InstanceId,
            ),
            Route(
                "POST",
                f"{one}/approve",
                self.approve,
                "Let a pending spoke in, naming the fingerprint that was compared",
                request=ApproveRequest,
                response=PeerView,
                identifier=InstanceId,
            ),
            Route(
                "POST",
                f"{one}/suspend",
                self._to("suspended"),
                "Stop all traffic with a peer",
                response=PeerView,
                identifier=InstanceId,
            ),
            Route(
                "POST",
                f"{one}/resume",
                self._to("active"),
                "Take up traffic again, and try at once",
                response=PeerView,
                identifier=InstanceId,
            ),
            Route(
                "POST",
                f"{one}/revoke",
                self._to("revoked"),
                "End a connection for good",
                response=PeerView,
                identifier=InstanceId,
            ),
            Route(
                "POST",
                "/api/v1/invites",
                self.invite,
                "Make an invite for one spoke",
                status=_CREATED,
                request=InviteRequest,
                body_optional=True,
                response=InviteView,
            ),
        ]

    def _find(self, instance: str) -> Peer:
        peer = self._trust.current().find(instance)
        if peer is None:
            raise NoSuchSpoke("there is no such peer here; see hub peer list")
        return peer

    async def _view(self, peer: Peer) -> PeerAnswer:
        return peer_view(peer, await self._agents.contact(peer.tenant), self._links.find(peer.tenant))

    async def list(self, _request: web.Request) -> web.Response:
        """List peers, by id."""
        return json_response({"peers": await self.views()})

    async def views(self) -> Sequence[PeerAnswer]:
        """Return what the API shows of all peers, by id."""
        peers = self._trust.current().peers()
        contacts = await self._agents.contacts([peer.tenant for peer in peers])
        links = [self._links.find(peer.tenant) for peer in peers]
        return [peer_view(*known) for known in zip(peers, contacts, links, strict=True)]

    async def show(self, request: web.Request) -> web.Response:
        """Show one peer."""
        return json_response(await self.view(request.match_info["id"]))

    async def view(self, instance: str) -> PeerAnswer:
        """Return what the API shows of one peer; raises `NoSuchSpoke`."""
        return await self._view(self._find(instance))

    async def approve(self, request: web.Request) -> web.Response:
        """Make a pending spoke active."""
        wanted = await read_json(request, ApproveRequest)
        return await self._answer(self.let_in(request.match_info["id"], wanted.fingerprint))

    def let_in(self, instance: str, fingerprint: str) -> Peer:
        """Make a pending spoke active whose fingerprint was compared; raises `NoSuchSpoke`, `PeerRefused`."""
        return self._changed(self._trust.approve(self._find(instance).instance, fingerprint))

    def _to(self, state: ConnectionState) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def change(request: web.Request) -> web.Response:
            return await self._answer(self.change(request.match_info["id"], state))

        return change

    def change(self, instance: str, state: ConnectionState) -> Peer:
        """Bring a connection into another state; raises `NoSuchSpoke`, `PeerRefused`."""
        peer = self._find(instance)
        if state == "active" and peer.state == "pending":
            # Only `approve` lets a spoke in, because it names the fingerprint.
            raise NoSuchSpoke(f"{peer.instance} is pending: approve it with its fingerprint", code="peer_refused")
        return self._changed(self._trust.set_state(peer.instance, state))

    def _changed(self, peer: Peer) -> Peer:
        _log.info("peer.changed", peer=peer.instance, state=peer.state)
        self._heard(peer.tenant)
        return peer

    async def _answer(self, peer: Peer) -> web.Response:
        return json_response(await self._view(peer))

    async def invite(self, request: web.Request) -> web.Response:
        """Make an invite."""
        wanted = await read_json(request, InviteRequest) if request.can_read_body else InviteRequest()
        return json_response(self.make_invite(wanted), _CREATED)

    def make_invite(self, wanted: InviteRequest) -> InviteAnswer:
        """Return what the API shows of a new invite; raises `LocalError` when nobody knows the hub's URL."""
        invite = self._inviting.invite(self._url(), wanted.ttl_s, wanted.labels)
        return {"invite": invite.encode(), "id": invite.invite, "expiresAt": rfc3339(invite.exp * 1000)}


def peer_view(peer: Peer, contact: Contact | None, link: Link | None = None) -> PeerAnswer:
    """Return the JSON object of a peer; without `contact` the node was not asked how delivery goes."""
    known = contact or Contact(0, 0, 0, None, 0)
    return {
        "id": peer.instance,
        "kind": peer.kind,
        "state": peer.state,
        "fingerprint": peer.current_key.fingerprint,
        "formerKeys": [
            {"fingerprint": owned.key.fingerprint, "retiresAt": rfc3339((owned.retires_at or 0) * 1000)}
            for owned in peer.keys[1:]
        ],
        "url": peer.url,
        "labels": dict(peer.labels),
        "createdAt": rfc3339(peer.created_s * 1000),
        "lastContactAt": _time(known.last_contact_ms),
        "pending": known.pending,
        "lastAttemptAt": _time(known.tried_ms),
        "lastAnswerAt": _time(known.answered_ms),
        "failingSince": _time(known.failing_ms),
        "failures": known.failures,
        "nextAttemptAt": _time(known.next_attempt_ms),
        "lastError": known.last_error,
        "link": None if link is None else {"since": rfc3339(link.since_ms), "remote": link.remote},
        "told": known.hello and {**known.hello, "at": rfc3339(known.hello["at"])},
        "frozen": None if contact is None else known.frozen,
        "freeze": known.freeze,
    }


def _time(epoch_ms: int) -> str | None:
    return rfc3339(epoch_ms) if epoch_ms else None
