"""What stands before every page: the session for a bearer token, the checks of forms, orders to the browser.

A cookie opens the page only, never the API, so nothing that takes JSON needs to care about other sites. Errors come as
a page; who is not logged in is sent to the login. The policy lets the browser run and load only what comes from here,
and nobody may put the page into a frame.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from urllib.parse import urlencode

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from common.errors import HubspokeError, LocalError, RateLimited, Unavailable
from common.http import Unauthorized, bearer_of
from hub.dashboard.forms import check_csrf, check_same_origin, read_form
from hub.dashboard.pages import SESSION, Pages
from hub.dashboard.route import Deed, Page
from hub.dashboard.sessions import Sessions
from hub.scopes import Scope

LOGIN: Final = "/login"
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: with it a browser sends `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Entrance:
    """Knows which routes are pages, and whose session a request is of."""

    def __init__(self, instance: str, sessions: Sessions, pages: Pages, url: Callable[[], str | None]) -> None:
        self._instance = instance
        self._sessions = sessions
        self._pages = pages
        self._url = url
        self._known: dict[tuple[str, str], Page | Deed] = {}

    def routes(self, table: Sequence[Page | Deed]) -> list[web.RouteDef]:
        """Return the routes for the application, and know them as pages from now on."""
        self._known |= {("GET" if isinstance(route, Page) else "POST", route.path): route for route in table}
        return [
            web.get(route.path, route.handler, allow_head=False)
            if isinstance(route, Page)
            else web.post(route.path, self._taking(route))
            for route in table
        ]

    def scopes(self) -> dict[tuple[str, str], Scope]:
        """Return what each page takes, for the doorkeeper."""
        return {key: route.scope for key, route in self._known.items()}

    def _page(self, request: web.Request) -> Page | Deed | None:
        resource = request.match_info.route.resource
        return None if resource is None else self._known.get((request.method, resource.canonical))

    def is_public(self, request: web.Request) -> bool:
        """Whether it is a page that needs no login."""
        page = self._page(request)
        return page is not None and page.is_public

    def cookie_name(self, request: web.Request) -> str:
        """Return the cookie's name: one for each hub, because cookies know no ports; bound to the host under TLS."""
        return f"__Host-hub-{self._instance}" if self.is_secure(request) else f"hub-{self._instance}"

    def is_secure(self, request: web.Request) -> bool:
        """Whether the browser came by TLS, to us or to a proxy before us."""
        return request.secure or (self._url() or "").startswith("https://")

    def token_of(self, request: web.Request) -> str:
        """Return the token that a request brings: a page's from its session, else its own; raises `Unauthorized`."""
        if self._page(request) is None:
            return bearer_of(request)
        session = self._sessions.find(request.cookies.get(self.cookie_name(request), ""))
        if session is None:
            raise Unauthorized("log in first")
        request[SESSION] = session
        return session.token

    def middleware(self) -> Middleware:
        """Return the middleware that makes pages of errors; it stands outside the doorkeeper's."""

        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            if self._page(request) is None:
                return await handler(request)
            try:
                if request.method == "POST":
                    check_same_origin(request)
                return await handler(request)
            except Unauthorized:
                return self._to_login(request)
            except HubspokeError as error:
                return self.show_error(request, error)

        return middleware

    def _to_login(self, request: web.Request) -> web.Response:
        if request.headers.get("HX-Request"):
            # htmx would put the login into the middle of a page; the page's script starts it anew.
            return web.Response(status=401, headers={"HX-Refresh": "true"})
        asked = {"next": request.path_qs} if request.method == "GET" and request.path != "/" else {}
        raise web.HTTPSeeOther(f"{LOGIN}?{urlencode(asked)}" if asked else LOGIN)

    def show_error(self, request: web.Request, error: HubspokeError) -> web.Response:
        """Answer with a page that says what happened."""
        if isinstance(error, LocalError):
            raise error  # to be logged; its problem says no more than the page would
        response = self._pages.show(request, "error.html", status=error.http_status, error=error)
        if isinstance(error, Unavailable | RateLimited):
            response.headers["Retry-After"] = str(error.retry_after_s)
        return response

    def _taking(self, deed: Deed) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def take(request: web.Request) -> web.StreamResponse:
            form = await read_form(request)
            if not deed.is_public:
                check_csrf(request[SESSION], form)
            return await deed.handler(request, form)

        return take

    async def give_orders(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the headers to every answer of a page, before it leaves."""
        if self._page(request) is None:
            return
        response.headers.update(_HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
        if self.is_secure(request):
            response.headers["Strict-Transport-Security"] = "max-age=31536000"
