"""`/`, `/spokes/…` and `/invite`: who is connected, what is wrong, who may come in."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web
from pydantic import ValidationError

from common.errors import HubspokeError
from common.http import invalid_request
from common.peers import ConnectionState
from hub.agents import Agents, Filter
from hub.api.freezing import FreezingApi
from hub.api.models import ApproveRequest, FreezeRequest, InviteRequest
from hub.api.peers import PeersApi
from hub.dashboard.answering import done, refused_at
from hub.dashboard.forms import Form
from hub.dashboard.pages import Pages
from hub.dashboard.route import Act, Deed, Page
from hub.dashboard.troubles import health, troubles
from hub.operations import Operations

DEAD: Final = "attempts_exhausted"
_LATEST: Final = 10
_SHOWN_SPOKES: Final = 200
_HOURS: Final = 3600


class SpokePages:
    """Handlers about spokes, on what the API's own handlers stand on."""

    def __init__(
        self, pages: Pages, peers: PeersApi, freezing: FreezingApi, agents: Agents, operations: Operations
    ) -> None:
        self._pages = pages
        self._peers = peers
        self._freezing = freezing
        self._agents = agents
        self._operations = operations

    def pages(self) -> list[Page | Deed]:
        """Return the routes."""
        one = "/spokes/{id}"
        return [
            Page("/", self.overview),
            Page(one, self.show),
            Deed(f"{one}/approve", self.approve),
            Deed(f"{one}/suspend", self._to("suspended", "Suspended: nothing goes to it or comes from it.")),
            Deed(f"{one}/resume", self._to("active", "Resumed.")),
            Deed(f"{one}/revoke", self._to("revoked", "Revoked: it would have to join again.")),
            Deed(f"{one}/freeze", self.freeze, scope="operate"),
            Deed(f"{one}/thaw", self.thaw, scope="operate"),
            Page("/invite", self.ask_invite, scope="admin"),
            Deed("/invite", self.invite),
        ]

    async def overview(self, request: web.Request) -> web.Response:
        """Show what is wrong, then everything."""
        known = await self.overview_state()
        return self._pages.show(request, "overview.html", **known)

    async def overview_state(self) -> dict[str, Any]:
        """Return what the overview shows, here and live."""
        views = await self._peers.views()
        rows = sorted(
            ((health(view), view) for view in views),
            key=lambda row: (("bad", "decide", "note", "ok", "off").index(row[0]), row[1]["id"]),
        )
        return {
            "troubles": troubles(views, await self._hub_error()),
            "spokes": rows[:_SHOWN_SPOKES],
            "hidden": max(len(rows) - _SHOWN_SPOKES, 0),
            "counts": await self._agents.counts(),
            "dead": await self._agents.count_reason(DEAD),
        }

    async def _hub_error(self) -> str | None:
        try:
            await self._operations.check()
        except HubspokeError as error:
            return error.message
        return None

    async def show(self, request: web.Request) -> web.Response:
        """Show one spoke."""
        view = await self._peers.view(request.match_info["id"])
        latest, _ = await self._agents.page(Filter(spoke=view["id"]), _LATEST)
        return self._pages.show(
            request, "spoke.html", spoke=view, health=health(view), troubles=troubles([view], None), agents=latest
        )

    async def approve(self, request: web.Request, form: Form) -> web.Response:
        """Let a spoke in with the fingerprint that stood on the page."""
        instance, where = request.match_info["id"], _path_of(request)
        with refused_at(request, where):
            self._peers.let_in(instance, _read(ApproveRequest, fingerprint=form.get("fingerprint", "")).fingerprint)
        return done(request, where, f"{instance} is approved and may connect.")

    def _to(self, state: ConnectionState, said: str) -> Act:
        async def change(request: web.Request, _form: Form) -> web.Response:
            where = _path_of(request)
            with refused_at(request, where):
                self._peers.change(request.match_info["id"], state)
            return done(request, where, said)

        return change

    async def freeze(self, request: web.Request, form: Form) -> web.Response:
        """Have a spoke start nothing for this hub."""
        where = _path_of(request)
        with refused_at(request, where):
            reason = form.get("reason", "").strip()
            wanted = _read(FreezeRequest, killAgents="kill" in form, **({"reason": reason} if reason else {}))
            await self._freezing.order_freeze(request.match_info["id"], wanted)
        return done(request, where, "The freeze is on its way; it counts when the spoke has answered.")

    async def thaw(self, request: web.Request, _form: Form) -> web.Response:
        """Have it go on."""
        where = _path_of(request)
        with refused_at(request, where):
            await self._freezing.order_thaw(request.match_info["id"])
        return done(request, where, "The thaw is on its way; it counts when the spoke has answered.")

    async def ask_invite(self, request: web.Request) -> web.Response:
        """Show the form of an invite."""
        return self._pages.show(request, "invite.html", invite=None)

    async def invite(self, request: web.Request, form: Form) -> web.Response:
        """Make an invite and show it, this once."""
        with refused_at(request, "/invite"):
            hours = form.get("hours", "24")
            wanted = _read(
                InviteRequest,
                ttlS=int(hours) * _HOURS if hours.isdecimal() else 0,
                labels=_labels(form.get("labels", "")),
            )
        return self._pages.show(request, "invite.html", invite=self._peers.make_invite(wanted))


def _path_of(request: web.Request) -> str:
    return f"/spokes/{request.match_info['id']}"


def _labels(text: str) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in text.split())


def _read(model: Any, **members: object) -> Any:
    try:
        return model.model_validate(members)
    except ValidationError as error:
        raise invalid_request(error) from error
