"""`/login` and `/logout`: a token of this hub becomes a session."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from common.audit_file import Audit, acting
from common.errors import HubspokeError, RateLimited
from common.http import Unauthorized
from hub.auth import Identities
from hub.dashboard.attempts import Attempts
from hub.dashboard.entrance import LOGIN, Entrance
from hub.dashboard.forms import Form
from hub.dashboard.pages import SESSION, Pages
from hub.dashboard.route import Deed, Page
from hub.dashboard.sessions import LIFE_S, Sessions
from hub.scopes import Scope

_HOME: Final = "/"


def safe_next(text: str) -> str:
    """Return where to go after the login: a path on this hub, whatever was asked for."""
    is_ours = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable()
    return text if is_ours else _HOME


class Login:
    """Handlers that begin and end sessions."""

    def __init__(
        self,
        identities: Identities,
        sessions: Sessions,
        attempts: Attempts,
        entrance: Entrance,
        pages: Pages,
        audit: Audit,
    ) -> None:
        self._identities = identities
        self._sessions = sessions
        self._attempts = attempts
        self._entrance = entrance
        self._pages = pages
        self._audit = audit

    def pages(self) -> list[Page | Deed]:
        """Return the routes."""
        return [
            Page(LOGIN, self.ask, is_public=True),
            Deed(LOGIN, self.enter, is_public=True),
            Deed("/logout", self.leave, scope="read"),
        ]

    async def ask(self, request: web.Request) -> web.Response:
        """Show the form."""
        return self._show(request, request.query.get("next", _HOME))

    def _show(self, request: web.Request, following: str, error: HubspokeError | None = None) -> web.Response:
        status = 200 if error is None else error.http_status
        return self._pages.show(request, "login.html", status=status, next=safe_next(following), error=error)

    async def enter(self, request: web.Request, form: Form) -> web.Response:
        """Begin a session; a wrong token is counted, here and in the audit."""
        following = safe_next(form.get("next", _HOME))
        try:
            name, scope = self._identify(request, form.get("token", "").strip())
        except (Unauthorized, RateLimited) as error:
            self._audit.refuse("login.refused", error.code, address=request.remote)
            return self._show(request, following, error)
        with acting(name):
            await self._audit.note("session.opened", scope=scope, address=request.remote)
        response = web.Response(status=303, headers={"Location": following})
        response.set_cookie(
            self._entrance.cookie_name(request),
            self._sessions.open(form["token"].strip()),
            max_age=LIFE_S,
            httponly=True,
            samesite="Strict",
            secure=self._entrance.is_secure(request),
            path="/",
        )
        return response

    def _identify(self, request: web.Request, token: str) -> tuple[str, Scope]:
        address = request.remote or ""
        self._attempts.check(address)
        try:
            return self._identities.identify(token)
        except Unauthorized:
            self._attempts.failed(address)
            raise

    async def leave(self, request: web.Request, _form: Form) -> web.Response:
        """End the session."""
        name = self._entrance.cookie_name(request)
        self._sessions.close(request.cookies.get(name, ""))
        request[SESSION].notes.clear()
        await self._audit.note("session.closed")
        response = web.Response(status=303, headers={"Location": LOGIN})
        response.del_cookie(name, path="/", httponly=True, samesite="Strict", secure=self._entrance.is_secure(request))
        return response
