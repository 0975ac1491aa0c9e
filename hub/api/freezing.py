"""`/api/v1/peers/{id}/freeze` and `thaw`: stop what this hub has at one spoke, or let it go on."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from common.audit_file import Audit
from common.http import json_response, read_json
from common.peers import Peer
from common.wire import InstanceId
from hub.agents import Agents
from hub.api.models import FreezeRequest, FreezeView
from hub.api.route import Route
from hub.freezing import Freezing

_ACCEPTED: Final = 202


class FreezingApi:
    """Handlers that freeze and thaw spokes."""

    def __init__(self, freezing: Freezing, agents: Agents, audit: Audit) -> None:
        self._freezing = freezing
        self._agents = agents
        self._audit = audit

    def routes(self) -> list[Route]:
        """Return the two routes."""
        one = "/api/v1/peers/{id}"
        return [
            Route(
                "POST",
                f"{one}/freeze",
                self.freeze,
                "Have a spoke refuse this hub's spawns, and end its agents if asked",
                status=_ACCEPTED,
                request=FreezeRequest,
                body_optional=True,
                response=FreezeView,
                scope="operate",
                identifier=InstanceId,
            ),
            Route(
                "POST",
                f"{one}/thaw",
                self.thaw,
                "Have a spoke take this hub's spawns again",
                status=_ACCEPTED,
                response=FreezeView,
                scope="operate",
                identifier=InstanceId,
            ),
        ]

    async def freeze(self, request: web.Request) -> web.Response:
        """Take a freeze into the outbox; a stop goes out also while the audit cannot be written."""
        wanted = await read_json(request, FreezeRequest) if request.can_read_body else FreezeRequest()
        return await self._show(await self.order_freeze(request.match_info["id"], wanted))

    async def order_freeze(self, instance: str, wanted: FreezeRequest) -> Peer:
        """Freeze, with a line in the audit; raises what `Freezing.freeze` does."""
        kill, reason = wanted.kill_agents, wanted.reason
        peer, command = await self._freezing.freeze(instance, kill_agents=kill, reason=reason)
        await self._audit.note("freeze.decided", peer=instance, command=command, kill=kill, reason=reason)
        return peer

    async def thaw(self, request: web.Request) -> web.Response:
        """Take a thaw into the outbox."""
        return await self._show(await self.order_thaw(request.match_info["id"]))

    async def order_thaw(self, instance: str) -> Peer:
        """Thaw, with a line in the audit; raises what `Freezing.thaw` does, and `AuditUnavailable`."""
        self._audit.intend("thaw.asked", peer=instance)
        peer, command = await self._freezing.thaw(instance)
        await self._audit.record("thaw.decided", peer=instance, command=command)
        return peer

    async def _show(self, peer: Peer) -> web.Response:
        contact = await self._agents.contact(peer.tenant)
        return json_response(contact.freeze, _ACCEPTED)
