"""A collector that speaks OTLP over HTTP: what nodes send is decoded and kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.spoke_node import eventually

PROTOBUF = "application/x-protobuf"


@dataclass(frozen=True)
class Seen:
    """One span as it came."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    events: list[dict[str, Any]]
    is_error: bool
    began_ns: int
    ended_ns: int


@dataclass
class Collector:
    """What was collected, and where; `status` is what it answers."""

    url: str = ""
    status: int = 200
    spans: list[Seen] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def named(self, name: str, trace_id: str = "") -> list[Seen]:
        """Return the spans of that name, of one trace if that is given."""
        return [span for span in self.spans if span.name == name and trace_id in ("", span.trace_id)]

    async def one(self, name: str, trace_id: str = "") -> Seen:
        """Wait until there is a span of that name, and return it: the only one."""
        await eventually(lambda: self.named(name, trace_id), f"{name} of {trace_id}; there are {self._names()}")
        (span,) = self.named(name, trace_id)
        return span

    def _names(self) -> list[str]:
        return sorted({span.name for span in self.spans})


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Yield a collector that listens."""
    collector = Collector()

    async def take(request: web.Request) -> web.Response:
        assert request.content_type == PROTOBUF
        body = await request.read()
        collector.bodies.append(body)
        if collector.status == 200:
            collector.spans += _read(body)
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type=PROTOBUF, status=collector.status)

    app = web.Application(client_max_size=2**26)
    app.add_routes([web.post("/v1/traces", take)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()


def _read(body: bytes) -> list[Seen]:
    return [
        _span(span, _attributes(of_resource.resource.attributes)["service.name"])
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _span(span: ProtoSpan, service: str) -> Seen:
    return Seen(
        service=service,
        name=span.name,
        kind=ProtoSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        attributes=_attributes(span.attributes),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        events=[{"name": event.name, **_attributes(event.attributes)} for event in span.events],
        is_error=span.status.code == Status.STATUS_CODE_ERROR,
        began_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    if value.HasField("array_value"):
        return [_value(item) for item in value.array_value.values]
    return getattr(value, str(value.WhichOneof("value")))
