"""Who may use the admin's side of the hub: holders of `admin.token` or of a token that it made (attack rows 36, 58).

Asked before a handler runs, by the scope of the route; a path without a route opens nothing either. Only the
federation protocol, which brings its own signatures, and the meanings of problem codes are open; what says how the node
is, is open on this machine itself. Whoever is let in is named in the audit of what they decide.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final, Protocol

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from common.audit_file import Audit, acting
from common.clock import Clock
from common.http import Unauthorized, is_from_loopback, route_of
from common.problem_codes import PATH
from hub.scopes import Forbidden, Scope, check_scope, default_scope
from hub.tokens import TokenStore

ROOT: Final = "admin.token"
WHO: Final = web.RequestKey("who", str)
"""Who asks, as the audit has it; set once they were let in."""
SCOPE: Final = web.RequestKey("scope", str)
"""How far their token reaches."""
_FEDERATION: Final = "/federation/v1/"
_OPERATIONS: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_FORWARDED: Final = ("Forwarded", "X-Forwarded-For")


def _is_open(request: web.Request) -> bool:
    if request.path.startswith((_FEDERATION, f"{PATH}/")) or request.path == PATH:
        return True
    # Behind a proxy on this machine everybody comes from loopback.
    is_local = is_from_loopback(request) and not any(name in request.headers for name in _FORWARDED)
    return request.path in _OPERATIONS and is_local


class Identities:
    """Knows who a token is: the root token, or one of `tokens` until it expires or is revoked."""

    def __init__(self, root: str, tokens: TokenStore, clock: Clock) -> None:
        self._root = root.encode()
        self._tokens = tokens
        self._clock = clock

    def identify(self, given: str) -> tuple[str, Scope]:
        """Return the name of its holder, as the audit has it, and its scope; raises `Unauthorized`."""
        if hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._root):
            return ROOT, "admin"
        token = self._tokens.find(given, self._clock.now_ms() / 1000)
        if token is None:
            raise Unauthorized("this token opens nothing here (any more); see hub token list")
        return f"token:{token.name}", token.scope


class Entry(Protocol):
    """How a request brings its token, where that is not the header alone."""

    def token_of(self, request: web.Request) -> str:
        """Return the token; raises `Unauthorized` when there is none."""

    def is_public(self, request: web.Request) -> bool:
        """Whether it needs none."""


class Doorkeeper:
    """Lets in whose token reaches as far as the route.

    `scopes` are those of the route table, by method and path; each refusal is counted in the audit.
    """

    def __init__(
        self, identities: Identities, entry: Entry, scopes: Mapping[tuple[str, str], Scope], audit: Audit
    ) -> None:
        self._identities = identities
        self._entry = entry
        self._scopes = scopes
        self._audit = audit

    def middleware(self) -> Middleware:
        """Return the middleware that lets nobody else past, except to what is open."""

        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            if _is_open(request) or self._entry.is_public(request):
                return await handler(request)
            with acting(self._admit(request)):
                return await handler(request)

        return middleware

    def _admit(self, request: web.Request) -> str:
        """Return who it is; raises `Unauthorized` or `Forbidden`."""
        name = None
        try:
            name, granted = self._identities.identify(self._entry.token_of(request))
            request[WHO], request[SCOPE] = name, granted
            check_scope(granted, self._needed(request))
        except (Unauthorized, Forbidden) as error:
            asked = f"{name or 'nobody'}: {route_of(request)}"
            self._audit.refuse("token.refused", error.code, address=request.remote, detail=asked)
            raise
        return name

    def _needed(self, request: web.Request) -> Scope:
        resource = request.match_info.route.resource
        if resource is None:
            # No such path: whoever has a token may be told so.
            return "read"
        return self._scopes.get((request.method, resource.canonical), default_scope(request.method))
