"""The port through which hub and spoke tell what they do as spans, and what stands there when nobody asked for it.

Without OpenTelemetry a context is passed on as it came: whoever traces at either end still sees one trace. Nothing here
fails, waits or is awaited.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from common.errors import HubspokeError
from common.span_attributes import IDS_SHOWN, Attribute, Attributes
from common.trace_context import SpanIds, TraceContext, within

Kind = Literal["server", "producer", "consumer", "internal"]
INTERNAL_ERROR: Final = HubspokeError.code


@dataclass(frozen=True, slots=True)
class Beginning:
    """What is known of a span when it begins; times in ms since the epoch, None for now.

    `ids` are those to take, which begin a trace unless their trace is the parent's; None for fresh ones.
    """

    name: str
    kind: Kind
    attributes: Attributes = field(default_factory=dict)
    parent: TraceContext | None = None
    links: Sequence[TraceContext] = ()
    ids: SpanIds | None = None
    began_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Something that happened within a span."""

    name: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class End:
    """How a span ended: `error` is the stable code of what went wrong."""

    attributes: Attributes = field(default_factory=dict)
    error: str | None = None
    notes: Sequence[Note] = ()
    ended_ms: int | None = None


def refusals(answers: Iterable[tuple[str, str | None]]) -> tuple[str | None, Sequence[Note]]:
    """Return what an envelope's span has to tell of its commands, by their ids and the codes of those refused.

    It is in error, with the first of the codes, where none was taken; the first `IDS_SHOWN` are noted.
    """
    codes = list(answers)
    refused = [(command_id, code) for command_id, code in codes if code is not None]
    notes = [
        Note("hubspoke.command.refused", {Attribute.COMMAND_ID: command_id, Attribute.ERROR_TYPE: code})
        for command_id, code in refused[:IDS_SHOWN]
    ]
    return refused[0][1] if refused and len(refused) == len(codes) else None, notes


class Span(Protocol):
    """A span that has begun. One that is never ended was never there."""

    @property
    def context(self) -> TraceContext | None:
        """What others continue; None where there is nothing to continue."""
        ...

    def end(self, end: End) -> None:
        """Record it."""
        ...


class Tracing(Protocol):
    """Where spans go; where they go nowhere, nobody need gather what they would tell."""

    @property
    def is_on(self) -> bool:
        """Whether spans go anywhere."""
        ...

    def begin(self, beginning: Beginning) -> Span:
        """Begin a span."""
        ...


@dataclass(frozen=True, slots=True)
class _PassedOn:
    context: TraceContext | None

    def end(self, end: End) -> None:
        """Nobody listens."""


class NoTracing:
    """Records nothing, and passes on what came."""

    is_on: Final = False

    def begin(self, beginning: Beginning) -> Span:
        """Return a span that stands for its parent."""
        return _PassedOn(beginning.parent)


NO_TRACING: Final[Tracing] = NoTracing()
"""What stands where nobody gave anything else."""


@dataclass(slots=True)
class Ending:
    """Collects what a block has to tell at the end of its span."""

    attributes: dict[Attribute, str | int | tuple[str, ...]] = field(default_factory=dict)
    error: str | None = None
    notes: Sequence[Note] = ()


@contextmanager
def spanning(tracing: Tracing, beginning: Beginning) -> Iterator[Ending]:
    """Let the block be a span that what it sends continues; an error that leaves it is told by its code."""
    span, ending = tracing.begin(beginning), Ending()
    try:
        with within(span.context):
            yield ending
    except HubspokeError as error:
        ending.error = error.code
        raise
    except Exception:
        ending.error = INTERNAL_ERROR
        raise
    finally:
        span.end(End(ending.attributes, ending.error, ending.notes))
