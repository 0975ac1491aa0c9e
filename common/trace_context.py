"""W3C trace context: which trace something belongs to, read strictly, and the ids that follow from it.

Ids of spans that a restart must find again are derived and kept nowhere: a spoke that was killed while an agent ran
knows, from the signed envelope that the agent was started from, the very span that it has to end. What does not read
as the recommendation says is no context, never an error: a trace must not decide whether work is done. `tracestate`
is not passed on; an envelope has no place for it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")
_SAMPLED: Final = 0x01
_TRACE_HEX: Final = 32
_SPAN_HEX: Final = 16
_SEPARATOR: Final = "\x00"


@dataclass(frozen=True, slots=True)
class SpanIds:
    """The ids of one span, lower-case hexadecimal and not all zeros."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span that others may continue, in this process or elsewhere; `sampled` says that it is recorded."""

    ids: SpanIds
    sampled: bool

    def to_traceparent(self) -> str:
        """Return it as a `traceparent` of version 00."""
        return f"00-{self.ids.trace_id}-{self.ids.span_id}-{_SAMPLED if self.sampled else 0:02x}"


def parse_traceparent(text: str | None) -> TraceContext | None:
    """Return what a `traceparent` says, None for none or a bad one (W3C Trace Context section 3.2)."""
    found = _FORM.match(text or "")
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    # A version of the future may say more after the flags; 00 may not, and ff is none.
    if version == "ff" or (version == "00" and more is not None):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(SpanIds(trace_id, span_id), bool(int(flags, 16) & _SAMPLED))


def derive(parent: TraceContext | None, *names: str) -> SpanIds:
    """Return the ids of the span that `names` name below `parent`, the same each time; a trace of its own for None."""
    trace_id = _digest(_TRACE_HEX, "trace", *names) if parent is None else parent.ids.trace_id
    return SpanIds(trace_id, _digest(_SPAN_HEX, "span", trace_id, *names))


def _digest(length: int, *words: str) -> str:
    # 64 or 128 bits of SHA-256 that are all zeros will not be seen.
    return hashlib.sha256(_SEPARATOR.join(words).encode()).hexdigest()[:length]


_current: Final[ContextVar[TraceContext | None]] = ContextVar("trace_context", default=None)


def current() -> TraceContext | None:
    """Return what is being done here belongs to, as `within` says."""
    return _current.get()


def current_traceparent() -> str:
    """Return `current` as a `traceparent`, "" for none."""
    context = current()
    return "" if context is None else context.to_traceparent()


@contextmanager
def within(context: TraceContext | None) -> Iterator[None]:
    """Let everything that this task does in the block belong to a span."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
