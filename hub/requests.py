"""One canonical line, one measurement, one span per request of the admin's side; the protocol logs its own."""

from __future__ import annotations

import time
from typing import Final

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from common.http import route_of
from common.http_tracing import traced
from common.tracing import Tracing
from hub.auth import WHO
from hub.metrics import Metrics

_API: Final = "/api/"
_INTERNAL: Final = 500
_log: Final = structlog.get_logger("api")


def measured(metrics: Metrics) -> Middleware:
    """Return the middleware; it stands outside the one that turns errors into problems, so it sees every status."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith(_API):
            return await handler(request)
        started, status = time.monotonic(), _INTERNAL
        try:
            response = await handler(request)
            status = response.status
            return response
        finally:
            seconds = time.monotonic() - started
            route = route_of(request)
            metrics.request_seconds.labels(route).observe(seconds)
            _log.info(
                "request.answered",
                route=route,
                id=request.match_info.get("id"),
                status=status,
                duration_ms=round(seconds * 1000, 1),
            )

    return middleware


def in_spans(tracing: Tracing) -> Middleware:
    """Return the middleware that makes spans of what the API is asked, and of what the page is told to do.

    It stands inside the door: nobody who was not let in causes a span.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if WHO not in request or not (request.path.startswith(_API) or request.method == "POST"):
            return await handler(request)
        return await traced(tracing, handler)(request)

    return middleware
