"""Commands out in one envelope and its reply back, told as spans; an envelope has one `traceparent`.

Its commands may have been asked for in several traces. Tracing watches how they were gathered and changes nothing about
it. Where all of them belong to one trace the envelope goes on in it. Else it begins a trace of its own, as
OpenTelemetry's conventions for messaging have it for a batch: its span is linked to every span that asked for a
command, and each of these traces gets a span of the sending, linked to the envelope's, so that the way leads on from
both ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from common.envelope import EnvelopeType, Items, ReplyBody
from common.errors import HubspokeError
from common.peers import Peer
from common.problem_codes import label_of
from common.span_attributes import Attribute, Attributes, of_envelope
from common.trace_context import parse_traceparent, within
from common.tracing import INTERNAL_ERROR, Beginning, End, Span, refusals
from hub.settlement import Queued
from hub.telling import Telling

_LIST: Final = "commands"


class Sends(Protocol):
    """What signs and sends: `common.exchange.Exchange`."""

    async def send(self, peer: Peer, typ: EnvelopeType, items: Items) -> ReplyBody:
        """Return the reply; raises `HubspokeError`."""
        ...


class Delivery:
    """Sends commands to spokes by `exchange`."""

    def __init__(self, exchange: Sends, telling: Telling) -> None:
        self._exchange = exchange
        self._tracing = telling.tracing
        self._refused = telling.metrics.commands_refused

    async def send(self, peer: Peer, commands: Sequence[Queued]) -> ReplyBody:
        """Return the reply to an envelope of these commands; raises what `Exchange.send` does."""
        envelope, *beside = self._begin(peer, commands)
        end = End(error=INTERNAL_ERROR)
        try:
            with within(envelope.context):
                reply = await self._exchange.send(
                    peer, EnvelopeType.COMMAND, Items(_LIST, [command.encoded for command in commands])
                )
            end = self._told(reply)
            return reply
        except HubspokeError as error:
            end = End(error=error.code)
            raise
        finally:
            for span in (envelope, *beside):
                span.end(end)

    def _begin(self, peer: Peer, commands: Sequence[Queued]) -> list[Span]:
        """Begin the span of the envelope, and of a mixed one those in the traces that asked for its commands."""
        asked_by = dict.fromkeys(command.trace for command in commands)
        origins = [context for trace in asked_by if (context := parse_traceparent(trace)) is not None]
        name, about = f"send {peer.instance}", _about(peer, commands) if self._tracing.is_on else {}
        if len(asked_by) == 1:
            return [self._tracing.begin(Beginning(name, "producer", about, origins[0] if origins else None))]
        envelope = self._tracing.begin(Beginning(name, "producer", about, links=origins))
        links = () if envelope.context is None else (envelope.context,)
        return [envelope, *(self._tracing.begin(Beginning(name, "producer", about, each, links)) for each in origins)]

    def _told(self, reply: ReplyBody) -> End:
        results = reply.results
        codes = [(result.id, None if result.error is None else label_of(result.error.code)) for result in results]
        for _, code in codes:
            if code is not None:
                self._refused.labels(code).inc()
        error, notes = refusals(codes)
        return End({Attribute.MESSAGE_ID: reply.re}, error, notes)


def _about(peer: Peer, commands: Sequence[Queued]) -> Attributes:
    kinds = [command.kind for command in commands]
    return of_envelope(peer.instance, "send", kinds, (command.agent_id for command in commands))
