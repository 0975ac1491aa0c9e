"""The span of a COMMAND envelope on the spoke, under ids that follow from the envelope itself.

What is started from it, perhaps days and restarts later, belongs below that span; the signed envelope, which is kept
with the agent, is all that is needed to know it. Only what was verified is told of: a stranger causes no span.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from common.clock import Clock
from common.connection import Admitted
from common.envelope import Claims
from common.errors import HubspokeError
from common.span_attributes import Attribute, of_envelope
from common.trace_context import TraceContext, derive, parse_traceparent
from common.tracing import Beginning, End, Ending, Tracing, refusals
from spoke.command_result import CommandResult
from spoke.telling import Telling


def beginning_of(claims: Claims) -> Beginning:
    """Return the span of an envelope, as far as its claims tell: its place in the trace that its sender named."""
    parent = parse_traceparent(claims.traceparent)
    ids = derive(parent, "envelope", claims.iss, claims.jti)
    return Beginning(f"process {claims.aud}", "consumer", parent=parent, ids=ids)


def context_below(tracing: Tracing, claims: Claims, instance: str) -> TraceContext | None:
    """Return what is continued by whatever an envelope asked for.

    That is the envelope's span, or of one that the spoke `instance` signed itself the span that had it do so.
    """
    if claims.iss == instance:
        return parse_traceparent(claims.traceparent)
    return tracing.begin(beginning_of(claims)).context


class EnvelopeSpans:
    """Tells of envelopes, by spans and by numbers."""

    def __init__(self, telling: Telling, clock: Clock) -> None:
        self._tracing = telling.tracing
        self._refused = telling.metrics.commands_refused
        self._clock = clock

    def answered(self, told: Ending, results: Sequence[CommandResult]) -> None:
        """Note what became of each command."""
        codes = [(result.command.id, None if result.detail is None else result.outcome) for result in results]
        told.error, told.notes = refusals(codes)
        for _, code in codes:
            if code is not None:
                self._refused.labels(code).inc()

    @contextmanager
    def processing(self, admitted: Admitted) -> Iterator[Ending]:
        """Let the block answer an envelope."""
        if not self._tracing.is_on:
            yield Ending()
            return
        beginning = _told_of(admitted)
        began_ms, span, ending = self._clock.now_ms(), self._tracing.begin(beginning), Ending()
        try:
            yield ending
        except HubspokeError as error:
            # It took no effect. One that was taken before has these ids, so this is another span.
            refused = self._tracing.begin(replace(beginning, ids=None, began_ms=began_ms))
            refused.end(End(error=error.code))
            raise
        span.end(End(ending.attributes, ending.error, ending.notes))


def _told_of(admitted: Admitted) -> Beginning:
    claims, commands = admitted.envelope.claims, admitted.envelope.commands
    kinds = [command.command for command in commands]
    agents = (getattr(command, "agent_id", command.id if command.command == "spawn" else "") for command in commands)
    about = of_envelope(claims.aud, "process", kinds, agents)
    sender = {Attribute.PEER: claims.iss, Attribute.MESSAGE_ID: claims.jti}
    return replace(beginning_of(claims), attributes={**about, **sender})
