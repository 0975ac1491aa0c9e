"""Requests of the APIs as spans: what a caller's `traceparent` names is continued, by whoever was let in.

Stands inside what checks tokens: strangers begin no spans, and force none to be recorded.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from common.errors import HubspokeError
from common.http import Handler, route_of
from common.span_attributes import Attribute
from common.trace_context import TraceContext, parse_traceparent
from common.tracing import Beginning, Tracing, spanning

HEADER: Final = "traceparent"


def traced(tracing: Tracing, handler: Handler) -> Handler:
    """Return the handler whose requests are spans."""

    async def in_span(request: web.Request) -> web.StreamResponse:
        name = route_of(request)
        method, _, route = name.partition(" ")
        about = {Attribute.HTTP_METHOD: method, Attribute.HTTP_ROUTE: route}
        with spanning(tracing, Beginning(name, "server", about, _continued(request))) as ending:
            try:
                response = await handler(request)
            except HubspokeError as error:
                ending.attributes[Attribute.HTTP_STATUS] = error.http_status
                raise
            ending.attributes[Attribute.HTTP_STATUS] = response.status
            return response

    return in_span


def _continued(request: web.Request) -> TraceContext | None:
    """Return what the caller's `traceparent` names; two of them are none (W3C Trace Context section 3.2)."""
    given = request.headers.getall(HEADER, ())
    return parse_traceparent(given[0]) if len(given) == 1 else None
