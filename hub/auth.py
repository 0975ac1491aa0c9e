"""Who may use the admin's side of the hub: holders of the token in `admin.token` (attack rows 36, 58).

Asked by path before a route is looked up, so that a route added without thinking is closed. Only the federation
protocol, which brings its own signatures, is open; what says how the node is, is open on this machine itself.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from common.http import check_bearer, is_from_loopback

_FEDERATION: Final = "/federation/v1/"
_OPERATIONS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_FORWARDED: Final = ("Forwarded", "X-Forwarded-For")


def _is_open(request: web.Request) -> bool:
    if request.path.startswith(_FEDERATION):
        return True
    # Behind a proxy on this machine everybody comes from loopback.
    is_local = is_from_loopback(request) and not any(name in request.headers for name in _FORWARDED)
    return request.path in _OPERATIONS and is_local


def require_token(token: str) -> Middleware:
    """Return the middleware that lets nobody past without the token, except to what is open."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _is_open(request):
            check_bearer(request, token)
        return await handler(request)

    return middleware
