"""Spans by OpenTelemetry, sent as OTLP over HTTP by a thread of its own. The only module that imports it.

A collector that is away or slow costs nothing but spans: what does not fit the queue is dropped, the log hears of it
once when it begins and once when it is over, and the end of the node waits for what is left `FLUSH_S` at most. How much
is recorded and kept, and where it goes, say the standard OTEL_… variables.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceFlags, set_span_in_context
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace.status import Status, StatusCode

from common.span_attributes import Attribute
from common.trace_context import SpanIds, TraceContext
from common.tracing import Beginning, End, Kind, Span, Tracing

FLUSH_S: Final = 3.0
_NS_PER_MS: Final = 1_000_000
_KINDS: Final[Mapping[Kind, SpanKind]] = {
    "server": SpanKind.SERVER,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
    "internal": SpanKind.INTERNAL,
}
_log: Final = structlog.get_logger("telemetry")


class _ChosenIds(IdGenerator):
    """Gives the ids that the next span is to have; spans begin in the thread of the event loop only."""

    def __init__(self) -> None:
        self.next: SpanIds | None = None
        self._random = RandomIdGenerator()

    def generate_trace_id(self) -> int:
        return self._random.generate_trace_id() if self.next is None else int(self.next.trace_id, 16)

    def generate_span_id(self) -> int:
        return self._random.generate_span_id() if self.next is None else int(self.next.span_id, 16)


class _Forward(logging.Handler):
    """Puts what OpenTelemetry has to say of its variables, once at the start, into our log."""

    def emit(self, record: logging.LogRecord) -> None:
        _log.warning("telemetry.variable_ignored", reason=record.getMessage())


class _Quietly(SpanExporter):
    """Sends by another exporter; tells the log when it begins and ceases to fail, `told` how many went which way."""

    def __init__(self, exporter: SpanExporter, told: Callable[[str, int], None]) -> None:
        self._exporter = exporter
        self._told = told
        self._fails = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        fails = result is not SpanExportResult.SUCCESS
        self._told("lost" if fails else "sent", len(spans))
        if fails and not self._fails:
            _log.warning("telemetry.not_taken", reason="the collector does not take spans; they are lost until it does")
        elif self._fails and not fails:
            _log.info("telemetry.taken_again")
        self._fails = fails
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _Recorded:
    """A span that OpenTelemetry keeps until it ends."""

    def __init__(self, span: OtelSpan) -> None:
        self._span = span
        found = span.get_span_context()
        ids = SpanIds(f"{found.trace_id:032x}", f"{found.span_id:016x}")
        self.context = TraceContext(ids, found.trace_flags.sampled)

    def end(self, end: End) -> None:
        """Record it."""
        for name, value in end.attributes.items():
            self._span.set_attribute(name.value, value)
        for note in end.notes:
            self._span.add_event(note.name, {name.value: value for name, value in note.attributes.items()})
        if end.error is not None:
            self._span.set_attribute(Attribute.ERROR_TYPE.value, end.error)
            self._span.set_status(Status(StatusCode.ERROR, end.error))
        self._span.end(_ns(end.ended_ms))


class _Otel:
    """Begins spans of one provider."""

    is_on: Final = True

    def __init__(self, provider: TracerProvider, ids: _ChosenIds) -> None:
        self._tracer = provider.get_tracer("hubspoke", version("hubspoke"))
        self._ids = ids

    def begin(self, beginning: Beginning) -> Span:
        """Begin a span; whether it is recorded is the sampler's decision, the same each time for the same ids."""
        parent = beginning.parent
        self._ids.next = beginning.ids
        span = self._tracer.start_span(
            beginning.name,
            set_span_in_context(NonRecordingSpan(_remote(parent) if parent else _NO_PARENT)),
            _KINDS[beginning.kind],
            {name.value: value for name, value in beginning.attributes.items()},
            [Link(_remote(link)) for link in beginning.links],
            _ns(beginning.began_ms),
        )
        return _Recorded(span)


def _ns(time_ms: int | None) -> int | None:
    return None if time_ms is None else time_ms * _NS_PER_MS


_NO_PARENT: Final = SpanContext(0, 0, is_remote=False)


def _remote(context: TraceContext) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    return SpanContext(int(context.ids.trace_id, 16), int(context.ids.span_id, 16), is_remote=True, trace_flags=flags)


@contextmanager
def tracing_to(
    endpoint: str | None, service: str, instance: str, told: Callable[[str, int], None]
) -> Iterator[Tracing]:
    """Yield what sends spans to `endpoint`, a URL with its path; None for what the variables say.

    Raises ValueError for variables that cannot be used.
    """
    theirs, heard, ids = logging.getLogger("opentelemetry"), _Forward(logging.WARNING), _ChosenIds()
    theirs.addHandler(heard)
    theirs.propagate = False
    ours = {"service.name": service, "service.instance.id": instance, "service.version": version("hubspoke")}
    resource = Resource.create().merge(Resource(ours)).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, id_generator=ids, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_Quietly(OTLPSpanExporter(endpoint), told)))
    # From now on it has a line for every attempt that fails; ours say the same once.
    theirs.removeHandler(heard)
    theirs.setLevel(logging.CRITICAL + 1)
    try:
        yield _Otel(provider, ids)
    finally:
        # A collector that answers nothing holds up this thread, and no node.
        flush = threading.Thread(target=provider.shutdown, name="telemetry-flush", daemon=True)
        flush.start()
        flush.join(FLUSH_S)
