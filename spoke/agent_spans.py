"""The spans of one attempt of an agent: how it was prepared, and how it ran, from its start to its end.

A run lasts longer than this process may. Its span is therefore recorded when it has ended, by whichever life of the
spoke sees that, with the time of the start that the record holds and under ids that follow from the signed envelope and
the number of the attempt; the agent was told the same ids in `TRACEPARENT` when it was started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from common.envelope import Claims, parse_payload, parse_type
from common.errors import EnvelopeRejected
from common.jose import parse_compact
from common.span_attributes import NOTHING, Attribute, Attributes, given
from common.trace_context import TraceContext, derive
from common.tracing import Beginning, End, Span, Tracing
from spoke.agent_record import AgentRecord
from spoke.envelope_spans import context_below
from spoke.queue_terms import Asked


class AttemptSpans:
    """What is told of one attempt; nothing is told of what was not ended."""

    def __init__(self, tracing: Tracing, run: Beginning, preparing: Span | None, started_ms: int | None) -> None:
        self._tracing = tracing
        self._run = run
        self._preparing = preparing
        self._started_ms = started_ms
        self.context = tracing.begin(run).context
        """What the agent itself continues."""

    def started(self, now_ms: int) -> None:
        """Note that its program runs; a time that was noted before stays."""
        if self._preparing is not None:
            self._preparing.end(End())
        self._preparing = None
        self._started_ms = self._started_ms or now_ms

    def ended(self, status: str, reason: str | None, told: Attributes) -> None:
        """Tell how it ended: `queued` when it is tried again."""
        attributes: Attributes = {Attribute.STATUS: status, **told}
        if self._preparing is not None:
            self._preparing.end(End(attributes, reason))
        elif self._started_ms is not None:
            run = replace(self._run, began_ms=self._started_ms)
            self._tracing.begin(run).end(End(attributes, reason))


class AgentSpans:
    """Makes them, for the agents of the spoke `instance`."""

    def __init__(self, tracing: Tracing, instance: str) -> None:
        self._tracing = tracing
        self._instance = instance

    def begin(self, record: AgentRecord, spawn: Claims, resume: Claims | None) -> AttemptSpans:
        """Return the spans of an attempt that begins; the claims are of the envelopes that asked for it, verified."""
        run = self._run(record, spawn, resume)
        preparing = replace(run, name=f"prepare_agent {record.fields.get('type', '')}", ids=None)
        return AttemptSpans(self._tracing, run, self._tracing.begin(preparing), None)

    def adopt(self, record: AgentRecord, asked: Asked) -> AttemptSpans | None:
        """Return the spans of an attempt that a former life of the spoke began; None where nobody listens.

        The envelopes were verified when it was started, so that they are only read here.
        """
        spawn = _read_claims(asked.spawn) if self._tracing.is_on else None
        if spawn is None:
            return None
        run = self._run(record, spawn, _read_claims(asked.resume))
        started_at = record.fields.get("started_at", "")
        return AttemptSpans(self._tracing, run, None, int(started_at) if started_at.isdecimal() else None)

    def _run(self, record: AgentRecord, spawn: Claims, resume: Claims | None) -> Beginning:
        origin = context_below(self._tracing, spawn, self._instance)
        parent: TraceContext | None = origin
        links: Sequence[TraceContext] = ()
        if resume is not None:
            parent, links = context_below(self._tracing, resume, self._instance), () if origin is None else (origin,)
        ref, kind = record.ref, record.fields.get("type", "")
        ids = derive(parent, "run", ref.tenant, ref.agent_id, str(record.attempt))
        about = _about(record) if self._tracing.is_on else NOTHING
        return Beginning(f"invoke_agent {kind}", "internal", about, parent, links, ids)


def _about(record: AgentRecord) -> Attributes:
    return {
        Attribute.GEN_AI_OPERATION: "invoke_agent",
        Attribute.AGENT_ID: record.ref.agent_id,
        Attribute.AGENT_TYPE: record.fields.get("type", ""),
        Attribute.ATTEMPT: record.attempt,
        Attribute.TASK_ID: record.fields.get("task", ""),
        Attribute.PEER: record.ref.tenant.rpartition("_")[0] or record.ref.tenant,
    }


def told_of_run(exit_code: int | None, result: Mapping[str, Any]) -> Attributes:
    """Return what is told of a run's end beside its state."""
    usage = result["usage"] or {}
    return given(
        {
            Attribute.EXIT_CODE: exit_code,
            Attribute.INPUT_TOKENS: usage.get("inputTokens"),
            Attribute.OUTPUT_TOKENS: usage.get("outputTokens"),
        }
    )


def _read_claims(raw: bytes) -> Claims | None:
    try:
        jws = parse_compact(raw)
        return parse_payload(parse_type(jws), jws.payload)[0]
    except EnvelopeRejected:
        return None
